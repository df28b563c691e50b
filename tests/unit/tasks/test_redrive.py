"""From a dead letter to a new envelope: where it goes, what it keeps, what may be set."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from asya.envelope import Envelope, ErrorInfo, Route, Status, decode, encode, raw_json
from asya.resiliency import Resiliency
from asya.sidecar.decide import decide, reject
from asya.sidecar.outcome import Raised, Undeliverable, mismatch, unparsable
from asya.tasks.redrive import as_sent, needs_payload, new_try, retry_route
from asya.tasks.refusals import Refusal

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BODY = (
    b'{"id":"e1","route":{"prev":["a"],"curr":"b","next":["c","d"]},"headers":{"x-asya-hop":1,'
    b'"x-asya-root":"r","x-asya-flow":"shop","priority":3,"deep":{"list":[1,{"k":1.10}]}},'
    b'"status":{"phase":"processing","attempt":2,"mine":7},"trace":[1],'
    b'"payload":{"text": "hello","n":1e400,"list":[1,[2,3]]}}'
)


@pytest.fixture
def letter() -> Envelope:
    (send,) = decide(decode(BODY), Raised(ErrorInfo("E")), Resiliency(), NOW, max)
    return send.envelope


def tried(letter: Envelope, *assignments: Any, route: list[str] | None = None) -> Envelope:
    sent = as_sent(letter)
    actors = retry_route(letter, sent, route)
    return new_try(sent, actors, assignments, id="new", now=NOW)


def test_the_failing_actor_gets_it_again_and_the_rest_of_its_route(letter: Envelope) -> None:
    made = tried(letter)
    assert made.route == Route([], "b", ["c", "d"])
    assert (made.id, made.parent_id, made.hop, made.root) == ("new", "e1", 0, "new")
    assert (made.status.phase, made.status.attempt, made.status.error) == ("pending", 1, None)
    assert bytes(made.payload) == b'{"text": "hello","n":1e400,"list":[1,[2,3]]}'
    assert sorted(made.headers) == ["deep", "priority", "x-asya-flow"]
    assert (bytes(made.status_extra["mine"]), bytes(made.extra["trace"])) == (b"7", b"[1]")
    assert made.deadline is None


def test_what_the_failing_actor_got_can_be_seen(letter: Envelope) -> None:
    sent = as_sent(letter)
    assert sent.route == Route(["a"], "b", ["c", "d"])
    assert (sent.status.phase, sent.status.attempt, sent.status.reason) == ("processing", 2, None)
    assert sent.headers.keys() == decode(BODY).headers.keys()


def test_a_route_may_be_given(letter: Envelope) -> None:
    assert tried(letter, route=["x", "y"]).route == Route([], "x", ["y"])


def test_an_unknown_actor_stands_first_and_nobody_works_twice() -> None:
    undeliverable = Undeliverable(("other",))
    (send,) = decide(decode(BODY), undeliverable, Resiliency(), NOW, max)
    letter = send.envelope
    assert tried(letter).route == Route([], "b", ["c", "d"])
    assert as_sent(letter).route == Route(["a"], "b", ["c", "d"])


def test_a_foreign_envelope_goes_to_the_actor_that_it_names() -> None:
    made = tried(reject(mismatch("z", "e1", "b", BODY), NOW).envelope)
    assert made.route == Route([], "b", ["c", "d"])
    assert b'"text": "hello"' in bytes(made.payload)
    assert made.parent_id == "e1"


@pytest.mark.parametrize(
    ("body", "payload"),
    [
        (b'{"payload":{"a":1}}', {"a": 1}),
        (b'{"a":1}', {"a": 1}),
        (b"[1]", [1]),
        (b"oops", {"received": "oops"}),
        (b"\xff\x00", {"received_base64": "/wA="}),
    ],
)
def test_what_was_no_envelope_needs_a_route(
    body: bytes, payload: dict[str, Any] | list[int]
) -> None:
    letter = reject(unparsable("a", "not JSON", body), NOW).envelope
    with pytest.raises(Refusal, match="it has no route; give one"):
        tried(letter)
    made = tried(letter, route=["a"])
    assert json.loads(bytes(made.payload)) == payload


@pytest.mark.parametrize(
    ("path", "payload"),
    [
        (".payload.text", b'{"text":0,"n":1e400,"list":[1,[2,3]]}'),
        (".payload.list[0]", b'{"text":"hello","n":1e400,"list":[0,[2,3]]}'),
        (".payload.list[-1][1]", b'{"text":"hello","n":1e400,"list":[1,[2,0]]}'),
        ('.payload["list"]', b'{"text":"hello","n":1e400,"list":0}'),
        (".payload", b"0"),
    ],
)
def test_a_value_in_the_payload_is_set_and_nothing_else(
    letter: Envelope, path: str, payload: bytes
) -> None:
    assert bytes(tried(letter, (path, Raw(b"0"))).payload) == payload


def test_a_header_is_set(letter: Envelope) -> None:
    made = tried(letter, (".headers.priority", Raw(b"9")), (".headers.deep.list[1].k", Raw(b"2")))
    assert bytes(made.headers["priority"]) == b"9"
    assert bytes(made.headers["deep"]) == b'{"list":[1,{"k":2}]}'


@pytest.mark.parametrize(
    ("path", "text", "close"),
    [
        (".payload.txt", "has no 'txt'; did you mean 'text'?", "text"),
        (".payload.zzz", "it has: text, n, list. To add a key, set .payload as a whole", None),
        (".payload.text.x", ".payload.text is not an object", None),
        (".payload.list[7]", ".payload.list is a list of 2, it has no place 7", None),
        (".payload.n[0]", ".payload.n is not a list", None),
        (".payload.list[0:1]", "a slice cannot be set", None),
        (".payloda.text", "begins with .payload or .headers; did you mean .payload?", "payload"),
        (".status.phase", "begins with .payload or .headers", None),
        (".headers", "set one header", None),
        (".headers.x-asya-hop", "not one of the system", None),
        (".headers.prority", "did you mean 'priority'?", "priority"),
        ("payload", "is no path", None),
    ],
)
def test_a_path_that_does_not_exist_is_refused(
    letter: Envelope, path: str, text: str, close: str | None
) -> None:
    with pytest.raises(Refusal, match=re.escape(text)) as refused:
        tried(letter, (".payload.text", Raw(b"1")), (path, Raw(b"1")))
    assert refused.value.nearest == close
    faults = refused.value.faults
    assert faults is not None
    assert faults[0].path == "$.set[1].path"


def test_only_parts_of_the_payload_need_it() -> None:
    assert needs_payload([(".payload.x", Raw(b"1"))])
    assert not needs_payload([(".payload", Raw(b"1")), (".headers.x", Raw(b""))])


@given(
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), min_size=1),
    st.data(),
)
def test_any_key_can_be_set(payload: dict[str, Any], data: Any) -> None:
    key = data.draw(st.sampled_from(sorted(payload)))
    letter = Envelope("e", Route([], "x-sink", []), raw_json(payload), status=Status(actor="a"))
    made = tried(letter, (f".payload[{json.dumps(key)}]", Raw(b"[true]")))
    assert json.loads(bytes(made.payload)) == payload | {key: [True]}
    assert decode(encode(made)).route.curr == "a"
