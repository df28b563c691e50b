"""What counts as stuck: pure.

An envelope is stuck if it has been in a state, queued or running, for far longer than is usual at
its actor. Nothing counts as stuck before enough calls have shown what is usual.
"""

from __future__ import annotations

from typing import Final

from asya.tasks.diagnosis.latency import Latency

SLOW_FACTOR: Final = 10.0
"""An envelope is stuck after so many times the actor's p99."""

SLOW_FLOOR_S: Final = 10.0
"""And for more than this: what is usually done in a millisecond is not stuck after ten."""

SAMPLES_MIN: Final = 20
"""Calls of which the p99 must be known."""


def stuck_after_s(latency: Latency) -> float | None:
    """After how many seconds in a state an envelope is stuck; None while too little is known."""
    if latency.samples < SAMPLES_MIN or latency.p99_s is None:
        return None
    return max(SLOW_FLOOR_S, SLOW_FACTOR * latency.p99_s)
