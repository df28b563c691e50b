"""Events as they are stored, and read again."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import Raw

from asya.envelope import ErrorInfo, Route
from asya.events import Content, HopEnded, HopSent, HopStarted
from asya.tasks.stored_events import (
    EventRow,
    HopEvent,
    StoredEnd,
    StoredHop,
    StoredSent,
    StoredStart,
    hop_row,
    progress_of,
    stored_hop,
)

ROUTE = Route(["a"], "b", ["c"])
AT = "2026-01-01T00:00:01.000Z"
BODY = Content(3, "ab")
ERROR = ErrorInfo("E", "m", ["E", "Exception"], ["a password"], "the frames")
STARTED = HopStarted("t", 1, "b", 2, AT, "r", ROUTE, AT, 4711, "p", "f", BODY, "00-1")
ENDED = HopEnded("t", 1, "b", 2, AT, "retrying", ROUTE, ERROR, AT, BODY, attempts_max=3)
SENT = HopSent("t", 1, "b", 2, AT, ROUTE)
BARE_ERROR = ErrorInfo("E", "m", traceback="the frames")

STORED = [
    (STARTED, "started", StoredStart(1, "b", 2, AT, AT, 4711, BODY)),
    (ENDED, "ended", StoredEnd(1, "b", 2, AT, "retrying", BARE_ERROR, AT, BODY, 3)),
    (SENT, "sent", StoredSent(1, "b", 2, AT)),
]


@pytest.mark.parametrize(("event", "kind", "stored"), STORED)
def test_the_parts_of_an_event_that_are_shown_come_back(
    event: HopEvent, kind: str, stored: StoredHop
) -> None:
    row = hop_row(7, event, 33)
    assert (row.seq, row.kind, row.progress, progress_of(row)) == (7, kind, 33, 33)
    assert stored_hop(row) == stored


@pytest.mark.parametrize("event", [STARTED, ENDED, SENT])
def test_a_field_has_the_name_and_the_value_that_it_has_in_the_event(event: HopEvent) -> None:
    emitted = msgspec.to_builtins(event)
    stored = msgspec.json.decode(hop_row(1, event, 0).data)
    stored.pop("error", None)
    assert stored.items() <= emitted.items()


def test_neither_payloads_nor_arguments_of_an_error_are_stored_with_an_event() -> None:
    secret = Raw(b'{"password":"x"}')
    started = msgspec.structs.replace(STARTED, payload=secret)
    ended = msgspec.structs.replace(ENDED, payload=secret, payload_in=secret)
    assert hop_row(1, started, 0) == hop_row(1, STARTED, 0)
    assert hop_row(2, ended, 0) == hop_row(2, ENDED, 0)
    assert b"password" not in hop_row(2, ended, 0).data
    assert ended.error is ERROR
    assert ERROR.args == ["a password"], "the event itself stays as it is"


def test_the_rows_of_a_hop_do_not_grow_with_the_route() -> None:
    long = Route(["passed"] * 64, "b", ["to-come"] * 900)
    for event in (STARTED, ENDED, SENT):
        longer = msgspec.structs.replace(event, route=long)
        assert hop_row(1, longer, 0) == hop_row(1, event, 0)


def test_an_event_of_schema_5_is_read() -> None:
    data = (
        b'{"n":1,"actor":"b","attempt":2,"at":"%s","state":"retrying","progress":40' % AT.encode()
    )
    data += b',"retry_at":"then","error":{"type":"E","message":"m","reason":"R"}}'
    row = EventRow(3, "ended", data)
    error = ErrorInfo("E", "m")
    assert stored_hop(row) == StoredEnd(1, "b", 2, AT, "retrying", error, "then")
    assert progress_of(row) == 40
    start = EventRow(2, "started", data)
    assert stored_hop(start) == StoredStart(1, "b", 2, AT)


def test_a_whole_event_is_read() -> None:
    """Before rows were cut down to what is shown, they had every field of the event."""
    for event, kind, stored in STORED:
        row = EventRow(1, kind, msgspec.json.encode(event), 33)
        whole = stored_hop(row)
        if isinstance(whole, StoredEnd):
            assert whole.error == ERROR
            whole.error = BARE_ERROR
        assert whole == stored
