"""Which payloads go along with events."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw

from asya.envelope import BLOB_HEADER, Envelope, Route
from asya.sidecar.capture import Capture


def envelope(id: str = "e", payload: bytes = b"1", header: str = "x") -> Envelope:
    return Envelope(id, Route([], "a", []), Raw(payload), headers={header: Raw(b"{}")})


@pytest.mark.parametrize(
    ("mode", "before", "after", "after_error"),
    [
        ("none", None, None, None),
        ("errors", None, None, Raw(b"1")),
        ("all", Raw(b"1"), Raw(b"2"), None),
    ],
)
def test_what_is_captured(
    mode: Any, before: Raw | None, after: Raw | None, after_error: Raw | None
) -> None:
    capture, came, made = Capture(mode), envelope(), envelope(payload=b"2")
    assert capture.before(came) == before
    assert capture.after(came, made) == after
    assert capture.after_error(came) == after_error


def test_a_sample_takes_an_envelope_everywhere_or_nowhere() -> None:
    capture = Capture("sample", 0.25)
    ids = [f"id-{number}" for number in range(1000)]
    taken = {id_ for id_ in ids if capture.before(envelope(id_)) is not None}
    assert 150 < len(taken) < 350
    assert taken == {id_ for id_ in ids if capture.after(envelope(id_), envelope("c")) is not None}
    assert Capture("sample", 0.0).before(envelope()) is None
    assert Capture("sample", 1.0).before(envelope()) == Raw(b"1")


def test_a_payload_that_was_checked_in_stays_where_it_is() -> None:
    checked_in = envelope(header=BLOB_HEADER)
    assert Capture("all").before(checked_in) is None
    assert Capture("all").after(envelope(), checked_in) is None
    assert Capture("errors").after_error(checked_in) is None
