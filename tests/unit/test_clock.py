"""Times as texts: one form out, RFC 3339 in."""

from datetime import UTC, datetime

import pytest

from asya.clock import from_rfc3339, to_rfc3339


def test_a_time_comes_back_as_it_went_out() -> None:
    moment = datetime(2026, 11, 23, 18, 25, 0, 123000, tzinfo=UTC)
    assert to_rfc3339(moment) == "2026-11-23T18:25:00.123Z"
    assert from_rfc3339(to_rfc3339(moment)) == moment


def test_an_offset_becomes_utc() -> None:
    assert from_rfc3339("2026-01-01T01:30:00+01:30") == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-01-01T00:00:00",
        "0001-01-01T00:00:00+23:00",
        "9999-12-31T23:59:59-23:00",
    ],
)
def test_what_names_no_moment_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        from_rfc3339(text)
