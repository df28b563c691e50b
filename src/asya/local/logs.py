"""What replicas print: one bounded log per actor.

Every line begins with the time, the replica's pid and, if it is known, the envelope. `log_lines` has
the forms. The text form keeps bytes as they are, whatever their encoding. A log is two files,
`<actor>.log` and `<actor>.log.1`, each at most `bytes_max` long. When the first is full it becomes
the second. A line longer than `LINE_MAX` is cut. Each replica has a `LineWriter`, which writes from
the event loop: a write into the page cache costs microseconds, and the pipe bounds what is read per
turn of the loop.

A replica that prints more than `RATE_MAX` bytes in a second would keep the loop busy with lines that
the next ones push out of the log anyway. Only the newest part of the excess is kept, and the log
says how much was skipped.

A full disk costs log lines, never a message. The log counts the bytes that could not be written, and
says so when the disk takes bytes again.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from asya.clock import Clock, SystemClock, to_rfc3339
from asya.local.log_lines import About, Form, written

LINE_MAX: Final = 64 * 1024
"""Bytes of one line. A replica that prints no line ends costs this much memory."""

RATE_MAX: Final = 8 * 1024 * 1024
"""Bytes per second and replica that are logged in full."""


class RotatingLog:
    """An append-only log of bounded size, shared by all replicas of an actor.

    Args:
        path: The file.
        bytes_max: Its size at most.
        form: Of its lines.
        actor: Whose log it is; empty for the mesh's own.

    Attributes:
        whose: The envelope that a replica works on, by its pid, or None; asked at each write.
    """

    def __init__(self, path: Path, bytes_max: int, *, form: Form = "text", actor: str = "") -> None:
        self.path = path
        self.whose: Callable[[int], str | None] = _nobodys
        self._form: Form = form
        self._actor = actor
        self._bytes_max = bytes_max
        self._file: int | None = None
        self._size = 0
        self._dropped = 0

    @property
    def former(self) -> Path:
        """The file that holds what came before the newest `bytes_max` bytes."""
        return self.path.with_name(self.path.name + ".1")

    def write(self, data: bytes) -> None:
        """Append bytes; they should be whole lines. Never raises."""
        try:
            self._open()
            if self._size + len(data) > self._bytes_max and self._size > 0:
                self._rotate()
            if self._dropped:
                data = self._told(f"({self._dropped} bytes were lost: the disk refused)") + data
            self._write_all(data[-self._bytes_max :])
            self._dropped = 0
        except OSError:
            self._dropped += len(data)

    def write_lines(
        self,
        time: str,
        pid: int,
        lines: bytes,
        *,
        level: str = "",
        actor: str = "",
        envelope: str = "",
    ) -> None:
        """Append texts, divided by newlines, in the form of this log. Never raises."""
        about = About(time, pid, actor or self._actor, level, envelope or self.whose(pid) or "")
        self.write(written(self._form, about, lines))

    def close(self) -> None:
        """Close the file; a later write opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _told(self, text: str) -> bytes:
        if self._form == "text":
            return text.encode() + b"\n"
        now = to_rfc3339(SystemClock().now())
        return written("json", About(now, os.getpid(), self._actor), text.encode())

    def _open(self) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._file = os.open(self.path, flags, 0o644)
            self._size = os.fstat(self._file).st_size

    def _rotate(self) -> None:
        self.close()
        self.path.replace(self.former)
        self._open()

    def _write_all(self, data: bytes) -> None:
        assert self._file is not None
        view = memoryview(data)
        while view:
            written = os.write(self._file, view)
            self._size += written
            view = view[written:]


class LineWriter:
    """Cuts one replica's output into lines, and puts time and pid before each."""

    def __init__(self, log: RotatingLog, pid: int, clock: Clock) -> None:
        self._log = log
        self._pid = pid
        self._clock = clock
        self._rest = b""
        self._second = 0
        self._taken = 0
        self._skipped = 0
        self._newest = b""

    @property
    def is_behind(self) -> bool:
        """Whether something was skipped and `catch_up` should be called in a second."""
        return bool(self._newest)

    def feed(self, data: bytes) -> None:
        """Take what was read; whole lines are written, the rest waits for its end."""
        second = int(self._clock.now().timestamp())
        if second != self._second:
            self._second, self._taken = second, 0
            self.catch_up()
        self._taken += len(data)
        if self._taken > RATE_MAX:
            self._skipped += len(data)
            self._newest = (self._newest + data[-LINE_MAX:])[-LINE_MAX:]
        else:
            self._take(data)

    def catch_up(self) -> None:
        """Write the newest part of what was skipped."""
        if not self._newest:
            return
        newest, self._newest = self._newest, b""
        skipped, self._skipped = self._skipped - len(newest), 0
        self._write_rest()
        if skipped:
            self._write(f"({skipped} bytes were skipped: too many in a second)".encode())
        self._take(newest)

    def flush(self) -> None:
        """Write all that is held; what has no line end, as a line."""
        self.catch_up()
        self._write_rest()

    def _take(self, data: bytes) -> None:
        head, newline, rest = data.rpartition(b"\n")
        if newline:
            self._write(self._rest + head)
            self._rest = rest
        else:
            self._rest += data
        if len(self._rest) >= LINE_MAX:
            self._write_rest()

    def _write_rest(self) -> None:
        if self._rest:
            rest, self._rest = self._rest, b""
            self._write(rest)

    def _write(self, lines: bytes) -> None:
        self._log.write_lines(to_rfc3339(self._clock.now()), self._pid, lines)


class LogHandler(logging.Handler):
    """Sends what the mesh's own code logs to a `RotatingLog`, each record as lines of their own.

    A record says what it is about by `extra={"actor": …, "envelope": …}`.
    """

    def __init__(self, log: RotatingLog) -> None:
        super().__init__()
        self._log = log
        self._clock = SystemClock()
        # of our own, since `logging.basicConfig` gives one to a handler that has none
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record. Never raises."""
        try:
            text = self.format(record)
            if not record.name.startswith(("asya", "py.warnings")):
                text = f"({record.name}) {text}"
            self._log.write_lines(
                to_rfc3339(self._clock.now()),
                os.getpid(),
                text.encode("utf-8", "backslashreplace"),
                level=record.levelname,
                actor=getattr(record, "actor", ""),
                envelope=getattr(record, "envelope", ""),
            )
        except Exception:
            self.handleError(record)


def _nobodys(pid: int) -> str | None:
    return None


def tail(
    path: Path, count: int, wanted: Callable[[bytes], bool] = lambda line: True
) -> list[bytes]:
    """The last `count` wanted lines of a log, without their ends, from both of its files."""
    lines: deque[bytes] = deque(maxlen=count)
    for each in (path.with_name(path.name + ".1"), path):
        lines.extend(filter(wanted, _lines(each)))
    return list(lines)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            for line in file:
                yield line.rstrip(b"\n")
    except FileNotFoundError:
        return
