"""One child process: a runtime that serves an actor, in a session of its own.

What it prints goes to the actor's log. Signals go to its process group, so everything that it forked
ends with it. A daemon that a handler puts into a session of its own escapes this. On Linux the kernel
kills replicas before the broker when memory runs out, and the manifest's memory limit holds
(`RLIMIT_DATA`: memory that a process writes to, not files that it maps). A handler above it gets a
`MemoryError`. Other systems have neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, cast

from asya.clock import Clock
from asya.local.logs import LineWriter, RotatingLog

OOM_SCORE: Final = 500
"""Added to a replica's score, of 1000 at most, when the kernel chooses what to kill."""

READ_ON_S: Final = 1.0
"""How long the output of a replica that has ended is read if a process keeps its pipe open."""

CATCH_UP_S: Final = 1.0
"""How long after a flood of output its last part is written, if nothing more comes."""


@dataclass(frozen=True)
class Launch:
    """How the replicas of an actor are started.

    Attributes:
        argv: The program and its arguments.
        folder: Its working folder.
        environment: All of its variables.
        memory_max: Bytes of data it may have, or None for no limit.
    """

    argv: Sequence[str]
    folder: Path
    environment: Mapping[str, str]
    memory_max: int | None = None


class Child(ABC):
    """A process of ours that prints into an actor's log.

    Attributes:
        ended: Set when it is gone.
        closed: Set when all that it printed has been read, too.
    """

    def __init__(self, log: RotatingLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._writer: LineWriter | None = None
        self._catching_up: asyncio.TimerHandle | None = None
        self.pid = 0
        self.started_at: datetime = clock.now()
        self.started_s = asyncio.get_running_loop().time()
        self.ended = asyncio.Event()
        self.closed = asyncio.Event()

    @property
    @abstractmethod
    def returncode(self) -> int | None:
        """The exit code, minus the number of the signal that ended it, or None if not known."""

    @abstractmethod
    def close(self) -> None:
        """Read no more of what it prints."""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and all of its group; nothing when they are gone."""
        if self.ended.is_set():
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def printed(self, data: bytes) -> None:
        """The process printed."""
        writer = self._writer
        if writer is None:
            return
        writer.feed(data)
        if writer.is_behind and self._catching_up is None:
            loop = asyncio.get_running_loop()
            self._catching_up = loop.call_later(CATCH_UP_S, self._catch_up)

    def _catch_up(self) -> None:
        self._catching_up = None
        if self._writer is not None:
            self._writer.catch_up()

    def prints_as(self, pid: int) -> None:
        """Its pid is known, so that its output can be logged."""
        self.pid = pid
        self._writer = LineWriter(self._log, pid, self._clock)

    def printed_all(self) -> None:
        """The pipe is closed: all output has been read."""
        if self._catching_up is not None:
            self._catching_up.cancel()
        if self._writer is not None:
            self._writer.flush()


class ReplicaProcess(Child, asyncio.SubprocessProtocol):
    """A running child of this process, made by `spawn`."""

    def __init__(
        self, log: RotatingLog, clock: Clock, on_end: Callable[[ReplicaProcess], None]
    ) -> None:
        super().__init__(log, clock)
        self._on_end = on_end
        self._transport: asyncio.SubprocessTransport | None = None

    @classmethod
    async def spawn(
        cls,
        launch: Launch,
        log: RotatingLog,
        clock: Clock,
        on_end: Callable[[ReplicaProcess], None],
        *,
        pass_fds: Sequence[int] = (),
    ) -> ReplicaProcess:
        """Start a process.

        Raises:
            OSError: The program cannot be started.
        """
        loop = asyncio.get_running_loop()
        _, protocol = await loop.subprocess_exec(
            lambda: cls(log, clock, on_end),
            *launch.argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=str(launch.folder),
            env=dict(launch.environment),
            start_new_session=True,
            pass_fds=tuple(pass_fds),
        )
        _limit(protocol.pid, launch.memory_max)
        return protocol

    @property
    def returncode(self) -> int | None:
        """The exit code, minus the number of the signal that ended it, or None while it runs."""
        return self._transport.get_returncode() if self._transport else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The process runs."""
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self.prints_as(self._transport.get_pid())

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        """The process printed."""
        self.printed(cast("bytes", data))

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """The last process of the group has closed the pipe."""
        if self._writer is not None:
            self._writer.flush()

    def process_exited(self) -> None:
        """The process was reaped. End what it forked, which would keep the pipe open for ever."""
        self.signal(signal.SIGKILL)
        self.ended.set()
        # A daemon in a session of its own got no signal, and may keep the pipe open for ever.
        asyncio.get_running_loop().call_later(READ_ON_S, self.close)
        self._on_end(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Reaped, and its pipe is closed."""
        self.printed_all()
        self.close()
        self.closed.set()

    def close(self) -> None:
        """Read no more of what it prints."""
        if self._transport is not None:
            self._transport.close()


def _limit(pid: int, memory_max: int | None) -> None:
    if not sys.platform.startswith("linux"):
        return
    # Both fail when the process has ended already, or in a sandbox. Then there is no limit.
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(OOM_SCORE), encoding="ascii")
    if memory_max is not None:
        with contextlib.suppress(OSError, ValueError):
            resource.prlimit(pid, resource.RLIMIT_DATA, (memory_max, memory_max))
