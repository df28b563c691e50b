"""The one back-off of the transports: how long to wait before the next attempt.

Called by connections, consumers and acks, which sleep or set a timer for what `next` returns.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

RECONNECT_FIRST_S: Final = 0.05
RECONNECT_MAX_S: Final = 1.0
"""A laptop's broker restarts in about a second, and its mesh should not wait much longer."""
RECONNECT_JITTER: Final = 0.2
"""All sidecars lose a broker in the same moment; without jitter they would all return at once."""


class Backoff:
    """Delays that grow by a factor up to a maximum.

    Attributes:
        failures: Attempts since the last `reset`.
    """

    __slots__ = ("_factor", "_first_s", "_jitter", "_max_s", "_random", "failures")

    def __init__(
        self,
        first_s: float,
        max_s: float,
        *,
        factor: float = 2.0,
        jitter: float = 0.0,
        random: Callable[[], float] = random.random,
    ) -> None:
        """Prepare.

        Args:
            first_s: The first delay, in seconds.
            max_s: The longest delay, in seconds.
            factor: How much longer each delay is than the one before.
            jitter: The share of a delay that is left to chance, 0 to 1. It only shortens.
            random: Returns a number in [0, 1); tests pass a fixed one.
        """
        self._first_s = first_s
        self._max_s = max_s
        self._factor = factor
        self._jitter = jitter
        self._random = random
        self.failures = 0

    def next(self) -> float:
        """The delay before the next attempt, in seconds."""
        # An outage of days must not overflow the power: 64 doublings pass any maximum.
        delay_s = min(self._first_s * self._factor ** min(self.failures, 64), self._max_s)
        self.failures += 1
        return delay_s * (1.0 - self._jitter * self._random()) if self._jitter else delay_s

    def reset(self) -> None:
        """Start again with the first delay."""
        self.failures = 0


def reconnecting() -> Backoff:
    """The delays between attempts to reach a broker that was lost."""
    return Backoff(RECONNECT_FIRST_S, RECONNECT_MAX_S, factor=1.5, jitter=RECONNECT_JITTER)
