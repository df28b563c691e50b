"""What the replicas of one actor should do next: pure, with the time passed in.

Each method of `ReplicaPlan` is one thing that happened (a process started, ended, came up; the code
changed; a time came) and returns the actions that follow, in order. `ReplicaSet` performs them, and
calls `tick` at `next_s`. How many replicas should run is the autoscaler's business.

    starting ──ready──► ready ──leave / replaced──► leaving ──► ended
    trying  ──ready──► ready, and the replicas of the code before are drained
    any ──ended──► a crash, a failed load, or the end that was asked for

A replica that crashes is not started again faster than the back-off allows. An actor whose handler
cannot be loaded is *broken*. It is named once, then one replica at a time is tried: at once when a
file of its folder changes, else after a longer back-off.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Concatenate, Final, Literal, ParamSpec

from asya.codes import Code
from asya.local.notices import (
    HandlerBroken,
    HandlerMended,
    NewCodeBroken,
    Notice,
    ReplicaCrashed,
    ReplicaDown,
    ReplicaStopped,
    ReplicaUp,
    how_it_ended,
)
from asya.runtime.protocol import EXIT_NOT_LOADED

START_TIMEOUT_S: Final = 600.0
"""How long a handler may take to load: models are fetched on a first start."""

CRASH_FIRST_S: Final = 0.1
CRASH_MOST_S: Final = 2.0
"""Back-off between crashes with no envelope done in between. The first crash costs nothing."""

BROKEN_FIRST_S: Final = 2.0
BROKEN_MOST_S: Final = 60.0
"""Back-off between attempts to load a handler, while no file changes."""

END_WAIT_S: Final = 5.0
"""How long a replica that was asked to end may take, before SIGTERM."""

KILL_WAIT_S: Final = 1.0
"""How long it may take after SIGTERM, before SIGKILL."""

FRAME_WAIT_S: Final = 0.5
"""The supervisor may learn of the exit before it reads that frame, so it waits this long for it."""

_NEVER: Final = float("inf")

State = Literal["starting", "trying", "ready", "leaving"]


@dataclass(frozen=True)
class Start:
    """Start a process. `trial`: of new code, beside replicas of the old; never from a template."""

    number: int
    trial: bool


@dataclass(frozen=True)
class Signal:
    """Send a signal to a replica and all that it forked."""

    pid: int
    number: signal.Signals


@dataclass(frozen=True)
class Drain:
    """Have the sidecar give a replica no more calls, and end it when its calls are done.

    The answer, whether the sidecar knows such a replica, goes to `ReplicaPlan.drained`.
    """

    pid: int


@dataclass(frozen=True)
class Tell:
    """Tell the user."""

    notice: Notice


@dataclass(frozen=True)
class WarmTemplate:
    """A replica is about to go: have a template ready for the next one."""


@dataclass(frozen=True)
class ForgetTemplate:
    """The code has changed: a template of the old code must not fork any more."""


@dataclass(frozen=True)
class Changed:
    """A replica ended, or may be started again."""


@dataclass(frozen=True)
class Renewed:
    """A replica of the new code has taken over."""


Action = Start | Signal | Drain | Tell | WarmTemplate | ForgetTemplate | Changed | Renewed

_P = ParamSpec("_P")
_Method = Callable[Concatenate["ReplicaPlan", _P], Iterator[Action]]


def _whole(method: _Method[_P]) -> Callable[Concatenate[ReplicaPlan, _P], list[Action]]:
    """Run a generator to its end, so that the plan has changed before any action is performed."""

    @wraps(method)
    def run(plan: ReplicaPlan, /, *args: _P.args, **kwargs: _P.kwargs) -> list[Action]:
        return list(method(plan, *args, **kwargs))

    return run


@dataclass
class Replica:
    """One process.

    Attributes:
        state: `leaving` is one that ends, by itself or because it was asked to.
        due_s: When `tick` does something about it: end it for slowness, SIGTERM, SIGKILL.
        killed: SIGKILL was sent on purpose; its end is no crash.
        outdated: It runs code from before a change; drained once the new code is ready.
        overtaken: The code changed before the sidecar knew it; drained when it says hello.
    """

    state: State
    started_s: float
    due_s: float = _NEVER
    termed: bool = False
    killed: bool = False
    outdated: bool = False
    overtaken: bool = False


@dataclass(frozen=True)
class _Unexplained:
    """A process that ended with `EXIT_NOT_LOADED` before its reason was read."""

    state: State
    code: int
    until_s: float


class ReplicaPlan:
    """The plan of one actor. Perform the actions of one call before the next call.

    Args:
        actor: The actor's name.
        folder: The folder whose changes let a broken actor be tried again.

    Attributes:
        problem: Why the handler cannot be loaded, or None.
        new_code_problem: Why changed code cannot be loaded while replicas of the code before go on,
            or None.
        not_before_s: The time before which no replica is started.
        stopping: Nothing is started any more; replicas that end from now on were asked to.
    """

    def __init__(self, actor: str, folder: Path) -> None:
        self.problem: str | None = None
        self.new_code_problem: str | None = None
        self.not_before_s = 0.0
        self.stopping = False
        self._actor = actor
        self._folder = folder
        self._replicas: dict[int, Replica] = {}
        self._starts: dict[int, tuple[State, int]] = {}  # state and generation, by number
        self._number = 0
        self._unexplained: dict[int, _Unexplained] = {}
        self._failures = 0
        self._crashes = 0
        self._done_at_crash = -1
        self._generation = 0

    # -- what runs --------------------------------------------------------------------------------

    def pids(self, *states: State) -> list[int]:
        """The replicas in one of these states, oldest first."""
        return [pid for pid, each in self._replicas.items() if each.state in states]

    @property
    def current(self) -> int:
        """Replicas that run or are being started; without trials, and those that leave."""
        counted = sum(each.state in {"starting", "ready"} for each in self._replicas.values())
        return counted + self._spawning

    @property
    def starting_count(self) -> int:
        """Replicas that are not ready yet; those that have no pid yet included."""
        return len(self.pids("starting", "trying")) + self._spawning

    @property
    def hellos_awaited(self) -> bool:
        """Whether `ready` wants to know of a replica that comes up."""
        return bool(self._starts) or any(
            each.overtaken or each.state in {"starting", "trying"}
            for each in self._replicas.values()
        )

    @property
    def alive(self) -> bool:
        """Whether any process is left or on its way."""
        return bool(self._replicas or self._spawning)

    @property
    def watching(self) -> bool:
        """Whether a change in the actor's folder should be told by `folder_changed`."""
        return self.problem is not None and not self.stopping

    @property
    def next_s(self) -> float:
        """When to call `tick`; infinity where nothing is due."""
        dues = [each.due_s for each in self._replicas.values()]
        return min((*dues, *(each.until_s for each in self._unexplained.values())), default=_NEVER)

    @property
    def _spawning(self) -> int:
        # A trial without a pid is left out: the autoscaler must not count it as one of its own.
        return sum(state == "starting" for state, _ in self._starts.values())

    # -- starting ---------------------------------------------------------------------------------

    @_whole
    def start(self, count: int, now_s: float) -> Iterator[Action]:
        """Start `count` replicas: none during a back-off, one at a time while broken."""
        if self.stopping or now_s < self.not_before_s:
            return
        if self.problem is not None:
            count = min(count, 1 - self.starting_count)
        for _ in range(count):
            yield self._start("starting")

    @_whole
    def renew(self) -> Iterator[Action]:
        """The code has changed: replace what runs, without a moment in which nobody serves.

        One replica of the new code is tried beside those that run. They go once it is ready, and
        stay where it cannot be loaded. Those that are not up yet are given up at once: their code
        is of no use.
        """
        if self.stopping:
            return
        self._generation += 1
        self._failures = 0
        self.not_before_s = 0.0
        self._unexplained.clear()
        yield ForgetTemplate()
        for pid in self.pids("starting", "trying"):
            yield Drain(pid)
        for each in self._replicas.values():
            each.outdated = each.state == "ready"
        if self.pids("ready"):
            yield self._start("trying")
        yield Changed()

    def _start(self, state: State) -> Start:
        self._number += 1
        self._starts[self._number] = (state, self._generation)
        return Start(self._number, trial=state == "trying")

    @_whole
    def started(self, number: int, pid: int, started_s: float, now_s: float) -> Iterator[Action]:
        """The process of a `Start` runs since `started_s`."""
        state, generation = self._starts.pop(number)
        replica = self._replicas[pid] = Replica(state, started_s)
        if self.stopping:
            yield Signal(pid, signal.SIGKILL)
        elif generation != self._generation:
            yield Drain(pid)
        else:
            replica.due_s = now_s + START_TIMEOUT_S
            # A forked replica may have said hello before its pid was known here: look again.
            yield Changed()

    @_whole
    def not_started(self, number: int, code: Code, text: str, now_s: float) -> Iterator[Action]:
        """The process of a `Start` cannot be started; `text` says why."""
        state, _ = self._starts.pop(number)
        yield from self._failed(state, code, text, now_s)

    @_whole
    def drained(self, pid: int, now_s: float, *, found: bool) -> Iterator[Action]:
        """What the sidecar answered to a `Drain`; matters for replicas that a change overtook."""
        replica = self._replicas.get(pid)
        if replica is None or replica.state not in {"starting", "trying"}:
            return
        if found:
            # It is up already, and may have a long call: no time is set for its end.
            replica.state, replica.due_s = "leaving", _NEVER
        else:
            replica.overtaken = True
            yield from self.stop_starting(pid, now_s)

    @_whole
    def ready(self, pid: int, now_s: float) -> Iterator[Action]:
        """The sidecar knows the replica: its handler is loaded. Told as often as one likes."""
        replica = self._replicas.get(pid)
        if replica is None:
            return
        if replica.overtaken:
            yield Drain(pid)
            return
        if replica.state not in {"starting", "trying"}:
            return
        tried = replica.state == "trying"
        replica.state, replica.due_s = "ready", _NEVER
        self._failures = 0
        self.new_code_problem = None
        if self.problem is not None:
            self.problem = None
            yield Tell(HandlerMended(self._actor))
        yield Tell(ReplicaUp(self._actor, pid, now_s - replica.started_s, new_code=tried))
        if tried:
            yield from self._take_over()

    def _take_over(self) -> Iterator[Action]:
        for pid, each in self._replicas.items():
            if each.outdated and each.state == "ready":
                # It may have calls that take long: no time is set for its end.
                each.state = "leaving"
                yield Drain(pid)
            each.outdated = False
        yield Renewed()
        yield Changed()

    # -- failing ----------------------------------------------------------------------------------

    @_whole
    def load_failed(self, pid: int, code: Code, text: str, now_s: float) -> Iterator[Action]:
        """A replica said why its handler cannot be loaded. It ends by itself."""
        replica = self._replicas.get(pid)
        if replica is not None:
            state = replica.state
            self._leave(replica, now_s)
        elif pid in self._unexplained:
            state = self._unexplained.pop(pid).state
        else:
            return
        yield from self._failed(state, code, text, now_s)

    def _failed(self, state: State, code: Code, text: str, now_s: float) -> Iterator[Action]:
        if self.stopping or state == "leaving":
            return
        problem = f"error {code}: {text}"
        if state == "trying":
            if problem != self.new_code_problem:
                yield Tell(NewCodeBroken(self._actor, problem))
            self.new_code_problem = problem
            for each in self._replicas.values():
                each.outdated = False
            return
        self._failures += 1
        delay_s = min(BROKEN_MOST_S, BROKEN_FIRST_S * 2 ** min(self._failures - 1, 10))
        self.not_before_s = now_s + delay_s
        if problem != self.problem:
            yield Tell(HandlerBroken(self._actor, problem, self._folder))
        self.problem = problem
        yield Changed()

    @_whole
    def folder_changed(self) -> Iterator[Action]:
        """A file in the folder of a broken actor changed: try again at once."""
        self._failures = 0
        self.not_before_s = 0.0
        yield Changed()

    # -- ending -----------------------------------------------------------------------------------

    @_whole
    def kill(self, pid: int) -> Iterator[Action]:
        """End a replica now. For timeouts and cancels: no crash of its own."""
        replica = self._replicas.get(pid)
        if replica is not None:
            replica.killed = True
            yield Signal(pid, signal.SIGKILL)

    @_whole
    def leave(self, pid: int, now_s: float) -> Iterator[Action]:
        """The replica was asked to end (`bye`): it no longer counts, and goes for sure."""
        replica = self._replicas.get(pid)
        if replica is not None:
            self._leave(replica, now_s)
            if self.problem is None:
                yield WarmTemplate()

    @_whole
    def stop_starting(self, pid: int, now_s: float) -> Iterator[Action]:
        """End a replica that is not ready yet and not needed any more."""
        yield from self.leave(pid, now_s)
        if pid in self._replicas:
            yield Signal(pid, signal.SIGTERM)

    def _leave(self, replica: Replica, now_s: float) -> None:
        replica.state, replica.termed = "leaving", False
        replica.due_s = now_s + END_WAIT_S

    @_whole
    def tick(self, now_s: float) -> Iterator[Action]:
        """A time has come."""
        for pid, each in self._replicas.items():
            if each.due_s > now_s:
                continue
            if each.state in {"starting", "trying"}:
                state = each.state
                self._leave(each, now_s)
                yield from self.kill(pid)
                text = f"the handler was not loaded after {START_TIMEOUT_S:.0f} s"
                yield from self._failed(state, Code.HANDLER_SLOW, text, now_s)
            elif not each.termed:
                each.termed, each.due_s = True, now_s + KILL_WAIT_S
                yield Signal(pid, signal.SIGTERM)
            else:
                each.due_s = _NEVER
                yield from self.kill(pid)
        for pid in [pid for pid, each in self._unexplained.items() if each.until_s <= now_s]:
            gone = self._unexplained.pop(pid)
            yield from self._ended_early(gone.state, gone.code, now_s)

    @_whole
    def ended(self, pid: int, code: int | None, done: int, now_s: float) -> Iterator[Action]:
        """A process has ended.

        Args:
            pid: Whose.
            code: The exit code, minus the number of the signal, or None where it is not known.
            done: How many envelopes the actor has done so far: a count that has grown since the
                last crash ends the back-off.
            now_s: The time.
        """
        replica = self._replicas.pop(pid, None)
        if replica is None or self.stopping:
            return
        if replica.state == "leaving":
            if self.problem is None:
                yield Tell(ReplicaDown(self._actor, pid))
        elif replica.killed:
            yield Tell(ReplicaStopped(self._actor, pid))
        elif replica.state == "ready":
            if done > self._done_at_crash:
                self._crashes = 0
            self._done_at_crash = done
            self._crashes += 1
            delay_s = 0.0
            if self._crashes > 1:
                delay_s = min(CRASH_MOST_S, CRASH_FIRST_S * 2 ** min(self._crashes - 2, 10))
            self.not_before_s = now_s + delay_s
            yield Tell(ReplicaCrashed(self._actor, pid, code))
        elif code == EXIT_NOT_LOADED:
            # Start none before it is known why this one could not load.
            until_s = now_s + FRAME_WAIT_S
            self.not_before_s = max(self.not_before_s, until_s)
            self._unexplained[pid] = _Unexplained(replica.state, code, until_s)
        else:
            yield from self._ended_early(replica.state, code, now_s)
        yield Changed()

    def _ended_early(self, state: State, code: int | None, now_s: float) -> Iterator[Action]:
        text = f"the replica {how_it_ended(code)} before the handler was loaded"
        yield from self._failed(state, Code.HANDLER_LOAD, text, now_s)

    def stop(self) -> None:
        """Start nothing any more; one that ends from now on was asked to."""
        self.stopping = True
        self._unexplained.clear()
