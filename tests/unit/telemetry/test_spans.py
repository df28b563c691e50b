from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from asya.envelope import ErrorInfo, Route
from asya.errors import UsageError
from asya.events import HopEnded, HopStarted
from asya.telemetry import otel
from asya.telemetry.spans import Span, Spans, traceparent_of
from asya.tracecontext import parse, span_id

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{PARENT}-01"
UNSAMPLED = f"00-{TRACE}-{PARENT}-00"
AT = "2026-11-23T18:25:00.000Z"
AT_NS = 1_795_458_300_000_000_000


@dataclass
class Shelf:
    """Spans that were recorded, and a clock."""

    spans: list[Span] = field(default_factory=list)
    ns: int = AT_NS + 5_000_000

    def now_ns(self) -> int:
        self.ns += 1000
        return self.ns


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def spans(shelf: Shelf) -> Spans:
    return Spans(shelf.spans.append, now_ns=shelf.now_ns)


def started(attempt: int = 1, traceparent: str | None = GIVEN, pid: int = 7) -> HopStarted:
    route = Route([], "a", [])
    return HopStarted("e", 0, "a", attempt, AT, "e", route, AT, pid, traceparent=traceparent)


def ended(state: str = "succeeded", attempt: int = 1, error: ErrorInfo | None = None) -> HopEnded:
    retry_at = AT if state == "retrying" else None
    return HopEnded("e", 0, "a", attempt, AT, state, Route([], "a", []), error, retry_at)


def test_a_hop_is_a_wait_and_a_process(spans: Spans, shelf: Shelf) -> None:
    spans.emit(started())
    spans.emit(ended())
    wait, process = shelf.spans
    assert (wait.name, wait.parent_id, process.name, process.parent_id) == (
        "wait a", PARENT, "process a", PARENT,
    )  # fmt: skip
    assert process.span_id == span_id("e", 0, 1)
    assert wait.began_ns == AT_NS
    assert wait.ended_ns == process.began_ns < process.ended_ns
    assert process.attributes == {
        "asya.actor": "a", "asya.envelope.id": "e", "asya.envelope.root": "e", "asya.hop": 0,
        "asya.attempt": 1, "asya.replica.pid": 7, "asya.outcome": "succeeded",
    }  # fmt: skip
    assert process.error is None


def test_an_attempt_that_fails_has_the_exception_and_the_retry(spans: Spans, shelf: Shelf) -> None:
    error = ErrorInfo(type="ValueError", message="no", traceback="Traceback …")
    spans.emit(started(attempt=2))
    spans.emit(ended("retrying", 2, error))
    (span,) = shelf.spans
    assert span.error == "ValueError: no"
    assert [(each.name, dict(each.attributes)) for each in span.happenings] == [
        (
            "exception",
            {
                "exception.type": "ValueError",
                "exception.message": "no",
                "exception.stacktrace": "Traceback …",
            },
        ),
        ("retry", {"asya.retry_at": AT}),
    ]


def test_a_lost_replica_is_an_event_of_the_one_span(spans: Spans, shelf: Shelf) -> None:
    spans.emit(started())
    spans.emit(ended("lost"))
    spans.emit(started(pid=8))
    spans.emit(ended())
    assert [span.name for span in shelf.spans] == ["wait a", "process a"]
    names = [each.name for each in shelf.spans[1].happenings]
    assert names == ["replica lost", "started again"]


def test_of_too_many_hops_the_oldest_span_is_forgotten(
    spans: Spans, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asya.telemetry.spans.PENDING_MAX", 1)
    old, new = started(attempt=2), HopStarted(
        "f", 0, "b", 2, AT, "f", Route([], "b", []), AT, 7, traceparent=GIVEN
    )  # fmt: skip
    spans.emit(old)
    spans.emit(new)
    spans.emit(ended(attempt=2))
    spans.emit(HopEnded("f", 0, "b", 2, AT, "succeeded", Route([], "b", [])))
    assert [span.name for span in shelf.spans] == ["process b"]


@pytest.mark.parametrize("traceparent", [None, "nonsense", UNSAMPLED])
def test_what_is_not_sampled_has_no_spans(
    spans: Spans, shelf: Shelf, traceparent: str | None
) -> None:
    spans.emit(started(traceparent=traceparent))
    spans.emit(ended())
    assert shelf.spans == []


def test_a_request_goes_on_with_a_trace_or_begins_one(spans: Spans, shelf: Shelf) -> None:
    child = spans.begin_request(GIVEN)
    root = spans.begin_request(None)
    assert child is not None
    assert root is not None
    assert (child.trace_id, child.parent_id, root.parent_id) == (TRACE, PARENT, None)
    given = parse(traceparent_of(root))
    assert given == (root.trace_id, root.span_id, 1)
    spans.end_request(root, "POST", "/v1/envelopes", 503)
    assert shelf.spans == [root]
    assert (root.name, root.error) == ("POST /v1/envelopes", "status 503")


def test_a_run_of_a_schedule_begins_a_trace(spans: Spans, shelf: Shelf) -> None:
    headers = spans.schedule("nightly")
    (span,) = shelf.spans
    assert headers == {"traceparent": f"00-{span.trace_id}-{span.span_id}-01"}
    assert (span.name, span.parent_id) == ("schedule nightly", None)
    assert Spans().schedule("nightly") == {}
    assert Spans(shelf.spans.append, sample=lambda trace_id: False).schedule("nightly") == {}


def test_requests_that_are_not_sampled_have_no_span(shelf: Shelf) -> None:
    never = Spans(shelf.spans.append, sample=lambda trace_id: False)
    assert never.begin_request(None) is None
    assert never.begin_request(UNSAMPLED) is None
    assert never.begin_request(GIVEN) is not None
    off = Spans()
    assert not off.on
    assert off.begin_request(GIVEN) is None


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://h/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_the_environment_says_whether_spans_are_recorded(
    environ: dict[str, Any], expected: bool
) -> None:
    assert otel.wanted(environ) is expected


def test_an_exporter_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="OTEL_TRACES_EXPORTER: expected otlp or none, got 'zip"):
        otel.wanted({"OTEL_TRACES_EXPORTER": "zipkin"})


def test_without_the_sdk_the_text_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(UsageError, match=r"pip install .*\[otel\]"):
        otel.Recorder({}, "default")
