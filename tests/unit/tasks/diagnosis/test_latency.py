from __future__ import annotations

import pytest

from asya.envelope import Route
from asya.events import HopEnded, HopStarted
from asya.tasks.diagnosis import latency as pace
from asya.tasks.diagnosis.latency import ActorLatency, Latencies, Latency, between_s

ROUTE = Route([], "a", [])


def at(seconds: float) -> str:
    return f"2026-01-01T00:{int(seconds // 60):02}:{seconds % 60:06.3f}Z"


def started(id: str, *, enqueued: float = 0, begin: float = 1, attempt: int = 1) -> HopStarted:
    return HopStarted(id, 0, "a", attempt, at(begin), id, ROUTE, at(enqueued), 11)


def ended(id: str, *, end: float, state: str = "succeeded", attempt: int = 1) -> HopEnded:
    return HopEnded(id, 0, "a", attempt, at(end), state, ROUTE)


def test_without_calls_nothing_is_known() -> None:
    assert Latencies().of("a") == ActorLatency(Latency(), Latency())


def test_percentiles_are_those_of_the_newest_calls() -> None:
    paces = Latencies()
    for number in range(300):
        paces.started(started(str(number), begin=1))
        paces.ended(ended(str(number), end=1 + (number if number < 44 else number - 43) / 1000))
    found = paces.of("a").handler
    assert (found.samples, found.p50_s, found.p99_s) == (256, 0.128, 0.254)
    assert paces.of("a").queue.p99_s == 1.0


def test_what_was_stopped_from_outside_is_no_sample() -> None:
    paces = Latencies()
    for number, state in enumerate(("canceled", "lost")):
        paces.started(started(str(number)))
        paces.ended(ended(str(number), end=50, state=state))
    assert paces.of("a").handler == Latency()


def test_the_wait_for_a_retry_is_none_of_the_queue() -> None:
    paces = Latencies()
    paces.started(started("e", enqueued=0, begin=30, attempt=2))
    assert paces.of("a").queue == Latency()


def test_calls_without_an_end_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "OPEN_MAX", 2)
    paces = Latencies()
    for name in ("x", "y", "z"):
        paces.started(started(name))
    paces.ended(ended("x", end=2))
    assert paces.of("a").handler == Latency()
    assert paces.newest_start("a") == at(1)
    assert paces.newest_start("b") is None
    paces.ended(ended("z", end=2))
    assert paces.of("a").handler.samples == 1


def test_a_time_that_is_none_counts_as_nothing() -> None:
    assert between_s("yesterday", at(1)) == 0.0
