"""The one source of wall time, passed to whatever needs it.

Durations and timers come from the event loop's own clock; the wall clock is for what leaves the
process: envelopes, delays in the broker, the task store. Tests pass a clock of their own.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Tells the time of day."""

    def now(self) -> datetime:
        """The time now, with the time zone UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The time now, with the time zone UTC."""
        return datetime.now(UTC)


def to_rfc3339(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds: `2026-11-23T18:25:00.123Z`."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat("T", "milliseconds")[: -len("+00:00")] + "Z"


def from_rfc3339(text: str) -> datetime:
    """The moment that an RFC 3339 text names, in UTC.

    Raises:
        ValueError: The text is no RFC 3339 date-time with an offset.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; write an offset such as Z")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{text!r} lies outside of the years 1 to 9999 in UTC") from error


def seconds_until(moment: datetime, now: datetime) -> float:
    """Seconds from `now` to `moment`; negative when it has passed."""
    return (moment - now) / timedelta(seconds=1)
