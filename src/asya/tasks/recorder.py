"""The batch of events on their way to the store: bounded, and late by 50 ms at most.

`emit` is called by sidecars on their hot path, so it only appends. Events are grouped by envelope,
so that the end of one can take its own events along into the transaction that makes it terminal.
What does not fit is dropped and counted: the end of an envelope never comes this way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

from asya.errors import StoreError
from asya.tasks.rules import Recorded
from asya.tasks.store.base import Store

DELAY_S: Final = 0.05
BATCH: Final = 100
"""Events that are written at once without waiting for the delay."""

PENDING_MAX: Final = 10_000
"""Events that may wait for the store; more are dropped."""

PAYLOADS_MAX_BYTES: Final = 8 * 1024 * 1024
"""Payloads that may wait for the store with their events; more are dropped, the events stay. Ends
of envelopes wait behind a batch that is being written, so it must not take long."""

PAYLOADS_PER_S: Final = 2 * 1024 * 1024
"""Bytes of payloads that are stored per second, on average. Written by the thread that stores ends:
without a bound, hops with payloads of 60 KB would become half as fast."""

PAYLOADS_BURST: Final = 4 * 1024 * 1024
"""Bytes that may come at once after a quiet time."""

log = logging.getLogger(__name__)


class Recorder:
    """Collects notes and ids that were published, and writes them in batches.

    Args:
        store: Where to.
        on_recorded: Called with the ids of envelopes that have new events, after the commit.

    Attributes:
        dropped: Events that were dropped.
        payloads_dropped: Payloads that were dropped.
    """

    def __init__(self, store: Store, on_recorded: Callable[[Iterable[str]], None]) -> None:
        self._store = store
        self._on_recorded = on_recorded
        self._notes: dict[str, list[Recorded]] = {}
        self._count = 0
        self._published: list[str] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._payload_bytes = 0
        self._payload_room: float = PAYLOADS_BURST
        self._payload_room_s = time.monotonic()
        self.dropped = 0
        self.payloads_dropped = 0

    def start(self) -> None:
        """Begin to write; what was added before is kept until now."""
        self._loop = asyncio.get_running_loop()
        self._arm()

    def add(self, event: Recorded) -> None:
        """Keep one event for the next batch."""
        if self._count >= PENDING_MAX:
            self.dropped += 1
            return
        if event.seen:
            self._admit_payloads(event)
        self._notes.setdefault(event.event.id, []).append(event)
        self._count += 1
        self._arm()

    def _admit_payloads(self, event: Recorded) -> None:
        """Let the payloads of a note go where they are too many; the note itself stays."""
        now_s = time.monotonic()
        room = self._payload_room + (now_s - self._payload_room_s) * PAYLOADS_PER_S
        self._payload_room = min(room, PAYLOADS_BURST)
        self._payload_room_s = now_s
        held = _payload_bytes(event)
        stored = sum(min(len(seen.payload), seen.keeping.max_bytes) for seen in event.seen)
        if self._payload_bytes + held > PAYLOADS_MAX_BYTES or stored > self._payload_room:
            self.payloads_dropped += len(event.seen)
            event.seen = ()
        else:
            self._payload_bytes += held
            self._payload_room -= stored

    def add_published(self, id: str) -> None:
        """Take note that an envelope is in its first queue."""
        self._published.append(id)
        self._arm()

    def pop(self, id: str) -> list[Recorded]:
        """Hand the notes of one envelope over to somebody who stores them."""
        notes = self._notes.pop(id, [])
        self._count -= len(notes)
        self._payload_bytes -= sum(map(_payload_bytes, notes))
        return notes

    async def flush(self) -> None:
        """Write now what was added before this call."""
        for _ in range(2):  # what is being written, and what waits behind it
            if self._writing is None:
                self._begin()
            if self._writing is not None:
                await asyncio.wait([self._writing])

    def _arm(self) -> None:
        if self._loop is None or self._writing is not None:
            return
        if self._count >= BATCH:
            self._begin()
        elif self._timer is None and (self._count or self._published):
            self._timer = self._loop.call_later(DELAY_S, self._begin)

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wanted = self._count or self._published
        if wanted and self._writing is None and self._loop is not None:
            self._writing = self._loop.create_task(self._write())

    async def _write(self) -> None:
        groups, self._notes, self._count = self._notes, {}, 0
        published, self._published = self._published, []
        try:
            # The notes go first, with no await before them: an end that comes now, with later
            # notes of the same envelope, then stands behind them in the store's queue.
            if groups:
                await self._record([event for group in groups.values() for event in group])
            if published:
                await self._mark(published)
        finally:
            self._writing = None
            self._arm()

    async def _mark(self, ids: list[str]) -> None:
        try:
            await self._store.tasks.mark_published(ids)
        except StoreError as error:  # they are published once more after a restart: harmless
            log.warning("the task store does not take marks of publication: %s", error)

    async def _record(self, notes: list[Recorded]) -> None:
        try:
            changed = await self._store.events.record(notes)
        except StoreError as error:
            self.dropped += len(notes)
            log.warning("%d events were not stored: %s", len(notes), error)
        else:
            self._on_recorded(changed)
        finally:
            self._payload_bytes -= sum(map(_payload_bytes, notes))


def _payload_bytes(event: Recorded) -> int:
    return sum(len(seen.payload) for seen in event.seen)
