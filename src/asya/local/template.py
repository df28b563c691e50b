"""The warm template of an actor: a process that has imported its module, and forks replicas.

It saves the interpreter's start and the import. `template_plan` decides when there is one; this
file has the process, the socket and the descriptors. Whatever is wrong with a template, the replica
is started in the plain way. What runs in the process is `asya.runtime.template`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final, cast

from asya.clock import Clock, to_rfc3339
from asya.local.leftovers import ChildRecord
from asya.local.logs import RotatingLog
from asya.local.process import READ_ON_S, Child, Launch, ReplicaProcess
from asya.local.source_watch import drop_bytecode
from asya.local.template_plan import (
    Action,
    Answer,
    ChildEnded,
    Close,
    DropBytecode,
    KillStray,
    Spawn,
    TemplatePlan,
    Write,
)

ANSWER_S: Final = 2.0
"""How long a template may take to fork."""

CODE_S: Final = 0.2
"""How long the exit code of a replica that has ended is waited for: only its template knows it."""

MESSAGE_MAX: Final = 64 * 1024

OFF: Final = "ASYA_TEMPLATE"
"""A variable of the actor: `off` means that there shall be no template."""

_SUPPORTED: Final = hasattr(os, "pidfd_open") and sys.platform == "linux"


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
    """The template of one actor.

    Args:
        actor: The actor's name.
        log: Where it prints.
        record: Where children are written down.
        clock: For the times of log lines.
        idle_s: How long it may stand unused. 0: the actor has none.
    """

    def __init__(
        self, actor: str, log: RotatingLog, record: ChildRecord, clock: Clock, idle_s: float
    ) -> None:
        self._plan = TemplatePlan(idle_s if _SUPPORTED else 0.0)
        self._actor = actor
        self._log = log
        self._record = record
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._starting: asyncio.Task[None] | None = None
        self._process: ReplicaProcess | None = None
        self._processes: set[ReplicaProcess] = set()  # former ones that end, too
        self._sock: socket.socket | None = None
        self._answers: dict[int, asyncio.Future[tuple[int, int] | None]] = {}
        self._children: dict[int, ForkedProcess] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, or None where there is none that is ready."""
        return self._process.pid if self._process is not None and self._plan.ready else None

    def want(self, launch: Launch) -> None:
        """Have a template ready soon, if this actor may have one."""
        if launch.environment.get(OFF, "").lower() not in {"off", "0", "false", "no"}:
            self._perform(self._plan.want(launch))

    def forget(self) -> None:
        """The code has changed: end, and what was wrong with the code before is no matter."""
        self._perform(self._plan.forget())

    async def fork(self, on_end: Callable[[ForkedProcess], None]) -> ForkedProcess | None:
        """A replica of the template; None where there is no template, or it cannot."""
        number = self._plan.fork(self._loop.time())
        if number is None or self._sock is None:
            return None
        self._set_timer()
        out, end = os.pipe()
        process = ForkedProcess(self._log, self._clock, on_end)
        answer = self._answers[number] = self._loop.create_future()
        try:
            message = json.dumps({"k": "fork", "n": number}).encode()
            socket.send_fds(self._sock, [message], [end])
            async with asyncio.timeout(ANSWER_S):
                forked = await answer
        except (OSError, TimeoutError):
            forked = None
            self._perform(self._plan.gave_up(number))
        finally:
            self._answers.pop(number, None)
            # Only the replica may hold the end that is written to, or its end is never seen.
            os.close(end)
        if forked is None:
            os.close(out)
            return None
        process.follow(*forked)
        self._children[process.pid] = process
        await self._loop.connect_read_pipe(lambda: process, os.fdopen(out, "rb", buffering=0))
        return process

    async def stop(self) -> None:
        """Have none, for good; returns when the process is gone."""
        self._perform(self._plan.stop())
        if self._starting is not None:
            await asyncio.wait([self._starting])
        for process in list(self._processes):
            process.signal(signal.SIGKILL)
            await process.ended.wait()
            process.close()
            await process.closed.wait()

    # -- the process ------------------------------------------------------------------------------

    async def _spawn(self, launch: Launch) -> None:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**launch.environment, "ASYA_FORKS": str(its.fileno())}
        warm = replace(launch, environment=environment)
        try:
            process = await ReplicaProcess.spawn(
                warm, self._log, self._clock, self._ended, pass_fds=[its.fileno()]
            )
        except OSError:
            ours.close()
            self._plan.not_spawned()
            return
        finally:
            its.close()
            self._starting = None
        self._record.add(process.pid, self._actor)
        self._process, self._sock = process, ours
        self._processes.add(process)
        ours.setblocking(False)
        self._loop.add_reader(ours.fileno(), self._readable, ours)
        self._perform(self._plan.spawned())

    def _readable(self, sock: socket.socket) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(sock, MESSAGE_MAX, 1)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        # The loop may have collected this event before the socket was given up.
        if sock is not self._sock:
            return
        if data:
            message = json.loads(data)
            self._perform(self._heard(message), fds[0] if fds else None)
        else:
            self._perform(self._plan.end())

    def _heard(self, message: dict[str, Any]) -> list[Action]:
        now_s = self._loop.time()
        match message["k"]:
            case "ready":
                return self._plan.loaded(now_s)
            case "off":
                return self._plan.off(message["why"])
            case "stale":
                return self._plan.stale(message["file"])
            case "forked":
                return self._plan.forked(message["n"], message["pid"], now_s)
            case "refused":
                return self._plan.refused(message["n"], now_s)
            case "ended":
                return self._plan.ended(message["pid"], message["code"], now_s)
        return []

    def _perform(self, actions: Iterable[Action], pidfd: int | None = None) -> None:
        for action in actions:
            match action:
                case Spawn(launch):
                    self._starting = self._loop.create_task(self._spawn(launch))
                case Close(grace_s):
                    self._close(grace_s)
                case Answer(number, pid):
                    self._answer(number, pid, pidfd)
                case KillStray(pid):
                    _kill_stray(pid, pidfd)
                case ChildEnded(pid, code):
                    child = self._children.pop(pid, None)
                    if child is not None:
                        child.tell(code)
                case DropBytecode(file):
                    drop_bytecode([file])
                case Write(text):
                    now = to_rfc3339(self._clock.now())
                    self._log.write_lines(
                        now, os.getpid(), text.encode("utf-8", "backslashreplace")
                    )
        self._set_timer()

    def _answer(self, number: int, pid: int | None, pidfd: int | None) -> None:
        answer = self._answers.get(number)
        waited_for = answer is not None and not answer.done()
        if pid is None or pidfd is None:
            if answer is not None and waited_for:
                answer.set_result(None)
        elif answer is not None and waited_for:
            answer.set_result((pid, pidfd))
        else:
            # The time for the answer ran out in this very turn of the loop.
            _kill_stray(pid, pidfd)

    def _close(self, grace_s: float) -> None:
        sock, self._sock = self._sock, None
        process, self._process = self._process, None
        if sock is not None:
            self._loop.remove_reader(sock.fileno())
            sock.close()
        if process is not None:
            self._loop.call_later(grace_s, process.signal, signal.SIGKILL)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_s = self._plan.idle_due_s
        if due_s != float("inf"):
            self._timer = self._loop.call_at(
                due_s, lambda: self._perform(self._plan.tick(max(due_s, self._loop.time())))
            )

    def _ended(self, process: ReplicaProcess) -> None:
        self._record.remove(process.pid)
        self._processes.discard(process)


def _kill_stray(pid: int, pidfd: int | None) -> None:
    if pidfd is not None:
        os.close(pidfd)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
