from __future__ import annotations

from datetime import UTC, datetime

import pytest

from asya.envelope import Envelope, new_envelope, raw_json
from asya.tracecontext import Trace, headers_of_call, of_hop, parse, received, span_id

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{PARENT}-01"


def envelope(traceparent: object = GIVEN) -> Envelope:
    headers = {} if traceparent is None else {"traceparent": traceparent, "tracestate": "a=1"}
    now = datetime(2026, 11, 23, tzinfo=UTC)
    return new_envelope(["a", "b"], raw_json(1), now=now, id="e1", headers=headers)


def test_a_traceparent_is_read_and_written() -> None:
    assert parse(GIVEN) == Trace(TRACE, PARENT, 1)
    assert str(Trace(TRACE, PARENT, 1)) == GIVEN
    assert Trace(TRACE, PARENT, 1).sampled
    assert not Trace(TRACE, PARENT, 2).sampled


def test_a_later_version_may_say_more() -> None:
    assert parse(f"cc-{TRACE}-{PARENT}-01-what-comes") == Trace(TRACE, PARENT, 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-1",
        GIVEN + "\n",
    ],
)
def test_what_is_no_traceparent_is_none(text: str) -> None:
    assert parse(text) is None


def test_a_span_id_is_derived_from_id_hop_and_attempt() -> None:
    ids = {
        span_id(name, hop, attempt, kind)
        for name in ("e1", "e2")
        for hop in (0, 1)
        for attempt in (1, 2)
        for kind in ("hop", "wait")
    }
    assert len(ids) == 16
    assert all(len(each) == 16 and int(each, 16) for each in ids)
    assert span_id("e1", 0, 1) == span_id("e1", 0, 1)


def test_the_hop_is_the_child_of_the_span_that_came() -> None:
    given = envelope()
    assert received(given) == Trace(TRACE, PARENT, 1)
    own = of_hop(given)
    assert own == raw_json(f"00-{TRACE}-{span_id('e1', 0, 1)}-01")
    assert headers_of_call(given) == {**given.headers, "traceparent": own}
    assert given.header("traceparent") == GIVEN, "the envelope itself stays as it came"


@pytest.mark.parametrize("value", [None, "nonsense", 17, {"a": 1}])
def test_without_a_valid_traceparent_nothing_changes(value: object) -> None:
    given = envelope(value)
    assert of_hop(given) is None
    assert headers_of_call(given) is given.headers


def test_an_id_of_zeros_is_never_made(monkeypatch: pytest.MonkeyPatch) -> None:
    class Zeros:
        def __init__(self, data: bytes) -> None: ...

        def hexdigest(self) -> str:
            return "0" * 64

    monkeypatch.setattr("hashlib.sha256", Zeros)
    assert int(span_id("e1", 0, 1), 16) == 1
