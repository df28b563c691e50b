import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from msgspec import Raw

from asya.envelope import (
    HOP_HEADER,
    HOPS_MAX,
    ID_MAX,
    NAME_MAX,
    PHASES,
    ROOT_HEADER,
    ROUTE_MAX,
    Envelope,
    ErrorInfo,
    Route,
    Status,
    child_id,
    decode,
    encode,
    id_problem,
    is_actor_name,
    json_schema,
    new_envelope,
    queue_name,
    raw_json,
    route_problem,
)
from asya.errors import ParseError

NOW = datetime(2026, 11, 23, 20, 45, tzinfo=UTC)
OURS = {"id", "parent_id", "route", "headers", "status", "payload"}

# Any text that UTF-8 can hold; hypothesis leaves lone surrogates out of it.
texts = st.text(st.characters(codec="utf-8"), max_size=20)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=25,
)
names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
ids = st.text(
    st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=40
)
routes = st.fixed_dictionaries(
    {"prev": st.lists(names, max_size=4), "curr": names, "next": st.lists(names, max_size=4)}
)
times = st.datetimes(timezones=st.just(UTC)).map(lambda t: t.isoformat())
errors = st.fixed_dictionaries(
    {"type": texts},
    optional={
        "message": texts,
        "mro": st.lists(texts, max_size=3),
        "args": st.lists(st.none() | st.booleans() | st.integers() | texts, max_size=3),
        "traceback": texts,
    },
)
statuses = st.fixed_dictionaries(
    {},
    optional={
        "phase": st.sampled_from(PHASES),
        "actor": names,
        "attempt": st.integers(1, 1000),
        "max_attempts": st.integers(1, 1000),
        "created_at": times,
        "deadline_at": st.none() | times,
        "reason": st.none() | texts,
        "error": st.none() | errors,
        "mine": json_values,
    },
)
wire_envelopes = st.fixed_dictionaries(
    {"id": ids, "route": routes, "payload": json_values},
    optional={
        "parent_id": st.none() | ids,
        "headers": st.none() | st.dictionaries(texts, json_values, max_size=4),
        "status": st.none() | statuses,
    },
)
extras = st.dictionaries(texts.filter(lambda key: key not in OURS), json_values, max_size=3)


def wire(**fields: object) -> bytes:
    base = {"id": "a", "route": {"curr": "x"}, "payload": 1}
    return json.dumps({k: v for k, v in (base | fields).items() if v is not ...}).encode()


@given(wire_envelopes, extras, st.booleans(), st.sampled_from([None, 2]))
def test_everything_comes_back_as_it_went(
    known: dict[str, Any], extra: dict[str, Any], escaped: bool, indent: int | None
) -> None:
    data = json.dumps(extra | known, ensure_ascii=escaped, indent=indent).encode()
    first = decode(data)
    again = json.loads(encode(first))
    assert again["id"] == known["id"]
    assert again["route"] == known["route"]
    assert again["payload"] == known["payload"]
    assert again.get("parent_id") == known.get("parent_id")
    assert again["headers"] == (known.get("headers") or {})
    status = known.get("status") or {}
    assert {key: again["status"][key] for key in status if key != "error"} == {
        key: value for key, value in status.items() if key != "error"
    }
    assert {key: again[key] for key in extra} == extra
    assert set(again) - OURS == set(extra)


@given(wire_envelopes, extras)
def test_a_second_hop_changes_no_byte(known: dict[str, Any], extra: dict[str, Any]) -> None:
    once = encode(decode(json.dumps(extra | known).encode()))
    assert encode(decode(once)) == once
    assert encode(decode(once).copy()) == once


RAW = [
    b"1e5",
    b"1E+5",
    b"-0",
    b"-0.0",
    b"1.0",
    b"1e999",
    b"123456789012345678901234567890",
    b"0.1000000000000000055511151231257827",
    b'"\\u00e9\\/"',
    '"é€😀"'.encode(),
    b'"\\ud83d\\ude00"',
    b"[1 , 2,\t3]",
    b'{"b": 1, "a": 2, "b": 3}',
    b"[]",
    b"null",
    b'""',
    b"[" * 200 + b"]" * 200,
]


@pytest.mark.parametrize("raw", RAW, ids=[raw[:20].decode() for raw in RAW])
def test_bytes_that_we_do_not_read_leave_as_they_came(raw: bytes) -> None:
    data = b'{"mine":%s,"id":"a","headers":{"h":%s},"payload":%s,"route":{"curr":"x"}}'
    envelope = decode(data % (raw, raw, raw))
    assert bytes(envelope.payload) == raw
    assert bytes(envelope.headers["h"]) == raw
    assert bytes(envelope.extra["mine"]) == raw
    out = encode(envelope)
    assert out.endswith(b'"mine":%s,"payload":%s}' % (raw, raw))
    assert b'"headers":{"h":%s}' % raw in out


def test_status_fields_that_are_not_ours_stay_raw_too() -> None:
    envelope = decode(b'{"id":"a","route":{"curr":"x"},"payload":1,"status":{"mine":1.50}}')
    assert b'"mine":1.50' in encode(envelope)


def test_the_smallest_envelope_has_defaults() -> None:
    envelope = decode(wire())
    assert (envelope.id, envelope.parent_id, envelope.root) == ("a", None, "a")
    assert (envelope.route.prev, envelope.route.curr, envelope.route.next) == ([], "x", [])
    assert (envelope.headers, envelope.extra, envelope.status_extra) == ({}, {}, {})
    assert envelope.status == Status()
    assert (envelope.hop, envelope.deadline) == (0, None)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "the message"),
        (b"[]", "the message"),
        (b"null", "the message"),
        (b'"text"', "the message"),
        (b"{", "the message"),
        (b'{"id":"a","route":{"curr":"x"},"payload":1} x', "the message"),
        (b'{"id":"a","route":{"curr":"x"},"payload":NaN}', "the message"),
        (b'{"id":"a","route":{"curr":"x"},"payload":}', "the message"),
        (b'{"id":"a","route":{"curr":"x"},"payload":01}', "the message"),
        (b'{"id":"a","route":{"curr":"x"},"payload":"\n"}', "the message"),
        (b'{"id":"a","route":{"curr":"x"},"payload":"\\ud800"}', "the message"),
        (b'{"id":"a","route":{"curr":"x"},"payload":"\xff"}', "not UTF-8 at byte 42"),
        (b'{"id":"a","route":{"curr":"x"},"payload":1,"mine":"\xc3"}', "not UTF-8"),
        (b'{"id":"a","route":{"curr":"x"},"payload":1,"headers":{"h":"\xed\xa0\x80"}}', "UTF-8"),
        (wire().decode().encode("utf-16"), "UTF-8"),
        (b"\xef\xbb\xbf" + wire(), "the message"),
        (b"\x00\x01\x02", "the message"),
        (wire(payload=...)[:-1] + b',"payload":' + b"[" * 10**5 + b"]" * 10**5 + b"}", "recursion"),
        (wire(id=...), "the field `id` is missing"),
        (wire(route=...), "the field `route` is missing"),
        (wire(payload=...), "the field `payload` is missing"),
        (wire(id=5), "`id`"),
        (wire(id=None), "`id`"),
        (wire(id=""), "`id` must be 1 to 256 printable characters"),
        (wire(id="x" * 257), "`id` must be 1 to 256"),
        (wire(id="a\r\nNats-Expected: b"), "`id` must be"),
        (wire(id="a\0"), "`id` must be"),
        (wire(parent_id=5), "`parent_id`"),
        (wire(route=None), "`route`"),
        (wire(route=["x"]), "`route`"),
        (wire(route={}), "`curr`"),
        (wire(route={"curr": None}), "$.curr"),
        (wire(route={"curr": "x", "prev": None}), "$.prev"),
        (wire(route={"curr": "x", "next": "y"}), "$.next"),
        (wire(route={"curr": "x", "next": ["y", 5]}), "$.next[1]"),
        (wire(headers=[]), "`headers`"),
        (wire(headers="x"), "`headers`"),
        (wire(status=[]), "`status`"),
        (wire(status={"phase": "done"}), "`status.phase` must be one of pending, processing"),
        (wire(status={"phase": None}), "$.phase"),
        (wire(status={"attempt": "2"}), "$.attempt"),
        (wire(status={"attempt": 0}), "$.attempt"),
        (wire(status={"attempt": 10**30}), "$.attempt"),
        (wire(status={"max_attempts": -1}), "$.max_attempts"),
        (wire(status={"created_at": None}), "$.created_at"),
        (wire(status={"deadline_at": "tomorrow"}), "`status.deadline_at`"),
        (wire(status={"deadline_at": "2026-01-01T00:00:00"}), "no time zone"),
        (wire(status={"deadline_at": "0001-01-01T00:00:00+23:00"}), "`status.deadline_at`"),
        (wire(status={"error": "E"}), "$.error"),
        (wire(status={"error": {}}), "$.error"),
        (wire(status={"error": {"type": "E", "args": [[1]]}}), "$.error.args[0]"),
    ],
)
def test_what_is_no_envelope_is_a_parse_error_that_names_the_field(data: bytes, named: str) -> None:
    with pytest.raises(ParseError) as caught:
        decode(data)
    assert named in str(caught.value)


@given(st.binary(max_size=200))
@example(b'{"id":"a","route":{"curr":"x"},"payload":"\xf0\x28\x8c\x28"}')
def test_any_bytes_are_an_envelope_or_a_parse_error(data: bytes) -> None:
    try:
        envelope = decode(data)
    except ParseError:
        return
    encode(envelope)


@given(wire_envelopes, st.data())
def test_a_broken_byte_is_a_parse_error_or_an_envelope_that_travels(
    known: dict[str, Any], data: Any
) -> None:
    message = bytearray(json.dumps(known, ensure_ascii=False).encode())
    place = data.draw(st.integers(0, len(message) - 1))
    message[place] = data.draw(st.integers(0, 255))
    try:
        envelope = decode(bytes(message))
    except ParseError:
        return
    json.loads(encode(envelope))
    assert isinstance(envelope.hop, int)
    assert isinstance(envelope.root, str)
    assert envelope.deadline is None or envelope.deadline.tzinfo is UTC


@given(
    st.dictionaries(st.sampled_from(sorted(OURS)), json_values),
)
def test_any_values_of_our_fields_are_an_envelope_or_a_parse_error(fields: dict[str, Any]) -> None:
    try:
        envelope = decode(json.dumps(fields).encode())
    except ParseError:
        return
    json.loads(encode(envelope))


def test_of_a_key_that_stands_twice_the_last_counts() -> None:
    data = (
        b'{"id":"a","id":"b","route":{"curr":"x","curr":"y"},"payload":1,"payload":2,"m":1,"m":2}'
    )
    envelope = decode(data)
    assert (envelope.id, envelope.route.curr, bytes(envelope.payload)) == ("b", "y", b"2")
    assert json.loads(encode(envelope))["m"] == 2
    assert encode(envelope).count(b'"payload"') == 1


def test_big_numbers_in_an_error_travel() -> None:
    data = wire(status={"error": {"type": "E", "args": [10**30, -(10**30), 1.5]}})
    assert json.loads(encode(decode(data)))["status"]["error"]["args"] == [10**30, -(10**30), 1.5]


def test_ten_megabytes_travel_unread() -> None:
    payload = b'"' + b"x" * 10_000_000 + b'"'
    envelope = decode(b'{"id":"a","route":{"curr":"x"},"payload":' + payload + b"}")
    assert encode(envelope).endswith(payload + b"}")


@pytest.mark.parametrize(
    ("raw", "hop"),
    [
        (b"0", 0),
        (b"7", 7),
        (b"-5", 2),
        (b'"7"', 2),
        (b"1.5", 2),
        (b"null", 2),
        (b"[1]", 2),
        (b"1e999", 2),
    ],
)
def test_the_hop_header_counts_and_nonsense_in_it_does_not(raw: bytes, hop: int) -> None:
    assert (
        Envelope("a", Route(["x", "y"], "z", []), Raw(b"1"), headers={HOP_HEADER: Raw(raw)}).hop
        == hop
    )


def test_an_absurd_hop_count_is_past_the_limit_and_fits_every_store() -> None:
    headers = {HOP_HEADER: Raw(b"123456789012345678901234567890")}
    hop = Envelope("a", Route([], "x", []), Raw(b"1"), headers=headers).hop
    assert HOPS_MAX < hop < 2**31


@pytest.mark.parametrize(
    ("raw", "root"), [(b'"r"', "r"), (b"5", "a"), (b'""', "a"), (b"[[[", "a"), (b"null", "a")]
)
def test_the_root_is_the_header_where_it_is_a_text(raw: bytes, root: str) -> None:
    envelope = Envelope("a", Route([], "x", []), Raw(b"1"), headers={ROOT_HEADER: Raw(raw)})
    assert envelope.root == root


def test_headers_are_decoded_when_asked_for() -> None:
    nested = b"[" * 900 + b"]" * 900
    headers = {"n": Raw(b"[1]"), "t": Raw(b'"x"'), "big": Raw(b"1e999"), "deep": Raw(nested)}
    envelope = Envelope("a", Route([], "x", []), Raw(b"1"), headers=headers)
    assert (envelope.header("n"), envelope.header("t")) == ([1], "x")
    assert (envelope.header("missing"), envelope.header("missing", 5)) == (None, 5)
    assert envelope.header("big", "default") == "default"
    assert (envelope.header_text("t"), envelope.header_text("n")) == ("x", None)
    assert envelope.header_text("missing") is None


def test_a_copy_can_be_changed_alone() -> None:
    envelope = decode(wire(headers={"a": 1}, status={"mine": 1}, mine=1))
    copy = envelope.copy()
    copy.route.prev.append("p")
    copy.route.next.append("n")
    copy.headers["b"] = raw_json(2)
    copy.status.attempt = 9
    copy.status_extra.clear()
    copy.extra.clear()
    assert json.loads(encode(envelope)) == json.loads(
        encode(decode(wire(headers={"a": 1}, status={"mine": 1}, mine=1)))
    )


def test_a_new_envelope_stands_at_the_first_actor() -> None:
    deadline = NOW + timedelta(seconds=30)
    envelope = new_envelope(
        ["a", "b", "c"], raw_json({"x": 1}), now=NOW, headers={"priority": 5}, deadline=deadline
    )
    assert uuid.UUID(envelope.id).version == 4
    assert (envelope.route.prev, envelope.route.curr, envelope.route.next) == ([], "a", ["b", "c"])
    assert (envelope.status.phase, envelope.status.actor, envelope.status.attempt) == (
        "pending",
        "a",
        1,
    )
    assert envelope.status.created_at == "2026-11-23T20:45:00.000Z"
    assert envelope.deadline == deadline
    assert envelope.header("priority") == 5
    assert decode(encode(envelope)).deadline == deadline


@given(ids, st.integers(0, 2000), st.integers(1, 10**6))
def test_a_child_has_the_same_id_on_every_run(parent: str, hop: int, index: int) -> None:
    made = child_id(parent, hop, index)
    assert made == child_id(parent, hop, index)
    assert uuid.UUID(made).version == 5
    assert len({made, child_id(parent, hop + 1, index), child_id(parent, hop, index + 1)}) == 3


def test_children_of_children_differ() -> None:
    seen = {child_id(p, h, i) for p in ("a", "b", "a:1") for h in range(12) for i in range(1, 12)}
    assert len(seen) == 3 * 12 * 11


@pytest.mark.parametrize("name", ["a", "0", "a-b", "a--b", "x-pause", "a" * NAME_MAX])
def test_dns_labels_are_actor_names(name: str) -> None:
    assert is_actor_name(name)


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "A", "a_b", "a.b", "a b", "é", "a\n", "a" * (NAME_MAX + 1)]
)
def test_anything_else_is_not(name: str) -> None:
    assert not is_actor_name(name)
    assert "is no actor name" in (route_problem(["ok", name]) or "")


def test_routes_are_checked() -> None:
    assert route_problem([]) is None
    assert route_problem(["a", "x-pause"]) is None
    assert route_problem(["a"] * ROUTE_MAX) is None
    assert "1000 actors, this one has 1001" in (route_problem(["a"] * (ROUTE_MAX + 1)) or "")
    for end in ("x-sink", "x-sump"):
        assert f"{end} may not stand in a route" in (route_problem(["a", end]) or "")
    number: Any = 5
    assert "5 is no actor name" in (route_problem(["a", number]) or "")


def test_queues_are_named_by_namespace_and_actor() -> None:
    assert queue_name("default", "embedder") == "asya-default-embedder"


@pytest.mark.parametrize("text", ["a", "é 1", "x" * ID_MAX, "6b1f8f0e-58a4-4c0b-9d53-1c5b8f6f2a11"])
def test_printable_texts_are_ids(text: str) -> None:
    assert id_problem(text) is None


@given(wire_envelopes, extras)
def test_what_is_encoded_fits_the_schema(known: dict[str, Any], extra: dict[str, Any]) -> None:
    checker = Draft202012Validator(json_schema())
    checker.validate(extra | known)
    checker.validate(json.loads(encode(decode(json.dumps(extra | known).encode()))))


@pytest.mark.parametrize(
    "fields",
    [{"id": ...}, {"route": ...}, {"payload": ...}, {"id": 5}, {"route": {}}, {"headers": []},
     {"status": {"phase": "done"}}, {"status": {"attempt": 0}}, {"parent_id": 5}],
)  # fmt: skip
def test_what_the_schema_refuses_is_refused(fields: dict[str, Any]) -> None:
    data = wire(**fields)
    assert not Draft202012Validator(json_schema()).is_valid(json.loads(data))
    with pytest.raises(ParseError):
        decode(data)


def test_the_schema_has_every_field_that_is_encoded() -> None:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    full = Envelope("a", Route([], "x", []), Raw(b"1"), parent_id="p",
                    status=Status(error=ErrorInfo("E", "m", ["E"], [1], "t")))  # fmt: skip
    written = json.loads(encode(full))
    assert set(written) == set(schema["properties"])
    assert set(written["status"]) == set(schema["$defs"]["Status"]["properties"])
    assert set(written["status"]["error"]) == set(schema["$defs"]["ErrorInfo"]["properties"])
    assert set(written["route"]) == set(schema["$defs"]["Route"]["properties"])


def test_values_of_our_own_become_raw_json() -> None:
    assert bytes(raw_json({"a": [1, None]})) == b'{"a":[1,null]}'
    assert msgspec.json.decode(raw_json(10**30)) == 10**30
