"""What a sidecar tells of itself: for the autoscaler, `asya ps` and `GET /v1/actors`."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime
from typing import Final

RATE_WINDOW_S: Final = 10


@dataclass(frozen=True, slots=True)
class ReplicaSnapshot:
    """One runtime: `state` is `idle`, `busy` or `terminating`."""

    pid: int
    state: str
    since: datetime
    in_flight: int


@dataclass(frozen=True, slots=True)
class SidecarSnapshot:
    """One actor, as its sidecar sees it.

    Attributes:
        waiting: Messages held that no replica works on.
        in_flight: Messages that replicas work on.
        rate: Envelopes done per second, over the last ten.
        canceled: Envelopes that ended here because somebody canceled them.
        full: As many messages are held as may be: there may be more in the queue.
        handler_p50_s: Median time of the handler in seconds, None before the first.
    """

    actor: str
    waiting: int
    in_flight: int
    replicas: list[ReplicaSnapshot]
    rate: float
    last_error: str | None
    received: int
    succeeded: int
    failed: int
    retried: int
    timeouts: int
    lost: int
    handler_p50_s: float | None
    canceled: int = 0
    full: bool = False


class Rate:
    """Events per second over the last `RATE_WINDOW_S` seconds, in one-second buckets."""

    def __init__(self) -> None:
        self._buckets: deque[tuple[int, int]] = deque(maxlen=RATE_WINDOW_S + 1)

    def tick(self, now_s: float) -> None:
        """Count one event at the loop's time `now_s`."""
        second = int(now_s)
        if self._buckets and self._buckets[-1][0] == second:
            self._buckets[-1] = (second, self._buckets[-1][1] + 1)
        else:
            self._buckets.append((second, 1))

    def per_second(self, now_s: float) -> float:
        """The rate at `now_s`."""
        oldest = now_s - RATE_WINDOW_S
        counted = sum(n for second, n in self._buckets if second >= oldest)
        return round(counted / RATE_WINDOW_S, 2)
