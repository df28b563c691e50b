"""Which replica gets the next message, and how many messages a sidecar holds. Pure.

Prefetch follows the handler.
A slow handler must not let a message wait behind it while another replica idles; a fast one must
not wait for the broker between two messages.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable
from typing import Final, Protocol, TypeVar

SLOW_S: Final = 0.05
"""A handler whose median is over this holds nothing in advance."""

BUSY_S: Final = 0.02
"""How long what is held in advance should keep a replica busy."""

AHEAD_MAX: Final = 128
"""The most that is held in advance for one replica."""

PIPELINE_S: Final = 0.002
"""A handler whose median is under this gets calls sent before the last one is answered."""

PIPELINE_BUSY_S: Final = 0.016
"""How long the calls that are sent in advance should keep a replica busy."""

PIPELINE_MAX: Final = 32
"""The most calls that are sent in advance to one replica: each turn of sidecar and replica costs both
a switch of the processor, which 8 calls do not pay for where it is shared."""


class ReplicaView(Protocol):
    """What the rules here need to know of a replica.

    Attributes:
        concurrency: Calls that it works on at a time.
        reserved: It is kept free for a message that must run alone.
    """

    concurrency: int
    reserved: bool

    @property
    def open(self) -> bool:
        """Whether calls may be given to it."""
        ...

    @property
    def in_flight(self) -> int:
        """Calls that it was given, or is kept for, and has not answered."""
        ...


R = TypeVar("R", bound=ReplicaView)


def freest(replicas: Iterable[R], ahead: int) -> R | None:
    """The replica with the fewest calls that may get another one; of equals the first.

    Args:
        replicas: All of them, in the order in which they came.
        ahead: Calls that each may have beyond its concurrency, as `pipeline` says.
    """
    best: R | None = None
    for replica in replicas:
        if not replica.open or replica.reserved:
            continue
        if replica.in_flight >= replica.concurrency + ahead:
            continue
        if best is None or replica.in_flight < best.in_flight:
            best = replica
    return best


def for_suspect(replicas: Iterable[R]) -> R | None:
    """The replica to reserve for a suspect message; None if there is none to give calls to.

    A suspect message runs alone, so that another crash takes no other message with it: once it is
    reserved a replica gets no other calls, and the suspect begins when those that it has are done.
    One that is reserved already is used again.
    """
    free = [replica for replica in replicas if replica.open]
    reserved = next((replica for replica in free if replica.reserved), None)
    return reserved or min(free, key=lambda replica: replica.in_flight, default=None)


def prefetch_of(
    replicas: Collection[ReplicaView], concurrency: int, median_s: float | None, extra: int
) -> int:
    """Messages that a sidecar with these replicas holds at a time.

    Args:
        replicas: All of them, also those that get no more calls.
        concurrency: Calls that one replica works on at a time.
        median_s: Of the handler's time; None before the first.
        extra: Messages held beyond those that replicas can work on.
    """
    working = sum(1 for replica in replicas if replica.open)
    held = prefetch(working, concurrency, median_s)
    # what a replica that goes still works on takes no place of those that take over
    held += sum(replica.in_flight for replica in replicas if not replica.open)
    return held + extra if working else held


def prefetch(replicas: int, concurrency: int, median_s: float | None) -> int:
    """Messages to hold for `replicas` that each work on `concurrency` at a time.

    1 while there is no replica: that one is the wake-up call.
    """
    if not replicas:
        return 1
    return replicas * (concurrency + ahead(concurrency, median_s))


def ahead(concurrency: int, median_s: float | None) -> int:
    """Messages held in advance for one replica; none while the handler's time is unknown."""
    if median_s is None or median_s > SLOW_S:
        return 0
    busy = math.ceil(concurrency * BUSY_S / max(median_s, 1e-6))
    return min(AHEAD_MAX, busy)


def pipeline(median_s: float | None) -> int:
    """Calls sent to one replica beyond what it works on."""
    if median_s is None or median_s >= PIPELINE_S:
        return 0
    return min(PIPELINE_MAX, math.ceil(PIPELINE_BUSY_S / max(median_s, 1e-6)))


class Median:
    """A running median of the last 33 durations, worked out anew every 8 samples."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=33)
        self._count = 0
        self.value_s: float | None = None

    def add(self, duration_s: float) -> None:
        """Take one more sample, in seconds."""
        self._recent.append(duration_s)
        self._count += 1
        if self._count <= 8 or self._count % 8 == 0:
            ordered = sorted(self._recent)
            self.value_s = ordered[len(ordered) // 2]
