"""The replicas of one actor: performs what `replica_plan` decides.

Everything happens in the event loop. The plan changes first, as a whole; then its actions are
performed in order. An action may lead to the next call of the plan (the autoscaler looks when
something changed), which is performed in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

from asya.codes import Code, load_failure
from asya.envelope import ErrorInfo
from asya.local.notices import Tell
from asya.local.process import Child
from asya.local.replica_plan import (
    Action,
    Changed,
    Drain,
    ForgetTemplate,
    Renewed,
    ReplicaPlan,
    Signal,
    Start,
    WarmTemplate,
)
from asya.local.source_watch import FolderWatch
from asya.local.spawner import Spawner


class ReplicaSet:
    """All replicas of an actor.

    Args:
        actor: The actor's name.
        spawner: Starts processes.
        tell: Tells the user.
        done: How many envelopes the actor has done; a growing count ends a back-off.
        ignore: Folders that are not watched (the data folder).

    Attributes:
        drain: Lets a replica finish its calls and end; whether the sidecar knows the replica.
        on_change: Called when a replica ended, or may be started again.
        on_renewed: Called when a replica of the new code has taken over.
        plan: What should run, and why something does not; to be read only.
        spawner: Its `launch` may be replaced.
    """

    def __init__(
        self,
        actor: str,
        spawner: Spawner,
        *,
        tell: Tell,
        done: Callable[[], int],
        ignore: frozenset[Path] = frozenset(),
    ) -> None:
        self.drain: Callable[[int], bool] = lambda pid: False
        self.on_change: Callable[[], None] = lambda: None
        self.on_renewed: Callable[[], None] = lambda: None
        self.plan = ReplicaPlan(actor, spawner.launch.folder)
        self.spawner = spawner
        self._tell = tell
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._processes: dict[int, Child] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch = FolderWatch(spawner.launch.folder, ignore, self._folder_changed)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = float("inf")

    @property
    def starting(self) -> list[Child]:
        """Those whose handler is not loaded yet."""
        return [self._processes[pid] for pid in self.plan.pids("starting")]

    # -- what happens -----------------------------------------------------------------------------

    def start(self, count: int) -> int:
        """Start at most `count` replicas, as the back-off allows; gives how many."""
        actions = self.plan.start(count, self._loop.time())
        self._perform(actions)
        return len(actions)

    def renew(self) -> None:
        """The code has changed: replace what runs."""
        self._perform(self.plan.renew())

    def ready(self, pid: int) -> None:
        """The replica has loaded its handler. Called as often as one likes."""
        self._perform(self.plan.ready(pid, self._loop.time()))

    def load_failed(self, pid: int, error: ErrorInfo) -> None:
        """A replica said why its handler cannot be loaded; it ends by itself."""
        code, text = load_failure(error.type, error.message)
        self._perform(self.plan.load_failed(pid, code, text, self._loop.time()))

    def kill(self, pid: int) -> None:
        """End a replica and all it forked, now. For timeouts and cancels: no crash of its own."""
        self._perform(self.plan.kill(pid))

    def leave(self, pid: int) -> None:
        """The replica was asked to end (`bye`): it no longer counts, and goes for sure."""
        self._perform(self.plan.leave(pid, self._loop.time()))

    def stop_starting(self, pid: int) -> None:
        """End a replica that is not ready yet and not needed any more."""
        self._perform(self.plan.stop_starting(pid, self._loop.time()))

    def _ended(self, child: Child) -> None:
        # A process may end before `_spawn` knows it. `_spawn` then calls this again.
        if self._processes.pop(child.pid, None) is None:
            return
        self.spawner.ended(child)
        now_s = self._loop.time()
        self._perform(self.plan.ended(child.pid, child.returncode, self._done(), now_s))

    def _folder_changed(self) -> None:
        self._perform(self.plan.folder_changed())

    # -- what follows -----------------------------------------------------------------------------

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Start():
                    self._in_background(action)
                case Signal(pid, number):
                    self._processes[pid].signal(number)
                case Drain(pid):
                    found = self.drain(pid)
                    self._perform(self.plan.drained(pid, self._loop.time(), found=found))
                case WarmTemplate():
                    self.spawner.warm_template()
                case ForgetTemplate():
                    self.spawner.forget_template()
                case Renewed():
                    self.on_renewed()
                case Changed():
                    self.on_change()
                case _:
                    self._tell(action.notice)
        self._watch.switch(on=self.plan.watching)
        self._set_timer()

    def _set_timer(self) -> None:
        next_s = self.plan.next_s
        if next_s == self._timer_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = next_s
        never = next_s == float("inf")
        self._timer = None if never else self._loop.call_at(next_s, self._tick, next_s)

    def _tick(self, due_s: float) -> None:
        self._timer_s = float("inf")
        # The loop may call a little early, by the resolution of its clock.
        self._perform(self.plan.tick(max(due_s, self._loop.time())))

    def _in_background(self, action: Start) -> None:
        task = self._loop.create_task(self._spawn(action))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _spawn(self, action: Start) -> None:
        try:
            child = await self.spawner.spawn(self._ended, fork=not action.trial)
        except OSError as error:
            text = f"{self.spawner.launch.argv[0]} cannot be started: {error}"
            now_s = self._loop.time()
            self._perform(self.plan.not_started(action.number, Code.PYTHON_UNUSABLE, text, now_s))
            return
        self._processes[child.pid] = child
        now_s = self._loop.time()
        self._perform(self.plan.started(action.number, child.pid, child.started_s, now_s))
        if child.ended.is_set():
            self._ended(child)

    # -- the end ----------------------------------------------------------------------------------

    def begin_stop(self) -> None:
        """Start none any more; one that ends from now on was asked to."""
        self.plan.stop()
        self._perform(())

    async def stop(self, wait_s: float) -> None:
        """End all: those that were told `bye` get `wait_s` seconds, then SIGTERM, then SIGKILL."""
        self.begin_stop()
        for child in self.starting:
            child.signal(signal.SIGTERM)
        await self._all_ended(wait_s)
        for number, seconds in ((signal.SIGTERM, 1.0), (signal.SIGKILL, 2.0)):
            for child in list(self._processes.values()):
                child.signal(number)
            await self._all_ended(seconds)
        await self.spawner.close()
        if self._timer is not None:
            self._timer.cancel()

    async def _all_ended(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                # A process whose start is under way is not known yet, and would be left behind.
                if self._tasks:
                    await asyncio.wait(set(self._tasks))
                for child in list(self._processes.values()):
                    await child.ended.wait()
