"""The replicas of one actor: started, watched, ended.

What it decides by itself: a replica that dies is not started again faster than the back-off
allows, and an actor whose handler cannot be loaded is *broken*: it is named once, then a single
replica is tried when a file of its folder changes, or when the (longer) back-off is over. How
many should run is the autoscaler's business; calls are the sidecar's.

When the code has changed, `renew` tries one replica of the new code beside those that run. Once it
is ready the old ones get no more calls and go when theirs are done; if it cannot be loaded, they
go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from asya.clock import Clock
from asya.codes import Code, load_failure
from asya.envelope import ErrorInfo
from asya.local.leftovers import ChildRecord
from asya.local.logs import RotatingLog
from asya.local.process import Child, Launch, ReplicaProcess
from asya.local.source_watch import drop_bytecode
from asya.local.template import Template

START_TIMEOUT_S: Final = 600.0
"""How long a handler may take to load: models are fetched on a first start."""

CRASH_FIRST_S: Final = 0.1
CRASH_MOST_S: Final = 2.0
"""Back-off between deaths with no envelope done in between. The first death costs nothing."""

BROKEN_FIRST_S: Final = 2.0
BROKEN_MOST_S: Final = 60.0
"""Back-off between attempts to load a handler, while no file changes."""

WATCH_EVERY_S: Final = 0.5
WATCH_FILES_MAX: Final = 5000
"""How often, and at how many files, a broken actor's folder is looked at."""

END_WAIT_S: Final = 5.0
"""How long a replica that was asked to end may take, before SIGTERM and then SIGKILL."""

LOAD_FAILED_CODE: Final = 3
FRAME_WAIT_S: Final = 0.5
"""A runtime that ends with this code has said why on its socket; the news that it ended may come
first, so its word is waited for."""

State = Literal["starting", "trying", "ready", "leaving"]
FinishOff = Callable[[int], bool | None]


class ReplicaSet:
    """All replicas of an actor.

    Args:
        actor: The actor's name, for messages.
        launch: How a replica is started.
        log: Where they print.
        record: Where children are written down.
        say: Tells the user one line.
        done: How many envelopes the actor has done; a growing count ends a back-off.
        ignore: Folders that are not watched (the data folder).
        template: Forks replicas where it can, or None.

    Attributes:
        on_change: Called when a replica ended, or may be started again.
        on_renewed: Called when a replica of the new code has taken over.
        problem: Why the handler cannot be loaded, or None.
        outdated: Why the new code cannot be loaded while replicas of the old go on, or None.
    """

    def __init__(
        self,
        actor: str,
        launch: Launch,
        log: RotatingLog,
        record: ChildRecord,
        *,
        clock: Clock,
        say: Callable[[str], None],
        done: Callable[[], int],
        ignore: frozenset[Path] = frozenset(),
        template: Template | None = None,
    ) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self.on_renewed: Callable[[], None] = lambda: None
        self.problem: str | None = None
        self.outdated: str | None = None
        self.launch = launch
        self._actor = actor
        self._log = log
        self._record = record
        self._clock = clock
        self._say = say
        self._done = done
        self._ignore = ignore
        self._template = template
        self._loop = asyncio.get_running_loop()
        self._processes: dict[int, Child] = {}
        self._states: dict[int, State] = {}
        self._killed: set[int] = set()
        self._unexplained: dict[int, tuple[State, asyncio.TimerHandle]] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._unread: set[Child] = set()
        self._spawning = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._watcher: asyncio.Task[None] | None = None
        self._failures = 0
        self._crashes = 0
        self._done_at_crash = -1
        self._not_before_s = 0.0
        self._stopping = False
        self._generation = 0
        self._old: set[int] = set()
        self._overtaken: set[int] = set()
        self._finish_off: FinishOff = lambda pid: False

    # -- what runs --------------------------------------------------------------------------------

    @property
    def current(self) -> int:
        """Replicas that run or are being started, without those that were asked to end."""
        apart = sum(state in {"leaving", "trying"} for state in self._states.values())
        return len(self._processes) + self._spawning - apart

    @property
    def starting(self) -> list[Child]:
        """Those whose handler is not loaded yet."""
        return [each for each in self._processes.values() if self._states[each.pid] == "starting"]

    @property
    def starting_count(self) -> int:
        """How many are not ready yet, those that have no pid yet included."""
        trying = sum(state == "trying" for state in self._states.values())
        return len(self.starting) + self._spawning + trying

    @property
    def hellos_awaited(self) -> bool:
        """Whether `ready` wants to know of a replica that comes up."""
        return bool(self._overtaken) or self.starting_count > 0

    @property
    def ready_count(self) -> int:
        """Replicas that have loaded their handler and were not asked to end."""
        return sum(state == "ready" for state in self._states.values())

    @property
    def alive(self) -> bool:
        """Whether any process is left."""
        return bool(self._processes or self._spawning)

    @property
    def not_before_s(self) -> float:
        """The loop's time before which no replica may be started."""
        return self._not_before_s

    # -- starting ---------------------------------------------------------------------------------

    def start(self, count: int) -> int:
        """Start at most `count` replicas, as the back-off allows; gives how many.

        A broken actor gets one at a time.
        """
        if self._stopping or self._loop.time() < self._not_before_s:
            return 0
        if self.problem is not None:
            count = min(count, 1 - self.starting_count)
        for _ in range(count):
            self._spawning += 1
            self._in_background("starting")
        return max(0, count)

    def renew(self, finish_off: FinishOff) -> None:
        """The code has changed: replace what runs.

        Args:
            finish_off: Called for each old replica once a new one is ready; it makes sure that the
                old one gets no more calls and ends when those that it has are done. True where
                there is such a replica; one that has not come up yet is asked for again then.
        """
        if self._stopping:
            return
        self._generation += 1
        if self._template is not None:
            self._template.forget()
        self._finish_off = finish_off
        self._failures = 0
        self._not_before_s = 0.0
        self._forget_unexplained()
        for pid in [pid for pid, state in self._states.items() if state in {"starting", "trying"}]:
            self._overtake(pid)
        self._old = {pid for pid, state in self._states.items() if state == "ready"}
        if self._old:
            self._in_background("trying")
        self.on_change()

    def _in_background(self, state: State) -> None:
        task = self._loop.create_task(self._start(state, self._generation))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, state: State, generation: int) -> None:
        try:
            process = await self._make(state)
        except OSError as error:
            self._spawning -= state == "starting"
            self._failed(
                state, f"{self.launch.argv[0]} cannot be started: {error}", Code.PYTHON_UNUSABLE
            )
            return
        self._spawning -= state == "starting"
        pid = process.pid
        self._processes[pid] = process
        self._states[pid] = state
        self._record.add(pid, self._actor)
        if process.ended.is_set():
            self._ended(process)
        elif self._stopping:
            process.signal(signal.SIGKILL)
        elif generation != self._generation:
            self._overtake(pid)
        else:
            self._timers[pid] = self._loop.call_later(START_TIMEOUT_S, self._start_timed_out, pid)
            self.on_change()  # it may have come up before its number was known here

    def _overtake(self, pid: int) -> None:
        """The code has changed while this one came up: it gets no calls."""
        if self._finish_off(pid):
            # It has come up already. No time is set for its end: it may have a call that is long.
            self._states[pid] = "leaving"
            self._cancel_timer(pid)
        else:
            self.stop_starting(pid)
            self._overtaken.add(pid)

    async def _make(self, state: State) -> Child:
        forked: Child | None = None
        if self._template is not None and state == "starting":
            forked = await self._template.fork(self._ended)
        if forked is not None:
            return forked
        return await ReplicaProcess.spawn(self.launch, self._log, self._clock, self._ended)

    def _start_timed_out(self, pid: int) -> None:
        state = self._states[pid]
        self._leave(pid)
        self.kill(pid)
        self._failed(
            state, f"the handler was not loaded after {START_TIMEOUT_S:.0f} s", Code.HANDLER_SLOW
        )

    def ready(self, pid: int) -> None:
        """The replica has loaded its handler. Called as often as one likes."""
        if pid in self._overtaken:
            self._finish_off(pid)
            return
        tried = self._states.get(pid) == "trying"
        if not tried and self._states.get(pid) != "starting":
            return
        self._states[pid] = "ready"
        self._cancel_timer(pid)
        took_s = self._loop.time() - self._processes[pid].started_s
        if self.problem is not None:
            self._say(f"{self._actor}: the handler loads again")
            self.problem = None
        self._failures = 0
        self._stop_watching()
        code = "with the new code " if tried else ""
        self._say(f"{self._actor}: replica {pid} up {code}({took_s:.2f} s)")
        self.outdated = None
        if tried:
            self._take_over()

    def _take_over(self) -> None:
        for pid in self._old:
            if self._states.get(pid) == "ready":
                # No time is set for its end: it may have calls that take long.
                self._states[pid] = "leaving"
                self._finish_off(pid)
        self._old.clear()
        self.on_renewed()
        self.on_change()

    def load_failed(self, pid: int, error: ErrorInfo) -> None:
        """A replica said why its handler cannot be loaded; it ends by itself."""
        if pid in self._states:
            state = self._states[pid]
            self._leave(pid)
        elif pid in self._unexplained:
            state, timer = self._unexplained.pop(pid)
            timer.cancel()
        else:
            return
        code, text = load_failure(error.type, error.message)
        self._failed(state, text, code)

    def _failed(self, state: State, text: str, code: Code) -> None:
        """A replica could not be loaded; `state` is what it was."""
        if state == "trying":
            self._trial_failed(f"error {code}: {text}")
        elif state != "leaving":
            self._load_failed(text, code)

    def _trial_failed(self, text: str) -> None:
        if self._stopping:
            return
        if text != self.outdated:
            self._say(
                f"{self._actor}: {text}; the replicas of the code before go on, and the next "
                f"change is tried again (all of it: asya logs {self._actor})"
            )
        self.outdated = text
        self._old.clear()

    def _load_failed(self, text: str, code: Code) -> None:
        if self._stopping:
            return
        text = f"error {code}: {text}"
        self._failures += 1
        delay_s = min(BROKEN_MOST_S, BROKEN_FIRST_S * 2 ** min(self._failures - 1, 10))
        self._not_before_s = self._loop.time() + delay_s
        if text != self.problem:
            self._say(
                f"{self._actor}: {text}; tried again when a file in {self.launch.folder} changes "
                f"(all of it: asya logs {self._actor})"
            )
        self.problem = text
        if self._watcher is None:
            self._watcher = self._loop.create_task(self._watch())
        self.on_change()

    async def _watch(self) -> None:
        """Wait for a change in the folder of a broken actor; then it may be tried at once."""
        folder, ignore = self.launch.folder, self._ignore
        before = await asyncio.to_thread(fingerprint, folder, ignore)
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            now = await asyncio.to_thread(fingerprint, folder, ignore)
            if now != before:
                changed, before = {path for path, *_ in now ^ before}, now
                await asyncio.to_thread(drop_bytecode, changed)
                self._failures = 0
                self._not_before_s = 0.0
                self.on_change()

    def _stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None

    # -- ending -----------------------------------------------------------------------------------

    def kill(self, pid: int) -> None:
        """End a replica and all it forked, now. For timeouts and cancels: no crash of its own."""
        process = self._processes.get(pid)
        if process is not None:
            self._killed.add(pid)
            process.signal(signal.SIGKILL)

    def leave(self, pid: int) -> None:
        """The replica was asked to end (`bye`): it no longer counts, and goes for sure."""
        if pid in self._processes:
            self._leave(pid)
            if self._template is not None and self.problem is None:
                self._template.want(self.launch)

    def stop_starting(self, pid: int) -> None:
        """End a replica that is not ready yet and not needed any more."""
        self.leave(pid)
        if pid in self._processes:
            self._processes[pid].signal(signal.SIGTERM)

    def _leave(self, pid: int) -> None:
        self._states[pid] = "leaving"
        self._cancel_timer(pid)
        self._timers[pid] = self._loop.call_later(END_WAIT_S, self._end_for_sure, pid)

    def _end_for_sure(self, pid: int) -> None:
        if pid in self._processes:
            self._processes[pid].signal(signal.SIGTERM)
            self._timers[pid] = self._loop.call_later(1.0, self.kill, pid)

    def _ended(self, process: Child) -> None:
        pid = process.pid
        if self._processes.pop(pid, None) is None:
            return  # it ended before `_start` knew it, which calls again
        state = self._states.pop(pid)
        killed = pid in self._killed
        self._killed.discard(pid)
        self._overtaken.discard(pid)
        self._cancel_timer(pid)
        self._record.remove(pid)
        if not process.closed.is_set():
            self._unread = {each for each in self._unread if not each.closed.is_set()} | {process}
        if self._stopping:
            return
        if state == "leaving":
            if self.problem is None:
                self._say(f"{self._actor}: replica {pid} down")
        elif killed:
            self._say(f"{self._actor}: replica {pid} was stopped in the middle of a call")
        elif state in {"starting", "trying"}:
            self._ended_early(process, state)
        else:
            self._crashed(process)
        self.on_change()

    def _ended_early(self, process: Child, state: State) -> None:
        pid = process.pid
        how = f"the replica {process.describe_end()} before the handler was loaded"
        if process.returncode != LOAD_FAILED_CODE:
            self._failed(state, how, Code.HANDLER_LOAD)
            return
        # none is started before it is known why this one could not be
        self._not_before_s = max(self._not_before_s, self._loop.time() + FRAME_WAIT_S)
        timer = self._loop.call_later(FRAME_WAIT_S, self._unexplained_end, pid, how)
        self._unexplained[pid] = (state, timer)

    def _unexplained_end(self, pid: int, how: str) -> None:
        state, _ = self._unexplained.pop(pid)
        self._failed(state, how, Code.HANDLER_LOAD)

    def _forget_unexplained(self) -> None:
        for _, timer in self._unexplained.values():
            timer.cancel()
        self._unexplained.clear()

    def _crashed(self, process: Child) -> None:
        if self._done() > self._done_at_crash:
            self._crashes = 0
        self._done_at_crash = self._done()
        self._crashes += 1
        delay_s = 0.0
        if self._crashes > 1:
            delay_s = min(CRASH_MOST_S, CRASH_FIRST_S * 2 ** min(self._crashes - 2, 10))
        self._not_before_s = self._loop.time() + delay_s
        self._say(f"{self._actor}: replica {process.pid} {process.describe_end()}")

    def _cancel_timer(self, pid: int) -> None:
        timer = self._timers.pop(pid, None)
        if timer is not None:
            timer.cancel()

    def begin_stop(self) -> None:
        """Start none any more; one that ends from now on was asked to."""
        self._stopping = True
        self._stop_watching()
        self._forget_unexplained()

    async def stop(self, wait_s: float) -> None:
        """End all: those that were told `bye` get `wait_s` seconds, then SIGTERM, then SIGKILL."""
        self.begin_stop()
        for process in self.starting:
            process.signal(signal.SIGTERM)
        await self._all_ended(wait_s)
        for number, seconds in ((signal.SIGTERM, 1.0), (signal.SIGKILL, 2.0)):
            for process in list(self._processes.values()):
                process.signal(number)
            await self._all_ended(seconds)
        if self._template is not None:
            await self._template.stop()
        for process in self._unread:
            process.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.closed.wait(), 1.0)
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._log.close()

    async def _all_ended(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                if self._tasks:
                    await asyncio.wait(set(self._tasks))
                for process in list(self._processes.values()):
                    await process.ended.wait()


def fingerprint(folder: Path, ignore: frozenset[Path]) -> frozenset[tuple[str, int, int]]:
    """Path, time of change and size of a folder's files, at most `WATCH_FILES_MAX` of them.

    Hidden folders, caches and `ignore` are left out: what changes there changes no handler.
    """
    found: set[tuple[str, int, int]] = set()
    for root, folders, files in os.walk(folder):
        folders[:] = [
            each
            for each in sorted(folders)
            if not each.startswith((".", "__pycache__", "node_modules"))
            and Path(root, each) not in ignore
        ]
        for name in sorted(files):
            with contextlib.suppress(OSError):
                path = os.path.join(root, name)  # noqa: PTH118  Path costs ten times as much here
                status = os.stat(path)  # noqa: PTH116  the same
                found.add((path, status.st_mtime_ns, status.st_size))
            if len(found) >= WATCH_FILES_MAX:
                return frozenset(found)
    return frozenset(found)
