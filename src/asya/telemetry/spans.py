"""Spans of requests and hops, made from events; who records them is given as a function.

Per hop two spans, both children of the hop before (or of the request): `wait ACTOR`, from the send
to the start of the handler, first attempts only, and `process ACTOR`, the handler, whose id is that
of `tracecontext`. Each attempt is a `process` span of its own; a replica's death is an event in
it. Only envelopes with a valid, sampled `traceparent` have spans. Told by sidecars as an
`events.Listener`, and by the gateway; `otel` records.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from asya.envelope import ErrorInfo
from asya.events import Event, HopEnded, HopStarted
from asya.tracecontext import SAMPLED, TRACEPARENT, Trace, parse, span_id

PENDING_MAX: Final = 100_000
"""Hops under way whose span is open; past it the oldest is forgotten."""

Value = str | int | bool


@dataclass(frozen=True)
class Happening:
    """Something at one moment of a span."""

    name: str
    at_ns: int
    attributes: Mapping[str, Value] = field(default_factory=dict)


@dataclass
class Span:
    """A span that has ended. Times are nanoseconds of Unix time; ids are hex."""

    name: str
    kind: Literal["server", "consumer", "internal"]
    trace_id: str
    span_id: str
    parent_id: str | None
    began_ns: int
    ended_ns: int = 0
    attributes: dict[str, Value] = field(default_factory=dict)
    happenings: list[Happening] = field(default_factory=list)
    error: str | None = None


class Spans:
    """Makes the spans of one mesh.

    Args:
        record: Takes each span that has ended; must return at once. None turns spans off.
        sample: Whether a trace that begins here, by its id, is recorded.
        now_ns: Unix time in nanoseconds.
    """

    def __init__(
        self,
        record: Callable[[Span], None] | None = None,
        *,
        sample: Callable[[str], bool] = lambda trace_id: True,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._record = record
        self._sample = sample
        self._now_ns = now_ns
        self._open: dict[tuple[str, int], Span] = {}

    @property
    def on(self) -> bool:
        """Whether anybody records."""
        return self._record is not None

    # -- the gateway ------------------------------------------------------------------------------

    def begin_request(self, traceparent: str | None) -> Span | None:
        """A span for a request that sends an envelope, or None where the trace is not recorded."""
        if self._record is None:
            return None
        given = None if traceparent is None else parse(traceparent)
        if given is not None and not given.sampled:
            return None
        trace_id = secrets.token_hex(16) if given is None else given.trace_id
        if given is None and not self._sample(trace_id):
            return None
        parent = None if given is None else given.span_id
        return Span("", "server", trace_id, secrets.token_hex(8), parent, self._now_ns())

    def end_request(self, span: Span, method: str, route: str, status: int) -> None:
        """The answer is there."""
        span.name = f"{method} {route}"
        span.attributes = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
        }
        if status >= 500:
            span.error = f"status {status}"
        self._end(span)

    def schedule(self, name: str) -> dict[str, str]:
        """Begin a trace with a run of a schedule; gives the headers of its envelope."""
        trace_id = secrets.token_hex(16)
        if self._record is None or not self._sample(trace_id):
            return {}
        span = Span(
            f"schedule {name}", "internal", trace_id, secrets.token_hex(8), None, self._now_ns()
        )
        self._end(span)
        return {TRACEPARENT: traceparent_of(span)}

    # -- sidecars ---------------------------------------------------------------------------------

    def emit(self, event: Event) -> None:
        """See `events.Listener`."""
        if isinstance(event, HopStarted):
            if event.traceparent is not None:
                self._hop_started(event, event.traceparent)
        elif isinstance(event, HopEnded) and self._open:
            span = self._open.get((event.id, event.n))
            if span is not None:
                self._hop_ended(span, event)

    def _hop_started(self, event: HopStarted, traceparent: str) -> None:
        trace = parse(traceparent)
        if trace is None or not trace.sampled:
            return
        now_ns = self._now_ns()
        before = self._open.get((event.id, event.n))
        if before is not None:  # its replica died, or it was moved to another
            before.happenings.append(Happening("started again", now_ns, _replica(event)))
            return
        if len(self._open) >= PENDING_MAX:
            del self._open[next(iter(self._open))]
        own = span_id(event.id, event.n, event.attempt)
        about = _about(event)
        self._open[event.id, event.n] = Span(
            f"process {event.actor}",
            "consumer",
            trace.trace_id,
            own,
            trace.span_id,
            now_ns,
            attributes={**about, **_replica(event)},
        )
        sent_ns = _unix_ns(event.enqueued_at)
        if event.attempt == 1 and sent_ns is not None:
            waited = span_id(event.id, event.n, event.attempt, "wait")
            self._end(
                Span(
                    f"wait {event.actor}",
                    "internal",
                    trace.trace_id,
                    waited,
                    trace.span_id,
                    min(sent_ns, now_ns),
                    attributes=about,
                ),
                now_ns,
            )

    def _hop_ended(self, span: Span, event: HopEnded) -> None:
        now_ns = self._now_ns()
        if event.state == "lost":
            span.happenings.append(Happening("replica lost", now_ns))
            return
        del self._open[event.id, event.n]
        span.attributes["asya.outcome"] = event.state
        if event.error is not None:
            span.happenings.append(Happening("exception", now_ns, _exception(event.error)))
        if event.retry_at is not None:
            span.happenings.append(Happening("retry", now_ns, {"asya.retry_at": event.retry_at}))
        if event.state in {"failed", "retrying"}:
            error = event.error
            span.error = event.state if error is None else f"{error.type}: {error.message}"
        self._end(span, now_ns)

    def _end(self, span: Span, ended_ns: int | None = None) -> None:
        span.ended_ns = self._now_ns() if ended_ns is None else ended_ns
        if self._record is not None:
            self._record(span)


def traceparent_of(span: Span) -> str:
    """The header that makes what follows a child of this span."""
    return str(Trace(span.trace_id, span.span_id, SAMPLED))


def _about(event: HopStarted) -> dict[str, Value]:
    about: dict[str, Value] = {
        "asya.actor": event.actor,
        "asya.envelope.id": event.id,
        "asya.envelope.root": event.root,
        "asya.hop": event.n,
        "asya.attempt": event.attempt,
    }
    return about if event.flow is None else {**about, "asya.flow": event.flow}


def _replica(event: HopStarted) -> dict[str, Value]:
    return {} if event.replica is None else {"asya.replica.pid": event.replica}


def _exception(error: ErrorInfo) -> dict[str, Value]:
    found: dict[str, Value] = {
        "exception.type": error.type,
        "exception.message": error.message,
    }
    return {**found, "exception.stacktrace": error.traceback} if error.traceback else found


def _unix_ns(text: str) -> int | None:
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000) * 1_000_000
    except (ValueError, OverflowError):
        return None
