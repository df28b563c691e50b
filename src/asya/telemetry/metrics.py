"""The numbers behind `/metrics`, as plain integers: what is counted while work runs costs little.

Told by sidecars (as an `events.Listener`), by the crew (through `ledger`) and by the gateway;
what others count anyway (sidecars, the broker) is asked for at a scrape, by `Source`s. A scrape
is good for `FRESH_S`, so that many scrapers cost what one does. One object per mesh, no globals.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from asya.errors import StoreError
from asya.events import DeadLetter, Event, Finished, HopEnded, HopStarted, Ledger
from asya.telemetry import catalog

FRESH_S: Final = 1.0
"""How long what was gathered is given again."""

STARTED_MAX: Final = 100_000
"""Hops under way whose start is remembered; past it the oldest is forgotten, and has no time."""

REASONS_MAX: Final = 200
"""Pairs of actor and reason that dead letters are counted by; the rest is one of `other`."""

_SECOND: Final = timedelta(seconds=1)


class Sample(NamedTuple):
    """One number: labels are those of the catalog, in its order."""

    metric: str
    labels: tuple[str, ...]
    value: float


Source = Callable[[], Awaitable[Iterable[Sample]]]
"""Asked at a scrape; its time must be bounded."""


@dataclass
class Histogram:
    """Counts by bucket, not added up; the last is for what is over every bound."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(catalog.BUCKETS_S) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(catalog.BUCKETS_S, seconds)] += 1
        self.total += seconds


@dataclass(frozen=True)
class Gathered:
    """All numbers at one time.

    An actor's histograms are there from the first observation on: a thousand idle actors would
    fill sixty thousand lines with zeros.
    """

    samples: list[Sample]
    histograms: Mapping[tuple[str, str], Histogram]


class Metrics:
    """All counts of one mesh. Implements `events.Listener`.

    Args:
        namespace: The label that every metric has.
        monotonic: The time, in seconds.
    """

    def __init__(
        self, namespace: str = "default", monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.namespace = namespace
        self._monotonic = monotonic
        self._started: dict[tuple[str, int], float] = {}
        self._histograms: dict[tuple[str, str], Histogram] = {}
        self._counts: dict[tuple[str, tuple[str, ...]], int] = {
            (catalog.STORE_ERRORS, ()): 0,
            **{(catalog.ENDED, (phase,)): 0 for phase in ("succeeded", "failed", "canceled")},
        }
        self._dead_pairs: set[tuple[str, str]] = set()
        self._sources: list[Source] = []
        self._gathering: asyncio.Task[Gathered] | None = None
        self._gathered_s = float("-inf")

    # -- what is counted --------------------------------------------------------------------------

    def emit(self, event: Event) -> None:
        """See `events.Listener`."""
        kind = type(event)
        if kind is HopStarted:
            self._hop_started(event)  # type: ignore[arg-type]  # `type` tells it as well
        elif kind is HopEnded:
            self._hop_ended(event)  # type: ignore[arg-type]  # the same

    def _hop_started(self, event: HopStarted) -> None:
        if len(self._started) >= STARTED_MAX:
            del self._started[next(iter(self._started))]
        self._started[event.id, event.n] = self._monotonic()
        if event.attempt == 1:
            waited_s = _between_s(event.enqueued_at, event.at)
            if waited_s is not None:
                self._histogram(catalog.QUEUE_TIME, event.actor).add(waited_s)

    def _hop_ended(self, event: HopEnded) -> None:
        began_s = self._started.pop((event.id, event.n), None)
        if began_s is not None and event.state != "lost":
            took_s = self._monotonic() - began_s
            self._histogram(catalog.HANDLER_TIME, event.actor).add(took_s)

    def cold_start(self, actor: str, took_s: float) -> None:
        """An actor without replicas has its first one."""
        self._histogram(catalog.COLD_START, actor).add(took_s)

    def request(self, route: str, method: str, status: int) -> None:
        """The gateway has answered; `route` is the pattern, `method` a known one."""
        self._count(catalog.REQUESTS, route, method, str(status))

    def ended(self, phase: str) -> None:
        """An envelope has ended."""
        self._count(catalog.ENDED, phase)

    def died(self, actor: str, reason: str) -> None:
        """An envelope went to the dead letters."""
        pair = (actor, reason)
        if pair not in self._dead_pairs and len(self._dead_pairs) >= REASONS_MAX:
            pair = ("other", "other")
        self._dead_pairs.add(pair)
        self._count(catalog.DEAD, *pair)

    def store_failed(self) -> None:
        """The task store did not take an end or a dead letter."""
        self._count(catalog.STORE_ERRORS)

    def ledger(self, inner: Ledger) -> Ledger:
        """A ledger that counts what it passes on."""
        return _CountingLedger(self, inner)

    def _count(self, name: str, *labels: str) -> None:
        key = (name, labels)
        self._counts[key] = self._counts.get(key, 0) + 1

    def _histogram(self, name: str, actor: str) -> Histogram:
        found = self._histograms.get((name, actor))
        if found is None:
            found = self._histograms[name, actor] = Histogram()
        return found

    # -- what is asked for ------------------------------------------------------------------------

    def add_source(self, source: Source) -> None:
        """Ask it, too, at every scrape."""
        self._sources.append(source)

    async def gather(self) -> Gathered:
        """All numbers, at most `FRESH_S` old."""
        task, now_s = self._gathering, self._monotonic()
        if task is None or (task.done() and now_s - self._gathered_s >= FRESH_S):
            self._gathered_s = now_s
            task = self._gathering = asyncio.create_task(self._gather(), name="asya-scrape")
        return await asyncio.shield(task)

    async def _gather(self) -> Gathered:
        found = await asyncio.gather(*(source() for source in self._sources))
        samples = [Sample(name, labels, n) for (name, labels), n in self._counts.items()]
        samples += [sample for source in found for sample in source]
        copies = {
            key: Histogram(list(each.counts), each.total) for key, each in self._histograms.items()
        }
        return Gathered(samples, copies)


class _CountingLedger:
    """See `events.Ledger`."""

    def __init__(self, metrics: Metrics, inner: Ledger) -> None:
        self._metrics = metrics
        self._inner = inner

    async def finish(self, end: Finished) -> bool:
        try:
            first = await self._inner.finish(end)
        except StoreError:
            self._metrics.store_failed()
            raise
        if first:
            self._metrics.ended(end.phase)
        return first

    async def dead_letter(self, letter: DeadLetter) -> None:
        try:
            await self._inner.dead_letter(letter)
        except StoreError:
            self._metrics.store_failed()
            raise
        self._metrics.died(letter.actor, letter.reason)


def _between_s(earlier: str, later: str) -> float | None:
    try:
        waited = datetime.fromisoformat(later) - datetime.fromisoformat(earlier)
    except (ValueError, TypeError):  # an envelope from elsewhere, with a time of its own form
        return None
    return max(0.0, waited / _SECOND)
