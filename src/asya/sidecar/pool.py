"""How many messages a sidecar holds: prefetch follows the handler. Pure.

A slow handler must not let a message wait behind it while another replica idles; a fast one must
not wait for the broker between two messages.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

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


def window(replicas: int, concurrency: int, median_s: float | None) -> int:
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
