"""Events as they are stored, and read again."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import Raw

from asya.envelope import ErrorInfo, Route
from asya.events import Content, HopEnded, HopSent, HopStarted
from asya.tasks.stored_events import EventRow, HopEvent, hop_event, hop_row, progress_of

ROUTE = Route(["a"], "b", ["c"])
AT = "2026-01-01T00:00:01.000Z"
STARTED = HopStarted("t", 1, "b", 2, AT, "r", ROUTE, AT, 4711, "p", "f", Content(3, "ab"), "00-1")
ENDED = HopEnded("t", 1, "b", 2, AT, "retrying", ROUTE, ErrorInfo("E", "m"), AT, attempts_max=3)
SENT = HopSent("t", 1, "b", 2, AT, ROUTE)


@pytest.mark.parametrize(
    ("event", "kind"), [(STARTED, "started"), (ENDED, "ended"), (SENT, "sent")]
)
def test_an_event_comes_back_as_it_was_emitted(event: HopEvent, kind: str) -> None:
    row = hop_row(7, event, 33)
    assert (row.seq, row.kind, row.progress, progress_of(row)) == (7, kind, 33, 33)
    assert hop_event(row) == event


def test_payloads_are_not_stored_with_their_event() -> None:
    secret = Raw(b'{"password":"x"}')
    started = msgspec.structs.replace(STARTED, payload=secret)
    ended = msgspec.structs.replace(ENDED, payload=secret, payload_in=secret)
    assert hop_event(hop_row(1, started, 0)) == STARTED
    assert hop_event(hop_row(2, ended, 0)) == ENDED
    assert started.payload == ended.payload == secret, "the event itself stays as it is"


def test_an_event_of_an_older_version_is_read() -> None:
    data = (
        b'{"n":1,"actor":"b","attempt":2,"at":"%s","state":"retrying","progress":40' % AT.encode()
    )
    data += b',"retry_at":"then","error":{"type":"E","message":"m","reason":"R"}}'
    row = EventRow(3, "ended", data)
    event = hop_event(row)
    assert isinstance(event, HopEnded)
    assert (event.n, event.actor, event.attempt, event.state) == (1, "b", 2, "retrying")
    assert (event.retry_at, event.error) == ("then", ErrorInfo("E", "m"))
    assert progress_of(row) == 40
