from __future__ import annotations

import errno
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from asya.local.logs import LINE_MAX, RATE_MAX, LineWriter, RotatingLog, tail

PREFIX = b"2026-11-23T18:25:00.000Z 4711 | "


class FixedClock:
    def __init__(self) -> None:
        self.time = datetime(2026, 11, 23, 18, 25, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time


@pytest.fixture
def log(tmp_path: Path) -> Any:
    made = RotatingLog(tmp_path / "logs" / "a.log", 100_000)
    yield made
    made.close()


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def writer(log: RotatingLog, clock: FixedClock) -> LineWriter:
    return LineWriter(log, 4711, clock)


def test_every_line_gets_time_and_pid(log: RotatingLog, writer: LineWriter) -> None:
    writer.feed(b"one\ntwo\n")
    assert log.path.read_bytes() == PREFIX + b"one\n" + PREFIX + b"two\n"


def test_a_line_in_pieces_is_one_line(log: RotatingLog, writer: LineWriter) -> None:
    for piece in (b"o", b"n", b"e\ntw", b"o"):
        writer.feed(piece)
    assert log.path.read_bytes() == PREFIX + b"one\n"
    writer.flush()
    assert log.path.read_bytes() == PREFIX + b"one\n" + PREFIX + b"two\n"


def test_bytes_are_kept_as_they_are(log: RotatingLog, writer: LineWriter) -> None:
    junk = bytes(range(256)).replace(b"\n", b"")
    writer.feed(junk + b"\n")
    assert log.path.read_bytes() == PREFIX + junk + b"\n"


def test_what_has_no_line_end_costs_bounded_memory(log: RotatingLog, writer: LineWriter) -> None:
    for _ in range(100):
        writer.feed(b"x" * 10_000)
        assert len(writer._rest) < LINE_MAX
    assert log._size <= 100_000


def test_the_log_is_bounded_whatever_is_printed(log: RotatingLog, writer: LineWriter) -> None:
    for number in range(20_000):
        writer.feed(b"line %d\n" % number)
    assert log.path.stat().st_size <= 100_000
    assert log.former.stat().st_size <= 100_000
    assert tail(log.path, 2) == [PREFIX + b"line 19998", PREFIX + b"line 19999"]
    assert sorted(each.name for each in log.path.parent.iterdir()) == ["a.log", "a.log.1"]


def test_the_tail_reaches_into_the_former_file(log: RotatingLog) -> None:
    log.write(b"old\n")
    log._rotate()
    log.write(b"new\n")
    assert tail(log.path, 10) == [b"old", b"new"]
    assert tail(log.path, 1) == [b"new"]
    assert tail(log.path.with_name("none.log"), 10) == []


def test_a_log_goes_on_where_the_last_run_ended(log: RotatingLog) -> None:
    log.write(b"a\n")
    again = RotatingLog(log.path, 100_000)
    again.write(b"b\n")
    again.close()
    assert log.path.read_bytes() == b"a\nb\n"


def test_a_disk_that_refuses_costs_lines_and_is_told(
    log: RotatingLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    log.write(b"before\n")
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        log.write(b"12345\n")
    log.write(b"after\n")
    assert log.path.read_bytes() == b"before\n(6 bytes were lost: the disk refused)\nafter\n"


def test_of_a_flood_the_newest_lines_are_kept_and_the_rest_is_counted(
    log: RotatingLog, writer: LineWriter, clock: FixedClock
) -> None:
    # given ten times more than is written down in a second
    line = b"x" * 1023 + b"\n"
    for _ in range(10 * RATE_MAX // 65536):
        writer.feed(line * 64)
    writer.feed(b"the end\n")
    assert writer.is_behind
    assert b"the end" not in log.path.read_bytes()

    # when its second is over
    clock.time += timedelta(seconds=1)
    writer.catch_up()

    # then the end is there, behind a note
    assert not writer.is_behind
    text = log.path.read_bytes() + log.former.read_bytes()
    skipped = 9 * RATE_MAX + len(b"the end\n") - LINE_MAX
    assert f"| ({skipped} bytes were skipped: too many in a second)".encode() in text
    assert tail(log.path, 1) == [PREFIX.replace(b":00.000", b":01.000") + b"the end"]
    # and the next second is written in full again
    writer.feed(b"a\nb\n")
    assert [line[-1:] for line in tail(log.path, 2)] == [b"a", b"b"]


def test_the_end_of_a_flood_is_written_when_the_replica_ends(
    log: RotatingLog, writer: LineWriter
) -> None:
    writer.feed(b"x" * RATE_MAX)
    writer.feed(b"\nTraceback\nlast words")
    writer.flush()
    assert tail(log.path, 1) == [PREFIX + b"last words"]
