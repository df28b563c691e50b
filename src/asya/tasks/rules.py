"""What a task may become: pure, shared by all stores.

A status never goes backward and a terminal one is final; progress never falls; the route shown is
that of the newest hop. Each function takes a row as it is stored, changes it in place where
something changed, and says which event rows that makes. Events are numbered per task, without
gaps, in the order in which they were stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from asya.envelope import END_ACTORS, TERMINAL_PHASES, ErrorInfo, Route
from asya.events import Content, Finished, Forked, HopEnded, HopSent, HopStarted
from asya.tasks.store.payloads import Seen

PROGRESS_OPEN_MAX = 99
"""Percent that an envelope shows at most while it has not succeeded."""


class TaskRow(msgspec.Struct, kw_only=True):
    """A task as it is stored. `key` is 0 until it is; `error` and `headers` are JSON objects."""

    id: str
    root: str
    route: Route
    created_at: str
    updated_at: str
    key: int = 0
    parent_id: str | None = None
    flow: str | None = None
    status: str = "pending"
    n: int = 0
    attempt: int = 1
    progress: int = 0
    seq: int = 0
    digest: bytes | None = None
    headers: bytes = b"{}"
    error: bytes | None = None
    deadline_at: str | None = None
    not_before: str | None = None
    stuck_at: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the status is terminal."""
        return self.status in TERMINAL_PHASES


class EventRow(msgspec.Struct, frozen=True):
    """One event of a task: `kind` is `status`, `started`, `ended`, `sent` or `stuck`."""

    seq: int
    kind: str
    data: bytes


class Failure(msgspec.Struct, omit_defaults=True):
    """Why a task, or one attempt, failed."""

    type: str
    message: str = ""
    traceback: str | None = None
    reason: str | None = None


class StatusData(msgspec.Struct, omit_defaults=True):
    """Data of a `status` event. The failure comes without its traceback."""

    status: str
    at: str
    progress: int = 0
    error: Failure | None = None


class StuckData(msgspec.Struct, omit_defaults=True):
    """Data of a `stuck` event: it is `queued` or `running` at an actor since a time.

    `usual_s` is the 99th percentile of that, in seconds.
    """

    at: str
    actor: str
    state: str
    since: str
    usual_s: float


class HopData(msgspec.Struct, omit_defaults=True):
    """Data of a `started`, `ended` or `sent` event."""

    n: int
    actor: str
    attempt: int
    at: str
    state: str
    progress: int = 0
    enqueued_at: str | None = None
    retry_at: str | None = None
    replica: int | None = None
    error: Failure | None = None
    body: Content | None = None
    attempts_max: int | None = None


class Note(msgspec.Struct, kw_only=True):
    """An event, brought into the form in which it is recorded. `hop` is None for a fork.

    `seen` are payloads that came along and are to be kept.
    """

    id: str
    at: str
    route: Route
    root: str | None = None
    created_at: str | None = None
    parent_id: str | None = None
    flow: str | None = None
    deadline_at: str | None = None
    hop: HopData | None = None
    seen: Sequence[Seen] = ()
    kind: Literal["forked", "started", "ended", "sent"]


_encode = msgspec.json.Encoder().encode


def note_of(event: HopStarted | HopEnded | HopSent | Forked) -> Note:
    """The note that an event makes."""
    if isinstance(event, HopStarted):
        return Note(
            id=event.id,
            at=event.at,
            route=event.route,
            root=event.root,
            created_at=event.enqueued_at or event.at,
            parent_id=event.parent_id,
            flow=event.flow,
            kind="started",
            hop=HopData(
                event.n,
                event.actor,
                event.attempt,
                event.at,
                "running",
                progress=percent(event.n, 1 + len(event.route.next)),
                enqueued_at=event.enqueued_at,
                replica=event.replica,
                body=event.body,
            ),
        )
    if isinstance(event, HopSent):
        return Note(
            id=event.id,
            at=event.at,
            route=event.route,
            kind="sent",
            hop=HopData(event.n, event.actor, event.attempt, event.at, "sent"),
        )
    if isinstance(event, Forked):
        return Note(
            id=event.id,
            at=event.at,
            route=event.route,
            root=event.root,
            created_at=event.at,
            parent_id=event.parent_id,
            flow=event.flow,
            deadline_at=event.deadline_at,
            kind="forked",
        )
    return Note(
        id=event.id,
        at=event.at,
        route=event.route,
        kind="ended",
        hop=HopData(
            event.n,
            event.actor,
            event.attempt,
            event.at,
            event.state,
            progress=_progress_after(event),
            retry_at=event.retry_at,
            error=failure_of(event.error, None),
            body=event.body,
            attempts_max=event.attempts_max,
        ),
    )


def percent(done: int, to_go: int) -> int:
    """Hops done in percent of all hops known by now, at most 99."""
    return min(PROGRESS_OPEN_MAX, 100 * done // max(1, done + to_go))


def _progress_after(event: HopEnded) -> int:
    if event.state != "succeeded":
        return 0
    moved = event.route.curr != event.actor
    to_go = len(event.route.next) + (1 if moved and not event.route.curr.startswith("x-") else 0)
    return percent(event.n + 1, to_go)


def failure_of(error: ErrorInfo | None, reason: str | None) -> Failure | None:
    """What is kept of an error, or of a reason alone."""
    if error is not None:
        return Failure(error.type, error.message, error.traceback or None, reason)
    return Failure(reason, reason=reason) if reason else None


def advance(row: TaskRow | None, notes: Sequence[Note], *, canceled: bool) -> Advance | None:
    """A task after events, or None when nothing is to be stored.

    Args:
        row: The task as stored, or None for an id that is not known.
        notes: Events of this id, oldest first.
        canceled: Whether the root of a task that is not known was canceled.
    """
    events: list[EventRow] = []
    if row is None:
        row = _first_row(notes)
        if row is None:
            return None
        _set_status(row, "pending", row.created_at, events)
        if canceled:
            _set_status(row, "canceled", row.updated_at, events)
    for note in notes:
        if note.hop is None:
            continue
        if note.kind == "sent":
            row.seq += 1
            events.append(EventRow(row.seq, note.kind, _encode(note.hop)))
        else:
            _take_hop(row, note, note.hop, events)
    return Advance(row, events) if events else None


class Advance(msgspec.Struct):
    """A changed row and the event rows to append."""

    row: TaskRow
    events: list[EventRow]


def _first_row(notes: Sequence[Note]) -> TaskRow | None:
    for note in notes:
        if note.kind in {
            "forked",
            "started",
        }:  # an `ended` does not tell the root: the end itself will
            return TaskRow(
                id=note.id,
                root=note.root or note.id,
                route=note.route,
                created_at=note.created_at or note.at,
                updated_at=note.at,
                parent_id=note.parent_id,
                flow=note.flow,
                deadline_at=note.deadline_at,
            )
    return None


def _take_hop(row: TaskRow, note: Note, hop: HopData, events: list[EventRow]) -> None:
    if not row.ended:
        row.stuck_at = None
        if row.status == "pending":
            _set_status(row, "running", note.at, events)
        if (hop.n, hop.attempt) >= (row.n, row.attempt):
            row.n, row.attempt, row.route = hop.n, hop.attempt, _shown(note.route, hop)
        row.progress = max(row.progress, hop.progress)
        row.updated_at = max(row.updated_at, note.at)
    row.seq += 1
    data = msgspec.structs.replace(hop, progress=row.progress)
    events.append(EventRow(row.seq, note.kind, _encode(data)))


def _shown(route: Route, hop: HopData) -> Route:
    """The route after a hop. One that failed stays where it failed: its way went no further."""
    if hop.state == "failed" and route.curr in END_ACTORS:
        return Route(route.prev, hop.actor, route.next)
    return route


def _set_status(row: TaskRow, status: str, at: str, events: list[EventRow]) -> None:
    row.status = status
    row.stuck_at = None
    row.updated_at = max(row.updated_at, at)
    row.seq += 1
    error = None
    if row.error is not None:
        error = msgspec.json.decode(row.error, type=Failure)
        error.traceback = None
    events.append(EventRow(row.seq, "status", _encode(StatusData(status, at, row.progress, error))))


def admitted(row: TaskRow) -> list[EventRow]:
    """The first event of a new task."""
    events: list[EventRow] = []
    _set_status(row, row.status, row.created_at, events)
    return events


def finished(row: TaskRow | None, end: Finished) -> Advance | None:
    """A task at its end, or None when it has ended before."""
    events: list[EventRow] = []
    if row is None:
        row = TaskRow(
            id=end.id,
            root=end.root,
            route=end.route,
            created_at=end.created_at or end.at,
            updated_at=end.at,
            parent_id=end.parent_id,
            flow=end.flow,
        )
    elif row.ended:
        return None
    failed_there = end.phase == "failed" and row.route.prev == end.route.prev
    if not failed_there or row.route.curr in END_ACTORS:
        row.route = end.route
    row.n, row.attempt = max(row.n, end.n), end.attempt
    row.deadline_at = end.deadline_at or row.deadline_at
    if end.headers:
        row.headers = _encode(end.headers)
    if end.phase == "succeeded":
        row.progress = 100
    reason = end.reason or ("Failed" if end.phase == "failed" else None)
    failure = None if end.phase == "succeeded" else failure_of(end.error, reason)
    row.error = None if failure is None else _encode(failure)
    _set_status(row, end.phase, end.at, events)
    return Advance(row, events)


def canceled(row: TaskRow, at: str) -> Advance | None:
    """A task after a cancel, or None when it has ended before."""
    if row.ended:
        return None
    events: list[EventRow] = []
    _set_status(row, "canceled", at, events)
    return Advance(row, events)


def stuck(row: TaskRow, seq: int, data: StuckData) -> Advance | None:
    """A task that stands still, or None when it has moved since event `seq`, or is marked."""
    if row.ended or row.seq != seq or row.stuck_at is not None:
        return None
    row.stuck_at = data.at
    row.seq += 1
    return Advance(row, [EventRow(row.seq, "stuck", _encode(data))])
