"""Headers of a sent envelope: the idempotency key with its rules, and the trace context."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from asya.gateway.http.headers import read_key, trace_headers
from asya.gateway.middleware import TRACE
from asya.tasks.idempotency import IdempotencyKey
from asya.tasks.mesh import Idempotency
from asya.tasks.refusals import Kind, Refusal


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("order-17", "order-17"),
        ('"order-17"', "order-17"),
        (' "two words" ', "two words"),
        (r'"a\"b\\c"', 'a"b\\c'),
        ("x" * 255, "x" * 255),
    ],
)
def test_a_key_is_a_string_in_quotes_or_bare(given: str, read: str) -> None:
    found = read_key({"Idempotency-Key": given}, "flow:f", Idempotency())
    assert found == IdempotencyKey("flow:f", read, Idempotency())


def test_a_request_says_its_own_rules() -> None:
    headers = {
        "Idempotency-Key": "k",
        "Idempotency-Policy": "replace",
        "Idempotency-Life": "active",
    }
    found = read_key(headers, "flow:f", Idempotency("reject", 5.0))
    assert found is not None
    assert found.rules == Idempotency("replace", None)
    del headers["Idempotency-Policy"]
    headers["Idempotency-Life"] = "90s"
    found = read_key(headers, "flow:f", Idempotency("reject", 5.0))
    assert found is not None
    assert found.rules == Idempotency("reject", 90.0)
    assert read_key({}, "flow:f", Idempotency()) is None


def test_blanks_around_a_rule_do_not_count() -> None:
    headers = {
        "Idempotency-Key": "k",
        "Idempotency-Policy": "reject  ",
        "Idempotency-Life": " 90s ",
    }
    found = read_key(headers, "flow:f", Idempotency())
    assert found is not None
    assert found.rules == Idempotency("reject", 90.0)


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Idempotency-Key": ""}, "printable ASCII"),
        ({"Idempotency-Key": '""'}, "printable ASCII"),
        ({"Idempotency-Key": "x" * 256}, "1 to 255"),
        ({"Idempotency-Key": "schlüssel"}, "printable ASCII"),
        ({"Idempotency-Key": "k", "Idempotency-Policy": "replce"}, "did you mean replace?"),
        ({"Idempotency-Key": "k", "Idempotency-Life": "0s"}, "longer than 0"),
        ({"Idempotency-Key": "k", "Idempotency-Life": "soon"}, "expected a duration"),
        ({"Idempotency-Policy": "reject"}, "together with Idempotency-Key"),
        ({"Idempotency-Life": "1h"}, "together with Idempotency-Key"),
    ],
)
def test_a_key_that_cannot_be_used_is_refused(headers: dict[str, str], said: str) -> None:
    with pytest.raises(Refusal) as caught:
        read_key(headers, "flow:f", Idempotency())
    assert (caught.value.kind, said in caught.value.text) == (Kind.INVALID, True)


def request_with(*headers: tuple[bytes, bytes], **scope: str) -> Request:
    return Request({"type": "http", "headers": list(headers), **scope})


def test_a_trace_context_goes_on_with_the_envelope() -> None:
    request = request_with((b"traceparent", b"00-a-b-01"), (b"tracestate", b"x=1"))
    assert trace_headers(request) == {"traceparent": "00-a-b-01", "tracestate": "x=1"}
    assert trace_headers(request_with()) == {}


def test_the_span_of_the_request_comes_before_its_header() -> None:
    request = request_with((b"traceparent", b"00-a-b-01"), **{TRACE: "00-a-c-01"})
    assert trace_headers(request) == {"traceparent": "00-a-c-01"}
