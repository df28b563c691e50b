"""When something is due that comes again and again: pure, with the time passed in.

A `Timetable` is a cron line in a time zone, or a fixed distance between due times, within bounds.
Cron lines are read by cronsim, which follows Debian's cron to the letter, at changes of the clock
too: a line with a fixed hour runs once a day, also on the day when that hour does not exist or
comes twice; one with `*` as its minute or hour follows the clock on the wall as it goes on. Where
clocks change by half an hour (Lord Howe Island) such a line may miss a run on that day.
Called by `manifest` to check, and by the scheduler.
"""

from __future__ import annotations

import itertools
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from asya.errors import nearest

EVERY_MIN_S: Final = 1.0
"""The shortest distance of due times, in seconds: each one is stored and published."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""Where the due times of `every` count from without `starts_at`: all gateways agree on it."""

NICKNAMES: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_FIELDS: Final = "minute hour day-of-month month day-of-week"
_TICK: Final = timedelta(microseconds=1)


@dataclass(frozen=True)
class Timetable:
    """Due times: of a cron line, or every so many seconds.

    Attributes:
        cron: A line that `cron_line` has passed, or None.
        every_s: Seconds between due times, at least `EVERY_MIN_S`, or None.
        zone: The time zone of the cron line.
        starts_at: No due time before this.
        ends_at: No due time after this.
    """

    cron: str | None = None
    every_s: float | None = None
    zone: tzinfo = UTC
    starts_at: datetime | None = None
    ends_at: datetime | None = None

    def next_after(self, moment: datetime) -> datetime | None:
        """The first due time after a moment, in UTC; None when there is none any more."""
        if self.starts_at is not None:
            moment = max(moment, self.starts_at - _TICK)
        found = next(self._forward(moment), None)
        if found is None or (self.ends_at is not None and found > self.ends_at):
            return None
        return found

    def due(self, after: datetime, until: datetime, most: int) -> list[datetime]:
        """The due times after `after` up to and with `until`, the `most` newest, oldest first."""
        if self.starts_at is not None:
            after = max(after, self.starts_at - _TICK)
        if self.ends_at is not None:
            until = min(until, self.ends_at)
        if until <= after:
            return []
        newest = itertools.takewhile(lambda found: found > after, self._backward(until))
        return list(itertools.islice(newest, most))[::-1]

    def _forward(self, after: datetime) -> Iterator[datetime]:
        if self.every_s is not None:
            step, anchor = self._step()
            count = (after - anchor) // step + 1
            return (anchor + step * number for number in itertools.count(count))
        return self._cron_times(after, reverse=False)

    def _backward(self, until: datetime) -> Iterator[datetime]:
        if self.every_s is not None:
            step, anchor = self._step()
            count = (until - anchor) // step
            return (anchor + step * number for number in itertools.count(count, -1))
        # cronsim begins before a whole second, and with the second that a broken one lies in
        return self._cron_times(until if until.microsecond else until + _TICK, reverse=True)

    def _step(self) -> tuple[timedelta, datetime]:
        # whole milliseconds, as times are written: a due time must read back as itself
        anchor = self.starts_at or EPOCH
        anchor -= timedelta(microseconds=anchor.microsecond % 1000)
        return timedelta(milliseconds=round((self.every_s or EVERY_MIN_S) * 1000)), anchor

    def _cron_times(self, moment: datetime, *, reverse: bool) -> Iterator[datetime]:
        from cronsim import CronSim

        assert self.cron is not None
        local = moment.astimezone(self.zone)
        for found in CronSim(self.cron, local, reverse=reverse):
            yield found.astimezone(UTC)


def cron_line(text: str) -> str:
    """A cron line of five fields, nicknames (`@hourly`) written out.

    Raises:
        ValueError: It cannot be read, or never fires; the text says where.
    """
    given = text.strip()
    if given.startswith("@"):
        if given.lower() in NICKNAMES:
            return NICKNAMES[given.lower()]
        close = nearest(given.lower(), NICKNAMES)
        hint = f"did you mean {close}?" if close else f"there are: {', '.join(NICKNAMES)}"
        raise ValueError(f"unknown nickname {given!r}; {hint}")
    fields = given.split()
    if len(fields) != 5:
        raise ValueError(f'expected five fields, "{_FIELDS}", got {len(fields)} in {text!r}')
    line = " ".join(fields)
    problem = _cron_problem(line)
    if problem is None:
        return line
    if _cron_problem(" ".join([*fields[:3], "*", *fields[4:]])) is None:
        raise ValueError(f"{text!r} never fires: no month of {fields[3]!r} has a day {fields[2]!r}")
    raise ValueError(f'{problem} in {text!r}; the fields are "{_FIELDS}"')


def _cron_problem(line: str) -> str | None:
    from cronsim import CronSim, CronSimError

    try:
        found = next(CronSim(line, EPOCH), None)
    except CronSimError as error:
        return str(error).lower()
    except (AssertionError, ValueError):  # forms that it does not expect, such as `MON#2/2`
        return "a field that cannot be read"
    return None if found is not None else "no time"


def time_zone(name: str) -> tzinfo:
    """The time zone of an IANA name such as `Europe/Berlin`.

    Raises:
        ValueError: There is none of this name.
    """
    if name == "UTC":
        return UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        known = zoneinfo.available_timezones()
        close = nearest(name, known)
        hint = f"; did you mean {close!r}?" if close else ", such as 'Europe/Berlin'"
        if not known:
            hint = "; this machine has no time zones: pip install tzdata"
        raise ValueError(f"expected a time zone, got {name!r}{hint}") from error
