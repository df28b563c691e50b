"""Stored first, then published: the way of a new envelope into its first queue.

A task and its envelope are stored together. The mark that it was published follows later, so a
crash in between leaves an envelope that nobody published. `run_once` publishes those.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Final

from asya.clock import Clock, from_rfc3339, to_rfc3339
from asya.envelope import Envelope, decode
from asya.errors import (
    MessageTooLarge,
    QueueMissing,
    StoreError,
    TransportError,
    TransportUnavailable,
)
from asya.tasks.admission import Gate
from asya.tasks.mesh import MeshClient
from asya.tasks.recorder import Recorder
from asya.tasks.refusals import RETRY_AFTER_S, Kind, Refusal
from asya.tasks.store.base import Outgoing, Store

EVERY_S: Final = 5.0
"""Seconds between two rounds of `run_once`."""

AGE_S: Final = 30.0
"""How long an envelope may be stored and not marked as published before it is published again."""

log = logging.getLogger(__name__)


class Outbox:
    """Publishes stored envelopes.

    Args:
        store: Where tasks live.
        mesh: Where envelopes go.
        clock: The time of day.
        recorder: Marks what was published.
        gate: Counts what was published into its queue.
    """

    def __init__(
        self, store: Store, mesh: MeshClient, clock: Clock, recorder: Recorder, gate: Gate
    ) -> None:
        self._store = store
        self._mesh = mesh
        self._clock = clock
        self._recorder = recorder
        self._gate = gate
        self._took_over_at: str | None = None
        self._caught_up = False
        self.woken = asyncio.Event()
        self._admitting: dict[str, asyncio.Future[None]] = {}

    @contextlib.asynccontextmanager
    async def alone(self, mark: str) -> AsyncIterator[None]:
        """One admission of an id or a key at a time.

        A second one must not be answered before the first is in its queue.
        """
        while mark in self._admitting:
            await asyncio.wait([self._admitting[mark]])
        mine = self._admitting[mark] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            del self._admitting[mark]
            mine.set_result(None)

    async def publish(
        self, envelope: Envelope, not_before: str | None, *, new: bool, keyed: bool
    ) -> None:
        """Publish a stored envelope, and forget a `new` task again if that fails.

        A task that was there before stays: it may have been answered and not marked yet. If the
        broker's answer was lost, the envelope may be in the queue all the same. Its events then
        make the task anew, and the same id again is recognised by broker and store. A key would be
        forgotten with its task, so a `keyed` task stays, and `run_once` publishes it.

        Raises:
            Refusal: The broker did not take it.
        """
        begin = None if not_before is None else from_rfc3339(not_before)
        try:
            await self._mesh.publish(envelope, dedup_id=f"{envelope.id}:0", not_before=begin)
        except TransportError as error:
            if new and not (keyed and isinstance(error, TransportUnavailable)):
                await self._discard(envelope.id)
            raise publish_refusal(envelope, error) from error
        self.published(envelope, waits=not_before is not None)

    def published(self, envelope: Envelope, *, waits: bool = False) -> None:
        """An envelope was confirmed; if it `waits` for its time, it is not in its queue yet."""
        self._recorder.add_published(envelope.id)
        if not waits:
            self._gate.admitted(envelope.route.curr)

    async def run_once(self, now: datetime) -> float:
        """Publish what has been stored for longer than `AGE_S` and is not marked.

        Until one run succeeds, all that was stored before the first run is taken, however young:
        a process that died left it behind. See `asya.chores.Chore`.
        """
        if self._took_over_at is None:
            # Stays as it is when a run fails: what is admitted since is being published already.
            self._took_over_at = to_rfc3339(now)
        aged = to_rfc3339(now - timedelta(seconds=AGE_S))
        await self._publish_leftovers(aged if self._caught_up else max(aged, self._took_over_at))
        self._caught_up = True
        return EVERY_S

    async def _publish_leftovers(self, created_before: str) -> None:
        after = 0
        while page := await self._store.tasks.outbox(after=after):
            after = page[-1].key
            for outgoing in page:
                await self._publish_leftover(outgoing, created_before)

    async def _publish_leftover(self, outgoing: Outgoing, created_before: str) -> None:
        if outgoing.id in self._admitting:
            return
        envelope = decode(outgoing.body)
        if envelope.status.created_at > created_before:
            return
        begin = None if outgoing.not_before is None else from_rfc3339(outgoing.not_before)
        try:
            await self._mesh.publish(envelope, dedup_id=f"{envelope.id}:0", not_before=begin)
        except TransportError as error:
            log.warning("not published yet: %s", error, extra={"envelope": envelope.id})
        else:
            self._recorder.add_published(envelope.id)

    async def _discard(self, id: str) -> None:
        try:
            await self._store.tasks.discard(id)
        except StoreError as error:  # `run_once` publishes it then: the client may see it run
            log.warning("the task could not be discarded: %s", error, extra={"envelope": id})


def publish_refusal(envelope: Envelope, error: TransportError, *, id: str | None = None) -> Refusal:
    """The refusal of an envelope that its broker did not take; `id` if it is about another one."""
    about = id or envelope.id
    if isinstance(error, MessageTooLarge):
        return Refusal(Kind.TOO_LARGE, str(error), id=about)
    if isinstance(error, QueueMissing):
        text = f"the actor {envelope.route.curr!r} has no queue"
        return Refusal(Kind.UNKNOWN_ACTOR, text, id=about)
    return Refusal(Kind.UNAVAILABLE, str(error), id=about, retry_after_s=RETRY_AFTER_S)
