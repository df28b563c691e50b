"""Events of tasks as they are stored: pure, shared by all stores.

What sidecars emit is stored as it was emitted, without payloads: those are masked, capped, and kept
apart. Rows of older data folders have a form of their own; `hop_event` reads both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from asya.events import Forked, HopEnded, HopSent, HopStarted

TaskEvent = HopStarted | HopEnded | HopSent | Forked
"""What changes a task, and may be dropped under load."""

HopEvent = HopStarted | HopEnded | HopSent

_KINDS: Final[dict[type, str]] = {HopStarted: "started", HopEnded: "ended", HopSent: "sent"}
_OLD_TYPES: Final[dict[str, type[HopEvent]]] = {
    "started": HopStarted,
    "ended": HopEnded,
    "sent": HopSent,
}
_encode: Final = msgspec.json.Encoder().encode
_decode: Final[Callable[[bytes], HopEvent]] = msgspec.json.Decoder(HopEvent).decode


class EventRow(msgspec.Struct, frozen=True):
    """One event of a task.

    Attributes:
        seq: Its number, from 1, without gaps.
        kind: `status`, `started`, `ended`, `sent` or `stuck`.
        data: JSON; of a hop's event, the event as it was emitted.
        progress: Percent of the task after it; None of one that an older version stored.
    """

    seq: int
    kind: str
    data: bytes
    progress: int | None = None


def hop_row(seq: int, event: HopEvent, progress: int) -> EventRow:
    """The row of a hop's event, without the payloads that came along."""
    bare = event
    if isinstance(event, HopStarted):
        if event.payload is not None:
            bare = msgspec.structs.replace(event, payload=None)
    elif isinstance(event, HopEnded) and not (event.payload is event.payload_in is None):
        bare = msgspec.structs.replace(event, payload=None, payload_in=None)
    return EventRow(seq, _KINDS[type(event)], _encode(bare), progress)


def hop_event(row: EventRow) -> HopEvent:
    """The event of a row whose kind is `started`, `ended` or `sent`.

    Of a row that an older version stored, id, root and route are empty: the task's row has them.
    """
    if row.progress is not None:
        return _decode(row.data)
    kind = _OLD_TYPES[row.kind]
    known: dict[str, Any] = {"id": "", "root": "", "enqueued_at": ""}
    known |= {"route": {"prev": [], "curr": "", "next": []}, "type": kind.__struct_config__.tag}
    return msgspec.convert(known | msgspec.json.decode(row.data), kind)


def progress_of(row: EventRow) -> int:
    """Percent of the task after the event of a hop."""
    if row.progress is not None:
        return row.progress
    progress: int = msgspec.json.decode(row.data).get("progress", 0)
    return progress
