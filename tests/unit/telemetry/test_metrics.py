from __future__ import annotations

import asyncio
import re
from bisect import bisect_left

import pytest

from asya.envelope import Route
from asya.errors import StoreError
from asya.events import DeadLetter, Finished, HopEnded, HopStarted
from asya.telemetry import catalog
from asya.telemetry.exposition import exposition
from asya.telemetry.metrics import FRESH_S, REASONS_MAX, Gathered, Histogram, Metrics, Sample

ROUTE = Route([], "a", [])
SENT, BEGUN = "2026-11-23T18:25:00.000Z", "2026-11-23T18:25:00.250Z"


class Watch:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def metrics(watch: Watch) -> Metrics:
    return Metrics("shop", watch)


def started(n: int = 0, attempt: int = 1, sent: str = SENT) -> HopStarted:
    return HopStarted("e", n, "a", attempt, BEGUN, "e", ROUTE, sent)


def ended(state: str = "succeeded", n: int = 0, attempt: int = 1) -> HopEnded:
    return HopEnded("e", n, "a", attempt, BEGUN, state, ROUTE)


def histogram(metrics: Metrics, name: str) -> tuple[dict[int, int], float]:
    """Count by bucket's index, and the sum."""

    async def gathered() -> Gathered:
        return await metrics.gather()

    found = asyncio.run(gathered()).histograms.get((name, "a"), Histogram())
    return {i: n for i, n in enumerate(found.counts) if n}, found.total


def test_the_catalog_holds_to_the_conventions() -> None:
    names = [metric.name for metric in catalog.METRICS]
    assert len(set(names)) == len(names)
    for metric in catalog.METRICS:
        assert re.fullmatch(r"asya_[a-z_]+", metric.name)
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert (metric.kind == "histogram") == metric.name.endswith("_seconds")
        assert "namespace" not in metric.labels
        assert metric.help
    assert list(catalog.BUCKETS_S) == sorted(catalog.BUCKETS_S)
    assert (catalog.BUCKETS_S[0], catalog.BUCKETS_S[-1]) == (0.0005, 600.0)


def test_a_hop_is_timed_from_start_to_end(metrics: Metrics, watch: Watch) -> None:
    metrics.emit(started())
    watch.now_s = 0.3
    metrics.emit(ended())
    assert histogram(metrics, catalog.HANDLER_TIME) == (
        {bisect_left(catalog.BUCKETS_S, 0.3): 1},
        0.3,
    )
    assert histogram(metrics, catalog.QUEUE_TIME) == ({catalog.BUCKETS_S.index(0.25): 1}, 0.25)


def test_a_bound_belongs_to_its_bucket_and_the_last_has_none(
    metrics: Metrics, watch: Watch
) -> None:
    for seconds in (0.0, 0.0005, 600.0, 600.1):
        watch.now_s = 0.0
        metrics.emit(started(attempt=2))
        watch.now_s = seconds
        metrics.emit(ended())
    last = len(catalog.BUCKETS_S)
    assert histogram(metrics, catalog.HANDLER_TIME)[0] == {0: 2, last - 1: 1, last: 1}


def test_later_attempts_have_no_queue_time_and_lost_ones_no_handler_time(metrics: Metrics) -> None:
    metrics.emit(started(attempt=2))
    metrics.emit(ended("lost"))
    metrics.emit(ended("failed", n=7))  # whose start was not seen
    assert histogram(metrics, catalog.QUEUE_TIME) == ({}, 0.0)
    assert histogram(metrics, catalog.HANDLER_TIME) == ({}, 0.0)


@pytest.mark.parametrize("sent", ["", "yesterday", "2026-11-23T18:25:00", SENT.replace("25", "26")])
def test_a_time_of_another_form_costs_nothing_but_itself(metrics: Metrics, sent: str) -> None:
    metrics.emit(started(sent=sent))
    metrics.emit(ended())
    assert histogram(metrics, catalog.HANDLER_TIME)[0] == {0: 1}


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        ("2026-11-23T18:25:00.249Z", 0.001),
        ("2026-11-23T18:24:59.999Z", 0.251),
        ("2026-11-23T18:25:00Z", 0.25),
        ("2026-11-23T19:25:00.000+01:00", 0.25),
        ("2026-11-22T18:25:00.250Z", 86_400.0),
        ("2026-11-23T18:25:01.000Z", 0.0),  # clocks differ
    ],
)
def test_the_time_in_the_queue_is_told_from_every_form(
    metrics: Metrics, sent: str, seconds: float
) -> None:
    metrics.emit(started(sent=sent))
    assert histogram(metrics, catalog.QUEUE_TIME)[1] == seconds


def test_of_too_many_hops_the_oldest_start_is_forgotten(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asya.telemetry.metrics.STARTED_MAX", 3)
    for n in range(5):
        metrics.emit(started(n, attempt=2))
    for n in range(5):
        metrics.emit(ended(n=n))
    assert histogram(metrics, catalog.HANDLER_TIME)[0] == {0: 3}


class Books:
    """A ledger that may be out of order, and knows every id after the first time."""

    def __init__(self) -> None:
        self.broken = False
        self.known: set[str] = set()

    async def finish(self, end: Finished) -> bool:
        if self.broken:
            raise StoreError("out of order")
        first = end.id not in self.known
        self.known.add(end.id)
        return first

    async def dead_letter(self, letter: DeadLetter) -> None:
        if self.broken:
            raise StoreError("out of order")


def end(phase: str = "succeeded") -> Finished:
    return Finished("e", phase, BEGUN, 1, "e", ROUTE, SENT)


async def counted(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    return {s.labels: s.value for s in (await metrics.gather()).samples if s.metric == name}


async def test_ends_are_counted_once_and_failures_of_the_store_apart(
    metrics: Metrics, watch: Watch
) -> None:
    books = Books()
    ledger = metrics.ledger(books)
    assert await ledger.finish(end()) is True
    assert await ledger.finish(end()) is False
    await ledger.dead_letter(DeadLetter("e", BEGUN, "PolicyExhausted", "a", b""))
    books.broken = True
    for failing in (
        ledger.finish(end()),
        ledger.dead_letter(DeadLetter("e", BEGUN, "r", "a", b"")),
    ):
        with pytest.raises(StoreError):
            await failing
    assert await counted(metrics, catalog.ENDED) == {
        ("succeeded",): 1, ("failed",): 0, ("canceled",): 0,
    }  # fmt: skip
    assert await counted(metrics, catalog.DEAD) == {("a", "PolicyExhausted"): 1}
    assert await counted(metrics, catalog.STORE_ERRORS) == {(): 2}


async def test_labels_of_dead_letters_are_bounded(metrics: Metrics) -> None:
    for number in range(REASONS_MAX + 50):
        metrics.died(f"actor-{number}", "ParseError")
    found = await counted(metrics, catalog.DEAD)
    assert len(found) == REASONS_MAX + 1
    assert found["other", "other"] == 50


async def test_many_scrapes_ask_the_sources_once_a_second(metrics: Metrics, watch: Watch) -> None:
    asked = 0

    async def source() -> list[Sample]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return [Sample(catalog.READY, (), 1)]

    metrics.add_source(source)
    await asyncio.gather(*(metrics.gather() for _ in range(20)))
    assert asked == 1
    watch.now_s = FRESH_S
    await metrics.gather()
    assert asked == 2


async def test_a_scraper_that_goes_away_does_not_end_the_scrape_of_the_others(
    metrics: Metrics,
) -> None:
    gate = asyncio.Event()

    async def source() -> list[Sample]:
        await gate.wait()
        return [Sample(catalog.READY, (), 1)]

    metrics.add_source(source)
    first, second = (asyncio.ensure_future(metrics.gather()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    gate.set()
    assert Sample(catalog.READY, (), 1) in (await second).samples


async def test_the_text_is_what_prometheus_reads(metrics: Metrics, watch: Watch) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    metrics.emit(started())
    watch.now_s = 0.02
    metrics.emit(ended())
    metrics.request('/v1/"quoted"', "GET", 200)
    text = exposition(await metrics.gather(), "shop").decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    shown = {metric.name.removesuffix("_total") for metric in catalog.METRICS}
    assert {name for name in families if name.startswith("asya_")} == shown
    assert {name for name in families if not name.startswith(("asya_", "process_"))} == set()
    for metric in catalog.METRICS:
        family = families[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == {"namespace", *metric.labels}
            assert sample.labels["namespace"] == "shop"
    buckets = [s for s in families[catalog.HANDLER_TIME].samples if s.name.endswith("_bucket")]
    assert [s.value for s in buckets] == [float(b >= 0.02) for b in (*catalog.BUCKETS_S, 1e9)]
