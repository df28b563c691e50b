"""Runs an actor's last envelope again, through code that has just been loaded.

It is a new envelope with an id of its own, the old id as `parent_id`, the header `x-asya-replay`, and
the payload and the rest of the route as the actor got them. The user gets one line about its end. Only
the last message of each actor is kept, in memory.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final

import msgspec

from asya.clock import Clock, to_rfc3339
from asya.envelope import (
    BLOB_HEADER,
    FLOW_HEADER,
    SYSTEM_PREFIX,
    Envelope,
    Route,
    Status,
    decode,
    raw_json,
)
from asya.errors import AsyaError
from asya.local.notices import NothingToReplay, Replayed, Tell
from asya.tasks.rules import Failure

if TYPE_CHECKING:
    from asya.tasks.mesh import MeshClient
    from asya.tasks.service import TaskService
    from asya.tasks.store.base import Detail

log = logging.getLogger(__name__)

REPLAY_HEADER: Final = "x-asya-replay"

LAST_MAX: Final = 1024 * 1024
"""Bytes of a message that is kept. Payloads above `blobThreshold` are blobs and do not count."""

SHOWN_MAX: Final = 120
"""Characters of a result that are shown."""

WAIT_S: Final = 60.0
PAUSE_S: Final = 1.0
"""The end of a replay is awaited for this long at a time, with a pause in between."""

_KEPT_HEADERS: Final = frozenset({FLOW_HEADER, BLOB_HEADER})
_decode_failure: Final = msgspec.json.Decoder(Failure).decode


def again(last: Envelope, *, id: str, now: datetime) -> Envelope:
    """The envelope that repeats `last` at the actor that got it."""
    at = to_rfc3339(now)
    actor = last.route.curr
    headers = {
        name: value
        for name, value in last.headers.items()
        if name in _KEPT_HEADERS or not name.lower().startswith(SYSTEM_PREFIX)
    }
    return Envelope(
        id,
        Route([], actor, list(last.route.next)),
        last.payload,
        parent_id=last.id,
        headers=headers | {REPLAY_HEADER: raw_json(True)},
        status=Status(actor=actor, created_at=at, updated_at=at),
        extra=dict(last.extra),
    )


class Replay:
    """The last envelope of every actor, and what replays it."""

    def __init__(self, service: TaskService, mesh: MeshClient, clock: Clock, tell: Tell) -> None:
        self._service = service
        self._mesh = mesh
        self._clock = clock
        self._tell = tell
        self._last: dict[str, bytes] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()

    def keeper(self, actor: str) -> Callable[[bytes], None]:
        """Takes every message of an actor, and keeps the last one."""

        def keep(body: bytes) -> None:
            if len(body) <= LAST_MAX:
                self._last[actor] = body
            else:
                self._last.pop(actor, None)

        return keep

    def run(self, actor: str) -> None:
        """Replay the actor's last envelope, once the replay before it has ended."""
        if actor not in self._last:
            self._tell(NothingToReplay(actor))
        elif actor in self._running:
            self._again.add(actor)
        else:
            task = asyncio.get_running_loop().create_task(self._run(actor))
            self._running[actor] = task
            task.add_done_callback(lambda _: self._ended(actor))

    def _ended(self, actor: str) -> None:
        del self._running[actor]
        if actor in self._again:
            self._again.discard(actor)
            self.run(actor)

    async def stop(self) -> None:
        """Give up waiting for the ends of replays."""
        self._again.clear()
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _run(self, actor: str) -> None:
        last = decode(self._last[actor])
        envelope = again(last, id=str(uuid.uuid4()), now=self._clock.now())
        try:
            with self._service.ending(envelope.id) as ending:
                await self._mesh.publish(envelope, dedup_id=f"{envelope.id}:0")
                while not await ending.within(WAIT_S):
                    await asyncio.sleep(PAUSE_S)
            text = _told(await self._service.get(envelope.id))
        except AsyaError as error:
            text = f"not known how it ended: {error}"
        self._tell(Replayed(actor, last.id, envelope.id, text))


def _told(detail: Detail) -> str:
    row = detail.row
    if row.status == "succeeded":
        return f"succeeded: {_short(str(detail.result or b'null', 'utf-8', 'replace'))}"
    if row.error is None:
        return row.status
    failure = _decode_failure(row.error)
    return f"{row.status}: {failure.type}: {_short(failure.message)}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_MAX else f"{text[: SHOWN_MAX - 1]}…"
