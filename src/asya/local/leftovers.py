"""The processes that a killed supervisor left behind, and how the next one ends them.

Every child that is started is recorded as one JSON line {pid, create_time, name}. A clean stop
removes the file. The next start ends those of the list that still live. A pid counts only together
with its create time, because the system reuses pids. Every child leads a session of its own, so the
processes that it forked are found by their session, even when the leader is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

GONE_WAIT_S: Final = 5.0
"""How long the kernel may take to end a process that was killed."""

COMPACT_AT: Final = 512
"""Lines after which the file is rewritten without the children that have ended."""


@dataclass(frozen=True)
class Child:
    """A process that was started. Its create time tells it from a later one with the same pid."""

    pid: int
    create_time: float
    name: str


class ChildRecord:
    """The file that lists the children of one mesh."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._children: dict[int, Child] = {}
        self._lines = 0

    def add(self, pid: int, name: str) -> None:
        """Record a child. One that has ended already, or a full disk, is not an error."""
        created = create_time(pid)
        if created is None:
            return
        self._children[pid] = Child(pid, created, name)
        with contextlib.suppress(OSError):
            if self._lines >= COMPACT_AT:
                self._write_all()
            else:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(_line(self._children[pid]))
                self._lines += 1

    def remove(self, pid: int) -> None:
        """Forget a child that has ended. The file may still name it; its create time makes that harmless."""
        self._children.pop(pid, None)

    def clear(self) -> None:
        """All have ended: remove the file."""
        self._children.clear()
        self._lines = 0
        self.path.unlink(missing_ok=True)

    def read(self) -> list[Child]:
        """What the last run recorded; a line that a kill cut off is skipped."""
        children = []
        with contextlib.suppress(FileNotFoundError):
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    read = json.loads(line)
                    children.append(
                        Child(int(read["pid"]), float(read["create_time"]), str(read["name"]))
                    )
        return children

    def _write_all(self) -> None:
        lines = [_line(each) for each in self._children.values()]
        new = self.path.with_suffix(".new")
        new.write_text("".join(lines), encoding="utf-8")
        new.replace(self.path)
        self._lines = len(lines)


def still_alive(children: Iterable[Child]) -> list[Child]:
    """Those of the list that still live, or whose session does."""
    sessions = _sessions()
    return [each for each in dict.fromkeys(children) if _session(each, sessions)]


def end_leftovers(children: Iterable[Child]) -> list[Child]:
    """Kill those that still live, with all that they forked; returns those.

    They get no SIGTERM: their sidecar is gone, so they have no way to finish anything.
    """
    sessions = _sessions()
    left = {each: pids for each in set(children) if (pids := _session(each, sessions))}
    found = list(left)
    until = time.monotonic() + GONE_WAIT_S
    while left and time.monotonic() < until:
        for pid in (pid for pids in left.values() for pid in pids):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
        sessions = _sessions()
        left = {each: pids for each in left if (pids := _session(each, sessions))}
    return found


def create_time(pid: int) -> float | None:
    """When a process began, in seconds since 1970, or None when there is none (or a zombie)."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(process.create_time())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def _line(child: Child) -> str:
    return json.dumps(asdict(child)) + "\n"


def _sessions() -> dict[int, list[int]]:
    """The living processes of this machine by the session they are in."""
    import psutil

    sessions: dict[int, list[int]] = {}
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            sessions.setdefault(os.getsid(pid), []).append(pid)
    return sessions


def _session(child: Child, sessions: Mapping[int, list[int]]) -> list[int]:
    """The living processes of a child's session: itself and what it forked."""
    created = create_time(child.pid)
    # Another process has the pid now. While a session lives, the kernel does not reuse its number.
    if created is not None and abs(created - child.create_time) > 0.05:
        return []
    members = {*sessions.get(child.pid, ()), child.pid}
    return [pid for pid in sorted(members) if create_time(pid) is not None]
