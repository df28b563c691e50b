"""From what is stored to what clients see: pure.

Hops are folded from a task's `started` and `ended` events, so there is one record of what
happened. Bytes of results and headers go into the views as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, cast

import msgspec
from msgspec import UNSET, Raw

from asya.clock import to_rfc3339
from asya.codes import failure_code
from asya.envelope import (
    BLOB_HEADER,
    TERMINAL_PHASES,
    Envelope,
    ErrorInfo,
    decode,
    encode,
    raw_json,
)
from asya.events import Flown
from asya.gateway.http import views
from asya.gateway.http.views import (
    ContentView,
    EnvelopeView,
    ErrorView,
    FlyEvent,
    HopView,
    ProgressEvent,
    RouteView,
    StatusEvent,
    StuckEvent,
    TaskStatus,
)
from asya.tasks.dead_letters import Redriven
from asya.tasks.diagnosis.why import Facts, why
from asya.tasks.mesh import FlowSpec
from asya.tasks.rules import Failure, StatusData, StuckData, TaskRow
from asya.tasks.scheduler import ScheduleState
from asya.tasks.store.base import DeadLetterGroup, DeadLetterRow, Detail
from asya.tasks.stored_events import (
    EventRow,
    StoredEnd,
    StoredSent,
    StoredStart,
    progress_of,
    stored_hop,
)

_NULL: Final = Raw(b"null")
_EMPTY: Final = Raw(b"{}")
_encode = msgspec.json.Encoder().encode
_decode_status = msgspec.json.Decoder(StatusData).decode
_decode_stuck = msgspec.json.Decoder(StuckData).decode
_decode_failure = msgspec.json.Decoder(Failure).decode


def envelope_view(detail: Detail) -> EnvelopeView:
    """All that is known of one envelope."""
    view = summary_view(detail.row)
    view.error = _error_view(detail.row)
    view.hops = hops(detail.events)
    view.result = None if detail.result is None else Raw(detail.result)
    return view


def summary_view(row: TaskRow) -> EnvelopeView:
    """An envelope in a list: without hops, result and traceback."""
    error = _error_view(row)
    if error is not None:
        error.traceback = None
    return EnvelopeView(
        id=row.id,
        root=row.root,
        parent_id=row.parent_id,
        flow=row.flow,
        status=cast("TaskStatus", row.status),
        route=RouteView(row.route.prev, row.route.curr, row.route.next),
        progress=row.progress,
        attempt=row.attempt,
        error=error,
        headers=Raw(row.headers),
        created_at=row.created_at,
        updated_at=row.updated_at,
        deadline_at=row.deadline_at,
        not_before=row.not_before,
        stuck_at=row.stuck_at,
        hops=UNSET,
        result=UNSET,
    )


def _error_view(row: TaskRow) -> ErrorView | None:
    return None if row.error is None else _error(_decode_failure(row.error))


def _error(failure: Failure | ErrorInfo | None) -> ErrorView | None:
    if failure is None:
        return None
    reason = failure.reason if isinstance(failure, Failure) else None
    code = failure_code(reason, failure.type)
    return ErrorView(failure.type, failure.message, failure.traceback or None, reason, str(code))


def hops(events: Iterable[EventRow]) -> list[HopView]:
    """The attempts, in the order of their first event.

    Events may be missing (they may be dropped under load) and a hop may run twice (a replica
    died): a second start after an end is an attempt of its own, a second start without one is not.
    """
    made: list[HopView] = []
    open_: dict[tuple[int, int], HopView] = {}
    for event in events:
        if event.kind in {"status", "stuck"}:
            continue
        hop = stored_hop(event)
        at = (hop.n, hop.attempt)
        view = open_.get(at)
        if isinstance(hop, StoredSent):
            if view is not None:
                view.sent_at = hop.at
            continue
        if view is None or (isinstance(hop, StoredStart) and view.ended_at is not None):
            view = open_[at] = HopView(hop.n, hop.actor, hop.attempt, _state(hop))
            made.append(view)
        _fill(view, hop)
    return made


def _state(hop: StoredStart | StoredEnd) -> str:
    return "running" if isinstance(hop, StoredStart) else hop.state


def _fill(view: HopView, hop: StoredStart | StoredEnd) -> None:
    content = None if hop.body is None else ContentView(hop.body.size, hop.body.sha256)
    view.state = _state(hop)
    if isinstance(hop, StoredStart):
        view.enqueued_at = hop.enqueued_at or None
        view.started_at = hop.at
        view.replica = hop.replica
        view.content_in = content
    else:
        view.ended_at = hop.at
        view.retry_at = hop.retry_at
        view.attempts_max = hop.attempts_max
        view.error = _error(hop.error)
        view.content_out = content


def event_text(id: str, event: EventRow) -> tuple[bytes, bool]:
    """A stored event as SSE, and whether it is the last one of its envelope."""
    if event.kind == "status":
        data = _decode_status(event.data)
        word = cast("TaskStatus", data.status)
        status = StatusEvent(id, word, data.at, data.progress, _error(data.error))
        return _sse("status", _encode(status), event.seq), word in TERMINAL_PHASES
    if event.kind == "stuck":
        stuck = _decode_stuck(event.data)
        told = StuckEvent(id, stuck.at, stuck.actor, stuck.state, stuck.since, stuck.usual_s)
        return _sse("stuck", _encode(told), event.seq), False
    hop = stored_hop(event)
    if isinstance(hop, StoredSent):  # of interest to a trace only
        return b"", False
    ended = hop if isinstance(hop, StoredEnd) else None
    progress = ProgressEvent(
        id,
        progress_of(event),
        hop.at,
        hop.n,
        hop.actor,
        hop.attempt,
        _state(hop),
        None if ended is None else ended.retry_at,
        None if ended is None else _error(ended.error),
    )
    if progress.error is not None:
        progress.error.traceback = None
    return _sse("progress", _encode(progress), event.seq), False


def fly_text(event: Flown) -> bytes:
    """What a handler streamed as SSE; without a number, since it is never stored."""
    data = FlyEvent(event.id, event.actor, event.seq, event.at, event.data)
    return _sse("fly", _encode(data), None)


def _sse(name: str, data: bytes, number: int | None) -> bytes:
    lines = b"".join(b"data: " + line + b"\n" for line in data.splitlines())
    head = b"" if number is None else b"id: %d\n" % number
    return head + b"event: " + name.encode() + b"\n" + lines + b"\n"


def why_view(facts: Facts) -> views.WhyView:
    """Why an envelope is where it is."""
    found = why(facts)
    return views.WhyView(
        facts.id,
        cast("TaskStatus | None", facts.status),
        found.kind,
        found.cause,
        found.evidence,
        [views.RemedyView(each.command, each.does) for each in found.remedy],
        to_rfc3339(facts.now),
        facts.nearest,
    )


def flow_view(flow: FlowSpec) -> views.FlowView:
    """A flow, with the URL that payloads are posted to."""
    return views.FlowView(
        flow.name,
        list(flow.route),
        flow.description,
        None if flow.input_schema is None else dict(flow.input_schema),
        flow.timeout_s,
        f"/v1/flows/{flow.name}",
    )


def schedule_view(state: ScheduleState) -> views.ScheduleView:
    """A schedule as it is now."""
    spec = state.spec
    return views.ScheduleView(
        spec.name,
        spec.flow,
        list(spec.route),
        spec.text,
        spec.timezone,
        spec.missed_runs,
        spec.concurrency_policy,
        state.suspended,
        state.next_at,
        state.last_at,
        state.last_id,
        state.last_error,
    )


def dead_letter_summary(row: DeadLetterRow) -> views.LetterSummary:
    """A dead letter in a list: without its traceback."""
    return views.LetterSummary(
        row.id,
        row.status,
        row.reason,
        row.actor,
        row.at,
        row.fingerprint,
        row.retried_as,
        _letter_error(row, whole=False),
    )


def dead_letter_group_view(group: DeadLetterGroup) -> views.LetterGroupView:
    """Letters of one actor about the same error."""
    return views.LetterGroupView(
        group.fingerprint,
        group.actor,
        group.reasons,
        group.count,
        group.first_at,
        group.last_at,
        group.newest.id,
        _letter_error(group.newest, whole=False),
    )


def dead_letter_view(
    row: DeadLetterRow, sent: Envelope | None, payload_problem: str | None, detail: Detail | None
) -> views.LetterView:
    """One dead letter, whole.

    Args:
        row: As it is stored, with its bytes.
        sent: What the failing actor got; None of a letter that was purged.
        payload_problem: Why the payload of `sent` is missing, or None.
        detail: The task, as long as it is kept.
    """
    summary = dead_letter_summary(row)
    summary.error = _letter_error(row, whole=True)
    return views.LetterView(
        **msgspec.structs.asdict(summary),
        parent_id=None if sent is None else sent.parent_id,
        route=RouteView([], row.actor, [])
        if sent is None
        else RouteView(sent.route.prev, sent.route.curr, sent.route.next),
        attempt=1 if sent is None else sent.status.attempt,
        headers=_EMPTY if sent is None else raw_json(sent.headers),
        payload=_NULL if sent is None or payload_problem is not None else sent.payload,
        payload_problem=payload_problem,
        case=_NULL if sent is None else _without_payload(sent),
        envelope=Raw(encode(decode(row.body))) if row.body else _NULL,
        hops=[] if detail is None else hops(detail.events),
    )


def _letter_error(row: DeadLetterRow, *, whole: bool) -> ErrorView | None:
    error = row.error
    if error is None:
        return None
    traceback = (error.traceback or None) if whole else None
    return ErrorView(error.type, error.message, traceback, row.reason)


def _without_payload(sent: Envelope) -> Raw:
    bare = sent.copy()
    bare.payload = _NULL
    bare.headers.pop(BLOB_HEADER, None)
    return Raw(encode(bare))


def redriven_view(done: Redriven) -> views.BulkRetried:
    """What one request of a run over many letters did."""
    return views.BulkRetried(
        [views.RetriedLetter(*each) for each in done.retried],
        [views.RetriedLetter(*each) for each in done.already],
        [views.RefusedLetter(*each) for each in done.refused],
        done.next_cursor,
    )
