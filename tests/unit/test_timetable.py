"""Due times: what a cron line says, at changes of the clock too, and forward equals backward."""

from __future__ import annotations

import itertools
import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asya.timetable import NICKNAMES, Timetable, cron_line, time_zone

BERLIN = ZoneInfo("Europe/Berlin")
START = datetime(2026, 1, 1, tzinfo=UTC)


def local(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


def times(timetable: Timetable, after: datetime, count: int) -> list[datetime]:
    """The next `count` due times, one call at a time."""
    found = []
    for _ in range(count):
        next_one = timetable.next_after(after)
        if next_one is None:
            break
        found.append(next_one)
        after = next_one
    return found


@pytest.mark.parametrize(
    ("line", "first", "second"),
    [
        ("*/15 * * * *", "2026-01-01T00:15", "2026-01-01T00:30"),
        ("0 9 * * MON-FRI", "2026-01-01T09:00", "2026-01-02T09:00"),
        ("30 6 1,15 * *", "2026-01-01T06:30", "2026-01-15T06:30"),
        ("0 0 29 feb *", "2028-02-29T00:00", "2032-02-29T00:00"),
        ("5-10/5 0 * 3 *", "2026-03-01T00:05", "2026-03-01T00:10"),
        ("0 12 13 * FRI", "2026-01-02T12:00", "2026-01-09T12:00"),
        ("@hourly", "2026-01-01T01:00", "2026-01-01T02:00"),
        ("@Daily", "2026-01-02T00:00", "2026-01-03T00:00"),
    ],
)
def test_a_cron_line_fires_when_it_says(line: str, first: str, second: str) -> None:
    found = times(Timetable(cron=cron_line(line)), START, 2)
    assert [each.isoformat() for each in found] == [f"{first}:00+00:00", f"{second}:00+00:00"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0 30 2 *", "never fires: no month of '2' has a day '30'"),
        ("0 0 31 feb,apr *", "never fires"),
        ("60 * * * *", "bad minute"),
        ("* * * * mon-fry", "bad day-of-week"),
        ("* * * *", "got 4"),
        ("0 * * * * *", "got 6"),
        ("", "got 0"),
        ("@hourlie", "did you mean @hourly"),
        ("@x", "there are: @hourly"),
        ("0 0 * * MON#2/2", "bad day-of-week"),
        ("*/0 * * * *", "bad minute"),
    ],
)
def test_a_line_that_cannot_be_used_says_why(line: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        cron_line(line)


def test_nicknames_are_lines() -> None:
    assert {cron_line(name) for name in NICKNAMES} == set(NICKNAMES.values())


def test_a_daily_run_in_the_hour_that_does_not_exist_happens_once() -> None:
    daily = Timetable(cron="30 2 * * *", zone=BERLIN)
    found = times(daily, local("2026-03-28T12:00"), 2)
    assert [each.astimezone(BERLIN).isoformat() for each in found] == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]


def test_a_daily_run_in_the_hour_that_comes_twice_happens_once() -> None:
    daily = Timetable(cron="30 2 * * *", zone=BERLIN)
    found = times(daily, local("2026-10-24T12:00"), 2)
    assert [each.astimezone(BERLIN).date().isoformat() for each in found] == [
        "2026-10-25",
        "2026-10-26",
    ]


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
def test_a_run_every_half_hour_does_not_care_about_the_clock(day: str) -> None:
    half_hourly = Timetable(cron="*/30 * * * *", zone=BERLIN)
    found = times(half_hourly, local(f"{day}T00:00"), 20)
    distances = {after - before for before, after in itertools.pairwise(found)}
    assert distances == {timedelta(minutes=30)}


def test_every_counts_from_the_start_or_the_epoch() -> None:
    every = Timetable(every_s=900.0)
    assert [each.minute for each in times(every, START + timedelta(minutes=1), 3)] == [15, 30, 45]
    begun = Timetable(every_s=900.0, starts_at=START + timedelta(minutes=7))
    assert [each.minute for each in times(begun, START, 3)] == [7, 22, 37]


def test_bounds_hold() -> None:
    hourly = Timetable(
        cron="0 * * * *",
        starts_at=START + timedelta(hours=2),
        ends_at=START + timedelta(hours=4),
    )
    expected = [START + timedelta(hours=n) for n in (2, 3, 4)]
    assert times(hourly, START, 9) == expected
    assert hourly.due(START, START + timedelta(days=1), 10) == expected
    assert hourly.due(START, START + timedelta(days=1), 2) == expected[1:]
    assert hourly.due(START + timedelta(hours=4), START + timedelta(days=1), 2) == []


def test_a_due_time_now_is_due_and_is_due_once() -> None:
    hourly = Timetable(cron="0 * * * *")
    now = START + timedelta(hours=1)
    assert hourly.due(START, now, 5) == [now]
    assert hourly.due(START, now - timedelta(microseconds=1), 5) == []
    assert hourly.due(now, now + timedelta(seconds=1), 5) == []


_LINES = st.tuples(
    st.sampled_from(["0", "*/20", "7,37", "59"]),
    st.sampled_from(["*", "2", "*/6", "1-3"]),
    st.sampled_from(["*", "1", "28-31"]),
    st.sampled_from(["*", "3,10", "2"]),
    st.sampled_from(["*", "SUN", "1-5"]),
).map(" ".join)


@given(
    st.one_of(
        st.builds(
            lambda line, zone: Timetable(cron=cron_line(line), zone=time_zone(zone)),
            _LINES.filter(lambda line: " 28-31 2 " not in line),
            st.sampled_from(
                [
                    "UTC",
                    "Europe/Berlin",
                    "America/New_York",
                    "America/St_Johns",
                    "Africa/Casablanca",
                ]
            ),
        ),
        st.builds(Timetable, every_s=st.sampled_from([601.0, 3600.0, 90061.5])),
    ),
    st.datetimes(datetime(2025, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.integers(1, 12),
)
def test_what_is_due_is_what_came_next(timetable: Timetable, after: datetime, count: int) -> None:
    # given the next due times, found one by one
    found = times(timetable, after, count)
    # then they rise, and the look back from the last one finds the same
    assert found == sorted(set(found))
    assert all(each > after for each in found)
    until = found[-1]
    assert timetable.due(after, until, count + 5) == found
    assert timetable.due(after, until + timedelta(seconds=0.5), count + 5)[:count] == found
    assert timetable.due(after, until, 1) == found[-1:]


def test_time_zones_by_name() -> None:
    assert time_zone("UTC") is UTC
    assert time_zone("Europe/Berlin") == BERLIN
    for name in ("Europe/Berlim", "../etc/passwd", "/etc/passwd", "", "Europe", "x" * 5000):
        with pytest.raises(ValueError, match="expected a time zone"):
            time_zone(name)
    with pytest.raises(ValueError, match="did you mean 'Europe/Berlin'"):
        time_zone("Europe/Berlim")
