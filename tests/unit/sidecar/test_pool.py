"""How much is held and sent in advance, by the time that a handler takes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from asya.sidecar.pool import (
    AHEAD_MAX,
    PIPELINE_MAX,
    ahead,
    for_suspect,
    freest,
    pipeline,
    prefetch,
    prefetch_of,
)


@pytest.mark.parametrize(
    ("median_s", "calls"),
    [(None, 0), (10.0, 0), (0.002, 0), (0.0016, 10), (0.0005, PIPELINE_MAX), (0.0, PIPELINE_MAX)],
)
def test_only_quick_handlers_are_sent_calls_in_advance(median_s: float | None, calls: int) -> None:
    assert pipeline(median_s) == calls


@pytest.mark.parametrize(
    ("median_s", "messages"), [(None, 0), (0.051, 0), (0.01, 2), (0.001, 20), (0.0, AHEAD_MAX)]
)
def test_what_is_held_in_advance_keeps_a_replica_busy_for_a_moment(
    median_s: float | None, messages: int
) -> None:
    assert ahead(1, median_s) == messages


def test_without_a_replica_one_message_wakes_the_first() -> None:
    assert prefetch(0, 5, 0.001) == 1
    assert prefetch(2, 5, None) == 10


@dataclass
class View:
    in_flight: int = 0
    concurrency: int = 1
    reserved: bool = False
    open: bool = True


def test_the_freest_replica_is_the_first_of_those_with_the_fewest_calls() -> None:
    busy, first, second = View(1, 2), View(0, 2), View(0, 2)
    assert freest([busy, first, second], 0) is first


def test_a_replica_that_is_full_reserved_or_going_gets_no_call() -> None:
    assert freest([View(1), View(reserved=True), View(open=False)], 0) is None
    full = View(1)
    assert freest([full], 1) is full


def test_a_suspect_waits_for_the_replica_that_is_reserved_and_else_for_the_least_busy() -> None:
    reserved, idle, busy = View(1, reserved=True), View(), View(3)
    assert for_suspect([busy, idle, reserved]) is reserved
    assert for_suspect([busy, idle]) is idle
    assert for_suspect([View(open=False, reserved=True)]) is None


def test_what_a_leaving_replica_works_on_takes_no_place_of_the_others() -> None:
    assert prefetch_of([View(), View(2, open=False)], 1, None, 0) == 3
    assert prefetch_of([View()], 1, None, 1) == 2
    assert prefetch_of([], 1, None, 1) == 1, "one message wakes the first replica"
