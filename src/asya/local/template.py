"""The warm template of an actor: a process that has imported its module, and forks replicas.

It saves the interpreter's start and the import. It is started when the actor's first replica is
asked to go, so an actor that was never used, or whose replicas stay, has none; and it ends when it
had nothing to do for `idle_s`. Whatever is wrong with it, the replica is started in the plain way.
The process itself is `asya.runtime.template`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, cast

from asya.clock import Clock, to_rfc3339
from asya.local.leftovers import ChildRecord
from asya.local.logs import RotatingLog
from asya.local.process import READ_ON_S, Child, Launch, ReplicaProcess
from asya.local.source_watch import drop_bytecode

ANSWER_S: Final = 2.0
"""How long a template may take to fork."""

CODE_S: Final = 0.2
"""How long the exit code of a replica that has ended is waited for: only its template knows it."""

END_S: Final = 1.0
"""How long a template may take to end when it is told to."""

MESSAGE_MAX: Final = 64 * 1024

OFF: Final = "ASYA_TEMPLATE"
"""A variable of the actor: `off` means that there shall be no template."""

_HOLDS: Final = hasattr(os, "pidfd_open") and sys.platform == "linux"


class ForkedProcess(Child, asyncio.Protocol):
    """A replica that a template has forked: no child of this process."""

    def __init__(
        self, log: RotatingLog, clock: Clock, on_end: Callable[[ForkedProcess], None]
    ) -> None:
        super().__init__(log, clock)
        self._on_end = on_end
        self._pipe: asyncio.ReadTransport | None = None
        self._loop = asyncio.get_running_loop()
        self._code: int | None = None
        self._gone = False
        self._told = False

    @property
    def returncode(self) -> int | None:
        """As the template told it; None when that could not."""
        return self._code

    def follow(self, pid: int, pidfd: int) -> None:
        """The process runs."""
        self.prints_as(pid)

        def exited() -> None:
            self._loop.remove_reader(pidfd)
            os.close(pidfd)
            self._gone = True
            self._loop.call_later(0.0 if self._told else CODE_S, self._end)

        self._loop.add_reader(pidfd, exited)

    def tell(self, code: int | None) -> None:
        """The template has reaped it, or is gone itself."""
        self._told = True
        self._code = code
        if self._gone:
            self._end()

    def _end(self) -> None:
        if self.ended.is_set():
            return
        self.signal(signal.SIGKILL)  # what it forked
        self.ended.set()
        self._loop.call_later(READ_ON_S, self.close)
        self._on_end(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Its pipe is open."""
        self._pipe = cast("asyncio.ReadTransport", transport)

    def data_received(self, data: bytes) -> None:
        """It printed."""
        self.printed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody of the group can print any more."""
        self.printed_all()
        self.closed.set()

    def close(self) -> None:
        """Read no more of what it prints."""
        if self._pipe is not None:
            self._pipe.close()


class Template:
    """At most one process at a time; started by `want`, again and again.

    Args:
        actor: The actor's name.
        log: Where the template and its replicas print.
        record: Where processes are written down.
        clock: The wall clock.
        idle_s: How long it stays without a replica; 0 for no template at all.
    """

    def __init__(
        self, actor: str, log: RotatingLog, record: ChildRecord, clock: Clock, idle_s: float
    ) -> None:
        self._actor = actor
        self._log = log
        self._record = record
        self._clock = clock
        self._idle_s = idle_s
        self._loop = asyncio.get_running_loop()
        self._process: ReplicaProcess | None = None
        self._processes: set[ReplicaProcess] = set()
        self._sock: socket.socket | None = None
        self._ready = False
        self._starting: asyncio.Task[None] | None = None
        self._stopped = False
        self._refused: Launch | None = None
        self._asked: dict[int, asyncio.Future[tuple[int, int] | None]] = {}
        self._number = 0
        self._children: dict[int, ForkedProcess] = {}
        self._idle: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, or None where there is none that is ready."""
        return self._process.pid if self._process is not None and self._ready else None

    def want(self, launch: Launch) -> None:
        """Have a template ready soon, if this actor may have one."""
        allowed = launch.environment.get(OFF, "").lower() not in {"off", "0", "false", "no"}
        if not (_HOLDS and allowed and self._idle_s > 0) or self._stopped:
            return
        if self._starting is None and self._sock is None and launch != self._refused:
            self._starting = self._loop.create_task(self._start(launch))

    async def _start(self, launch: Launch) -> None:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**launch.environment, "ASYA_FORKS": str(its.fileno())}
        warm = replace(launch, environment=environment)
        try:
            process = await ReplicaProcess.spawn(
                warm, self._log, self._clock, self._ended, pass_fds=[its.fileno()]
            )
        except OSError:
            ours.close()
            return
        finally:
            its.close()
            self._starting = None
        self._record.add(process.pid, self._actor)
        self._process, self._sock = process, ours
        self._processes.add(process)
        ours.setblocking(False)
        self._loop.add_reader(ours.fileno(), self._readable, ours, launch)
        if self._stopped:
            self.end()

    async def fork(self, on_end: Callable[[ForkedProcess], None]) -> ForkedProcess | None:
        """A replica of the template; None where there is no template, or it cannot."""
        if not self._ready or self._sock is None:
            return None
        out, end = os.pipe()
        process = ForkedProcess(self._log, self._clock, on_end)
        self._number += 1
        number = self._number
        answer = self._asked[number] = self._loop.create_future()
        try:
            message = json.dumps({"k": "fork", "n": number}).encode()
            socket.send_fds(self._sock, [message], [end])
            async with asyncio.timeout(ANSWER_S):
                forked = await answer
        except (OSError, TimeoutError):
            forked = None
            self.end()
        finally:
            self._asked.pop(number, None)
            os.close(end)
        if forked is None:
            os.close(out)
            return None
        process.follow(*forked)
        self._children[process.pid] = process
        self._stay()
        await self._loop.connect_read_pipe(lambda: process, os.fdopen(out, "rb", buffering=0))
        return process

    def _readable(self, sock: socket.socket, launch: Launch) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(sock, MESSAGE_MAX, 1)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if sock is not self._sock:
            return
        if not data:
            self.end()
            return
        self._take(json.loads(data), fds, launch)

    def _take(self, told: dict[str, Any], fds: list[int], launch: Launch) -> None:
        answer = self._asked.get(told.get("n", 0))
        match told["k"]:
            case "ready":
                self._ready = True
                self._stay()
            case "off":
                self._refused = launch
                self._write(f"replicas are started without a template: {told['why']}")
                self.end()
            case "stale":
                drop_bytecode([told["file"]])
                self.end()
                self.want(launch)
            case "forked" if answer is None or answer.done():
                os.close(fds[0])  # it came too late: another was started
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(told["pid"], signal.SIGKILL)
            case "forked" if answer is not None:
                answer.set_result((told["pid"], fds[0]))
            case "refused" if answer is not None and not answer.done():
                answer.set_result(None)
            case "ended":
                child = self._children.pop(told["pid"], None)
                if child is not None:
                    child.tell(told["code"])
                self._stay()

    def _write(self, text: str) -> None:
        now = to_rfc3339(self._clock.now())
        self._log.write_lines(now, os.getpid(), text.encode("utf-8", "backslashreplace"))

    def _stay(self) -> None:
        """Something happened: the time without use begins anew, once no replica is left."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if not self._children and self._sock is not None:
            self._idle = self._loop.call_later(self._idle_s, self.end)

    def forget(self) -> None:
        """The code has changed: end, and what was wrong with the code before is no matter."""
        self._refused = None
        self.end()

    def end(self) -> None:
        """Have none any more. Replicas that it forked run on."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        sock, self._sock = self._sock, None
        process, self._process = self._process, None
        if sock is not None:
            self._loop.remove_reader(sock.fileno())
            sock.close()
        if process is not None:
            # One that forks must come to its end by itself: nobody would know of its last child.
            wait_s = END_S if self._ready else 0.0
            self._loop.call_later(wait_s, process.signal, signal.SIGKILL)
        self._ready = False
        for answer in self._asked.values():
            if not answer.done():
                answer.set_result(None)
        children, self._children = self._children, {}
        for child in children.values():
            child.tell(None)

    def _ended(self, process: ReplicaProcess) -> None:
        self._record.remove(process.pid)
        self._processes.discard(process)

    async def stop(self) -> None:
        """Have none, for good; returns when the process is gone."""
        self._stopped = True
        if self._starting is not None:
            await asyncio.wait([self._starting])
        self.end()
        for process in list(self._processes):
            process.signal(signal.SIGKILL)
            await process.ended.wait()
            process.close()
            await process.closed.wait()
