"""What a task may become: pure, shared by all stores.

A status never goes backward and a terminal one is final; progress never falls; the route shown is
that of the newest hop. Each function takes a row as it is stored, changes it in place where
something changed, and says which event rows that makes. Events are numbered per task, without
gaps, in the order in which they were stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from asya.envelope import END_ACTORS, TERMINAL_PHASES, ErrorInfo, Route
from asya.events import Finished, Forked, HopEnded, HopSent, HopStarted
from asya.tasks.store.payloads import Seen
from asya.tasks.stored_events import EventRow, HopEvent, TaskEvent, hop_row

PROGRESS_OPEN_MAX: Final = 99
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


class Recorded(msgspec.Struct):
    """An event on its way to the store, with the payloads that came along and are to be kept."""

    event: TaskEvent
    seen: Sequence[Seen] = ()


_encode: Final = msgspec.json.Encoder().encode


def percent(done: int, to_go: int) -> int:
    """Hops done in percent of all hops known by now, at most 99."""
    return min(PROGRESS_OPEN_MAX, 100 * done // max(1, done + to_go))


def progress_after(event: HopEvent) -> int:
    """Percent that a task has at least after an event of a hop."""
    if isinstance(event, HopStarted):
        return percent(event.n, 1 + len(event.route.next))
    if isinstance(event, HopSent) or event.state != "succeeded":
        return 0
    moved = event.route.curr != event.actor
    to_go = len(event.route.next) + (1 if moved and not event.route.curr.startswith("x-") else 0)
    return percent(event.n + 1, to_go)


def failure_of(error: ErrorInfo | None, reason: str | None) -> Failure | None:
    """What is kept of an error, or of a reason alone."""
    if error is not None:
        return Failure(error.type, error.message, error.traceback or None, reason)
    return Failure(reason, reason=reason) if reason else None


def advance(row: TaskRow | None, told: Sequence[TaskEvent], *, canceled: bool) -> Advance | None:
    """A task after events, or None when nothing is to be stored.

    Args:
        row: The task as stored, or None for an id that is not known.
        told: Events of this id, oldest first.
        canceled: Whether the root of a task that is not known was canceled.
    """
    events: list[EventRow] = []
    if row is None:
        row = _first_row(told)
        if row is None:
            return None
        _set_status(row, "pending", row.created_at, events)
        if canceled:
            _set_status(row, "canceled", row.updated_at, events)
    for event in told:
        if isinstance(event, Forked):
            continue
        if not isinstance(event, HopSent):
            _advance_hop(row, event, events)
        row.seq += 1
        events.append(hop_row(row.seq, event, row.progress))
    return Advance(row, events) if events else None


class Advance(msgspec.Struct):
    """A changed row and the event rows to append."""

    row: TaskRow
    events: list[EventRow]


def _first_row(told: Sequence[TaskEvent]) -> TaskRow | None:
    for event in told:
        # The end of a hop does not tell the root: the end of the envelope will.
        if isinstance(event, Forked | HopStarted):
            row = TaskRow(
                id=event.id,
                root=event.root or event.id,
                route=event.route,
                created_at=event.at,
                updated_at=event.at,
                parent_id=event.parent_id,
                flow=event.flow,
            )
            if isinstance(event, Forked):
                row.deadline_at = event.deadline_at
            elif event.enqueued_at:
                row.created_at = event.enqueued_at
            return row
    return None


def _advance_hop(row: TaskRow, event: HopStarted | HopEnded, events: list[EventRow]) -> None:
    if row.ended:
        return
    row.stuck_at = None
    if row.status == "pending":
        _set_status(row, "running", event.at, events)
    if (event.n, event.attempt) >= (row.n, row.attempt):
        row.n, row.attempt, row.route = event.n, event.attempt, _shown(event)
    row.progress = max(row.progress, progress_after(event))
    row.updated_at = max(row.updated_at, event.at)


def _shown(event: HopStarted | HopEnded) -> Route:
    """The route after a hop. One that failed stays where it failed: its way went no further."""
    route = event.route
    if isinstance(event, HopEnded) and event.state == "failed" and route.curr in END_ACTORS:
        return Route(route.prev, event.actor, route.next)
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
    events.append(
        EventRow(
            row.seq, "status", _encode(StatusData(status, at, row.progress, error)), row.progress
        )
    )


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
    return Advance(row, [EventRow(row.seq, "stuck", _encode(data), row.progress)])
