"""How long actors usually take: the newest samples of each, from the events of the sidecars.

Fed on the sidecars' path, so taking an event only appends; texts of times are read when somebody
asks. Bounded by actors and samples, never by what is under way. `asya why`, `asya top` and the
watcher ask; the histograms of `telemetry` are another thing: coarse, and never forgotten.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from asya.clock import from_rfc3339
from asya.events import HopEnded, HopStarted

SAMPLES: Final = 256
"""The newest calls of an actor that count."""

OPEN_MAX: Final = 20_000
"""Calls under way that are remembered; past it the oldest are forgotten, and give no sample."""

_DONE: Final = frozenset({"succeeded", "failed", "retrying"})


@dataclass(frozen=True)
class Latency:
    """Percentiles in seconds over the newest `samples` calls; None before the first."""

    samples: int = 0
    p50_s: float | None = None
    p99_s: float | None = None


@dataclass(frozen=True)
class ActorLatency:
    """Time in the handler, and time in the queue before it."""

    handler: Latency = Latency()
    queue: Latency = Latency()


class _Samples:
    """The newest spans of one kind; each is read once, when somebody asks."""

    def __init__(self) -> None:
        self._unread: deque[tuple[str, str]] = deque(maxlen=SAMPLES)
        self._seconds: deque[float] = deque(maxlen=SAMPLES)

    def add(self, began: str, ended: str) -> None:
        """Take one span. On the sidecars' path."""
        self._unread.append((began, ended))

    def percentiles(self) -> Latency:
        """The percentiles."""
        while self._unread:
            self._seconds.append(max(0.0, between_s(*self._unread.popleft())))
        if not self._seconds:
            return Latency()
        ordered = sorted(self._seconds)
        return Latency(len(ordered), _at(ordered, 0.50), _at(ordered, 0.99))


class _Actor:
    def __init__(self) -> None:
        self.handler = _Samples()
        self.queue = _Samples()


class Latencies:
    """The latencies of all actors."""

    def __init__(self) -> None:
        self._actors: dict[str, _Actor] = {}
        self._open: dict[tuple[str, int, int], tuple[str, str]] = {}

    def started(self, event: HopStarted) -> None:
        """A replica was given an envelope."""
        actor = self._actors.get(event.actor)
        if actor is None:
            actor = self._actors[event.actor] = _Actor()
        if event.attempt == 1:  # the wait for a retry is chosen, and tells nothing of the queue
            actor.queue.add(event.enqueued_at, event.at)
        self._open[event.id, event.n, event.attempt] = (event.at, event.actor)
        if len(self._open) > OPEN_MAX:
            del self._open[next(iter(self._open))]

    def ended(self, event: HopEnded) -> None:
        """A handler is done. What was stopped from outside is no sample of its latency."""
        began = self._open.pop((event.id, event.n, event.attempt), None)
        actor = self._actors.get(event.actor)
        if began is not None and actor is not None and event.state in _DONE:
            actor.handler.add(began[0], event.at)

    def newest_start(self, actor: str) -> str | None:
        """When the newest of the calls began that are under way at an actor."""
        return max((at for at, name in self._open.values() if name == actor), default=None)

    def of(self, actor: str) -> ActorLatency:
        """The latency of an actor."""
        found = self._actors.get(actor)
        if found is None:
            return ActorLatency()
        return ActorLatency(found.handler.percentiles(), found.queue.percentiles())


def _at(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def between_s(earlier: str, later: str) -> float:
    """Seconds between two RFC 3339 texts; 0 where one is none (they come from envelopes)."""
    try:
        return (from_rfc3339(later) - from_rfc3339(earlier)).total_seconds()
    except ValueError:
        return 0.0
