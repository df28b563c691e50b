"""How many replicas an actor should have: pure functions of what waits and what runs.

The rule is KEDA's and the Kubernetes autoscaler's (HPA, a metric of type AverageValue), so that a
manifest means the same on a laptop and in a cluster. An actor needs
`ceil((ready + in flight) / queueLength)` replicas, within its bounds. It grows at once, and shrinks
to the highest need of the last cooldown. Times are passed in, in seconds of any one clock. The
laptop's autoscaler calls this; `docs/reference/scaling.md` and the tests have the formula.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Bounds:
    """What a manifest's `spec.scaling` asks for.

    Attributes:
        minimum: Replicas that always run.
        maximum: Replicas that may run.
        queue_length: Messages, waiting or worked on, that one replica is meant for; at least 1.
        cooldown_s: How long fewer replicas must have been enough before any is ended.
    """

    minimum: int = 0
    maximum: int = 10
    queue_length: int = 5
    cooldown_s: float = 10.0

    def __post_init__(self) -> None:
        assert self.minimum >= 0, self.minimum
        assert self.minimum <= self.maximum, (self.minimum, self.maximum)
        assert self.queue_length >= 1, self.queue_length

    @classmethod
    def fixed(cls, replicas: int) -> Bounds:
        """The bounds of an actor whose scaling is off: always `replicas`."""
        return cls(minimum=replicas, maximum=replicas)


def needed(bounds: Bounds, *, ready: int, in_flight: int) -> int:
    """The replicas that this load needs, whatever runs now.

    One message, waiting or in flight, needs one replica. No message needs the minimum. Messages
    that wait for a later time (retries) need no replica until they are due.
    """
    if bounds.minimum == bounds.maximum:
        return bounds.minimum
    load = ready + in_flight
    wanted = -(-load // bounds.queue_length)
    return min(bounds.maximum, max(bounds.minimum, wanted))


def needed_unseen(bounds: Bounds, *, busy: int, current: int, full: bool) -> int:
    """The replicas that are needed if the broker does not tell what waits.

    One more than run, if all of them are busy and a message is held for which none of them has
    room. Otherwise as many as are busy. It grows only after the last replica has started.

    Args:
        bounds: What the manifest asks for.
        busy: Replicas that work on something now.
        current: Replicas that run or start.
        full: Whether as many messages are held as may be, of which one is beyond their places.
    """
    if bounds.minimum == bounds.maximum:
        return bounds.minimum
    wanted = current + 1 if full and busy and busy >= current else busy
    return min(bounds.maximum, max(bounds.minimum, wanted))


def desired(need: int, *, peak: int, current: int) -> int:
    """The replicas that should run, of `current` that do.

    More as soon as more are needed. Fewer only down to `peak`, the highest need of the last
    cooldown. So a short pause ends no replica. The last one goes when nothing has waited or was in
    flight for a whole cooldown.
    """
    return max(need, min(current, peak))


class Peak:
    """The highest of the values that held at some time within the last `window_s` seconds."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._value = 0
        # Former values with the time at which they ended; they fall from left to right, so that
        # the first is the highest: one that a later value reaches can never be the highest again.
        self._former: deque[tuple[float, int]] = deque()

    def note(self, now_s: float, value: int) -> int:
        """Record the value that holds from now on; returns the highest of the window."""
        if value < self._value:
            self._former.append((now_s, self._value))
        self._value = value
        while self._former and self._former[-1][1] <= value:
            self._former.pop()
        while self._former and self._former[0][0] + self._window_s <= now_s:
            self._former.popleft()
        return self._former[0][1] if self._former else value

    @property
    def next_fall_s(self) -> float | None:
        """When the highest value leaves the window, or None while it is the newest."""
        return self._former[0][0] + self._window_s if self._former else None


@dataclass(frozen=True)
class Candidate:
    """A replica, as scale-in sees it. `since_s`: when its state began."""

    pid: int
    state: Literal["starting", "idle", "busy", "terminating"]
    since_s: float


def expendable(replicas: Iterable[Candidate], surplus: int) -> list[int]:
    """The replicas to end when `surplus` are too many, by pid; never a busy one.

    First those that are still starting, the newest first. Then idle ones, the longest idle first.
    Fewer than `surplus` if the others are busy; the autoscaler asks again later.
    """
    starting = [each for each in replicas if each.state == "starting"]
    idle = [each for each in replicas if each.state == "idle"]
    starting.sort(key=lambda each: -each.since_s)
    idle.sort(key=lambda each: each.since_s)
    return [each.pid for each in (*starting, *idle)[: max(0, surplus)]]
