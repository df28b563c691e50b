"""When an actor has a warm template, and what its messages mean: pure, with the time passed in.

    none ──want──► starting ──spawned──► loading ──`ready`──► ready ──idle, stale, forget──► none

A template is started when the actor's first replica is asked to go. So an actor that was never
used, or whose replicas stay, has none. It ends when it had no replica and no request for `idle_s`.
`Template` performs the actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from asya.local.process import Launch

END_S: Final = 1.0
"""How long a template that has forked may take to end, before SIGKILL."""

_NEVER: Final = float("inf")


@dataclass(frozen=True)
class Spawn:
    """Start the template's process."""

    launch: Launch


@dataclass(frozen=True)
class Close:
    """Close the socket, upon which the process ends; SIGKILL after `grace_s`."""

    grace_s: float


@dataclass(frozen=True)
class Answer:
    """A request to fork is answered: by a pid, or None where the caller must start a process."""

    number: int
    pid: int | None


@dataclass(frozen=True)
class KillStray:
    """The replica came too late: its request was given up, and another one was started."""

    pid: int


@dataclass(frozen=True)
class ChildEnded:
    """A replica of this template has ended, or (code None) nobody will know how it ends."""

    pid: int
    code: int | None


@dataclass(frozen=True)
class Write:
    """Write a line into the actor's log."""

    text: str


@dataclass(frozen=True)
class DropBytecode:
    """A source file has changed: remove what Python compiled of it."""

    file: str


Action = Spawn | Close | Answer | KillStray | ChildEnded | Write | DropBytecode


class TemplatePlan:
    """The plan of one actor's template.

    Args:
        idle_s: How long it may stand unused. 0: the actor has none.

    Attributes:
        idle_due_s: When to call `tick`; infinity while it is in use, or not there.
    """

    def __init__(self, idle_s: float) -> None:
        self.idle_due_s = _NEVER
        self._idle_s = idle_s
        self._phase: Literal["none", "starting", "loading", "ready"] = "none"
        self._launch: Launch | None = None
        self._refused: Launch | None = None
        self._forgotten = False
        self._stopped = False
        self._number = 0
        self._asked: set[int] = set()
        self._children: set[int] = set()

    @property
    def ready(self) -> bool:
        """Whether it can be asked to fork."""
        return self._phase == "ready"

    def want(self, launch: Launch) -> list[Action]:
        """Have a template ready soon, unless these very replicas cannot have one."""
        if self._stopped or self._idle_s <= 0:
            return []
        if self._phase != "none" or launch == self._refused:
            return []
        self._phase, self._launch, self._forgotten = "starting", launch, False
        return [Spawn(launch)]

    def spawned(self) -> list[Action]:
        """The process runs; it says `ready` when it has imported the module."""
        self._phase = "loading"
        # A process that was on its way when the code or the manifest changed may have the old one.
        return self.end() if self._forgotten or self._stopped else []

    def not_spawned(self) -> None:
        """The process cannot be started. The replicas are, in the plain way, and say why not."""
        self._phase = "none"

    def fork(self, now_s: float) -> int | None:
        """The number of a request to fork; None where there is nobody to ask."""
        if self._phase != "ready":
            return None
        self._number += 1
        self._asked.add(self._number)
        self._rest(now_s)
        return self._number

    # -- what the process says --------------------------------------------------------------------

    def loaded(self, now_s: float) -> list[Action]:
        """`ready`: it has imported the module and can fork."""
        self._phase = "ready"
        self._rest(now_s)
        return []

    def off(self, why: str) -> list[Action]:
        """`off`: the module has made something that replicas must not share."""
        self._refused = self._launch
        return [Write(f"replicas are started without a template: {why}"), *self.end()]

    def stale(self, file: str) -> list[Action]:
        """`stale`: a source file has changed since it was imported."""
        launch = self._launch
        actions = [DropBytecode(file), *self.end()]
        return actions if launch is None else [*actions, *self.want(launch)]

    def forked(self, number: int, pid: int, now_s: float) -> list[Action]:
        """`forked`: a replica runs."""
        if number not in self._asked:
            return [KillStray(pid)]
        self._asked.discard(number)
        self._children.add(pid)
        self._rest(now_s)
        return [Answer(number, pid)]

    def refused(self, number: int, now_s: float) -> list[Action]:
        """`refused`: the system has no process left."""
        if number not in self._asked:
            return []
        self._asked.discard(number)
        self._rest(now_s)
        return [Answer(number, None)]

    def ended(self, pid: int, code: int | None, now_s: float) -> list[Action]:
        """`ended`: a replica was reaped."""
        if pid not in self._children:
            return []
        self._children.discard(pid)
        self._rest(now_s)
        return [ChildEnded(pid, code)]

    # -- the end ----------------------------------------------------------------------------------

    def gave_up(self, number: int) -> list[Action]:
        """A request was not answered in time, or could not be sent: the template is of no use."""
        self._asked.discard(number)
        return self.end()

    def tick(self, now_s: float) -> list[Action]:
        """A time has come."""
        return self.end() if now_s >= self.idle_due_s else []

    def forget(self) -> list[Action]:
        """The code has changed: end, and what was wrong with the code before is no matter."""
        self._refused = None
        self._forgotten = True
        return self.end()

    def stop(self) -> list[Action]:
        """End, for good."""
        self._stopped = True
        return self.end()

    def end(self) -> list[Action]:
        """Have none any more. Replicas that it forked run on."""
        if self._phase in {"none", "starting"}:
            return []
        # One that forks must come to its end by itself: nobody would know of its last child.
        actions: list[Action] = [Close(END_S if self._phase == "ready" else 0.0)]
        actions += [Answer(number, None) for number in sorted(self._asked)]
        actions += [ChildEnded(pid, None) for pid in sorted(self._children)]
        self._phase, self._launch, self.idle_due_s = "none", None, _NEVER
        self._asked.clear()
        self._children.clear()
        return actions

    def _rest(self, now_s: float) -> None:
        """Something happened: the time without use begins anew."""
        used = bool(self._asked or self._children)
        self.idle_due_s = _NEVER if used or self._phase == "none" else now_s + self._idle_s
