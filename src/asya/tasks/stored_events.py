"""Events of tasks as they are stored: pure, shared by all stores.

The row of a hop's event has the fields of the event as it was emitted, less four kinds of them. What
the task's row has (`id`, `root`, `parent_id`, `flow`) and the route, which may name a thousand
actors, would be stored again with each event. `traceparent` is not shown to anybody. Payloads are
masked, capped, and kept apart. The arguments of an error are the user's data, and nothing masks
them.

Rows that schema 5 wrote have `state` and `progress` besides. They are read by the same decoders,
so these must go on to ignore fields that they do not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from asya.envelope import ErrorInfo
from asya.events import Content, Forked, HopEnded, HopSent, HopStarted

TaskEvent = HopStarted | HopEnded | HopSent | Forked
"""What changes a task, and may be dropped under load."""

HopEvent = HopStarted | HopEnded | HopSent


class StoredStart(msgspec.Struct, omit_defaults=True, gc=False):
    """What is stored of `HopStarted`."""

    n: int
    actor: str
    attempt: int
    at: str
    enqueued_at: str = ""
    replica: int | None = None
    body: Content | None = None


class StoredEnd(msgspec.Struct, omit_defaults=True, gc=False):
    """What is stored of `HopEnded`. The error comes without its arguments and classes."""

    n: int
    actor: str
    attempt: int
    at: str
    state: str
    error: ErrorInfo | None = None
    retry_at: str | None = None
    body: Content | None = None
    attempts_max: int | None = None


class StoredSent(msgspec.Struct, omit_defaults=True, gc=False):
    """What is stored of `HopSent`."""

    n: int
    actor: str
    attempt: int
    at: str


StoredHop = StoredStart | StoredEnd | StoredSent

_encode: Final = msgspec.json.Encoder().encode
_decoders: Final[Mapping[str, Callable[[bytes], StoredHop]]] = {
    "started": msgspec.json.Decoder(StoredStart).decode,
    "ended": msgspec.json.Decoder(StoredEnd).decode,
    "sent": msgspec.json.Decoder(StoredSent).decode,
}


class EventRow(msgspec.Struct, frozen=True, gc=False):
    """One event of a task.

    Attributes:
        seq: Its number, from 1, without gaps.
        kind: `status`, `started`, `ended`, `sent` or `stuck`.
        data: JSON; of a hop's event, a `StoredHop`.
        progress: Percent of the task after it; None of one that an older version stored.
    """

    seq: int
    kind: str
    data: bytes
    progress: int | None = None


def hop_row(seq: int, event: HopEvent, progress: int) -> EventRow:
    """The row of a hop's event; `progress` is the task's after it, in percent."""
    n, actor, attempt, at = event.n, event.actor, event.attempt, event.at
    if isinstance(event, HopStarted):
        start = StoredStart(n, actor, attempt, at, event.enqueued_at, event.replica, event.body)
        return EventRow(seq, "started", _encode(start), progress)
    if isinstance(event, HopSent):
        return EventRow(seq, "sent", _encode(StoredSent(n, actor, attempt, at)), progress)
    error = event.error
    if error is not None:
        error = ErrorInfo(error.type, error.message, traceback=error.traceback)
    end = StoredEnd(
        n, actor, attempt, at, event.state, error, event.retry_at, event.body, event.attempts_max
    )
    return EventRow(seq, "ended", _encode(end), progress)


def stored_hop(row: EventRow) -> StoredHop:
    """What is known of a hop's event, of a row whose kind is `started`, `ended` or `sent`."""
    return _decoders[row.kind](row.data)


def progress_of(row: EventRow) -> int:
    """Percent of the task after the event of a hop."""
    if row.progress is not None:
        return row.progress
    older: dict[str, Any] = msgspec.json.decode(row.data)
    return int(older.get("progress", 0))
