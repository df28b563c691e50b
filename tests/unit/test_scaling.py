from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asya.scaling import Bounds, Candidate, Peak, desired, expendable, needed, needed_unseen

TOLERANCE = 0.1
"""The HPA changes nothing while the metric is within 10 % of its target."""


def keda(bounds: Bounds, load: int, current: int, *, idle_for_s: float) -> int:
    """KEDA 2.x with one trigger and activation 0, and the HPA (AverageValue) that it makes.

    KEDA decides between 0 and 1: strictly more than the activation value wakes, and the cooldown
    after the last activity puts to sleep. From 1 up the HPA decides:
    desiredReplicas = ceil(metric / target), kept at `current` within the tolerance, in bounds.
    """
    active = load > 0
    if not active and bounds.minimum == 0:
        return 0 if current == 0 or idle_for_s >= bounds.cooldown_s else max(1, hpa(bounds, 0, 1))
    return hpa(bounds, load, max(1, current))


def hpa(bounds: Bounds, load: int, current: int) -> int:
    ratio = load / (bounds.queue_length * current)
    wanted = current if abs(ratio - 1) <= TOLERANCE else math.ceil(load / bounds.queue_length)
    return min(bounds.maximum, max(1, bounds.minimum, wanted))


@st.composite
def bounds_of(draw: st.DrawFn) -> Bounds:
    minimum = draw(st.integers(0, 5))
    maximum = draw(st.integers(max(1, minimum), 30))
    return Bounds(minimum, maximum, draw(st.integers(1, 20)), draw(st.floats(0, 300)))


loads = st.integers(0, 1000)


@given(bounds_of(), loads, loads)
def test_the_need_stays_within_the_bounds(bounds: Bounds, ready: int, in_flight: int) -> None:
    assert bounds.minimum <= needed(bounds, ready=ready, in_flight=in_flight) <= bounds.maximum


@given(bounds_of(), loads, loads)
def test_more_load_never_needs_fewer(bounds: Bounds, ready: int, in_flight: int) -> None:
    less = needed(bounds, ready=ready, in_flight=in_flight)
    assert less <= needed(bounds, ready=ready + 1, in_flight=in_flight)
    assert less <= needed(bounds, ready=ready, in_flight=in_flight + 1)


@given(bounds_of(), loads, st.integers(0, 30))
def test_scale_out_is_what_keda_does_outside_of_its_tolerance(
    bounds: Bounds, load: int, current: int
) -> None:
    # given a steady load since longer than the cooldown
    current = min(current, bounds.maximum)
    need = needed(bounds, ready=load, in_flight=0)
    theirs = keda(bounds, load, current, idle_for_s=bounds.cooldown_s)
    ours = desired(need, peak=need, current=current)
    if bounds.minimum == bounds.maximum or load == 0:
        assert ours == theirs
    elif abs(load / (bounds.queue_length * max(1, current)) - 1) <= TOLERANCE:
        # ours follows the load where theirs rests, by no more than the tolerance
        assert abs(ours - theirs) <= math.ceil(TOLERANCE * max(1, current))
    else:
        assert ours == theirs


@given(
    bounds_of(),
    st.lists(st.tuples(st.floats(0.1, 60), loads), min_size=1, max_size=30),
)
def test_over_time_it_never_ends_more_than_keda_and_its_stabilization_window(
    bounds: Bounds, steps: list[tuple[float, int]]
) -> None:
    # given a load that changes in steps, and the HPA's stabilization window as long as the
    # cooldown: scale-in goes to the highest recommendation of the window
    now, current, peak = 0.0, bounds.minimum, Peak(bounds.cooldown_s)
    recommended: list[tuple[float, int]] = [(0.0, 0)]
    for pause, load in steps:
        now += pause
        need = needed(bounds, ready=load, in_flight=0)
        recommended.append((now, need))
        current = desired(need, peak=peak.note(now, need), current=current)
        in_window = [need] + [
            value
            for (_, value), (ended, _) in pairwise(recommended)
            if ended + bounds.cooldown_s > now
        ]
        assert need <= current <= max(in_window)


def test_the_first_message_wakes_at_once() -> None:
    bounds = Bounds(minimum=0, maximum=5, queue_length=100)
    need = needed(bounds, ready=1, in_flight=0)
    assert desired(need, peak=need, current=0) == 1


def test_a_message_in_flight_keeps_its_replica() -> None:
    bounds = Bounds(minimum=0, maximum=5, queue_length=5)
    peak = Peak(10)
    for now in range(0, 1000, 100):
        need = needed(bounds, ready=0, in_flight=1)
        assert desired(need, peak=peak.note(now, need), current=1) == 1


def test_the_last_replica_goes_after_the_cooldown_and_not_before() -> None:
    peak = Peak(10)
    peak.note(0, 3)
    assert desired(0, peak=peak.note(100, 0), current=3) == 3
    assert peak.next_fall_s == 110
    assert desired(0, peak=peak.note(109.9, 0), current=3) == 3
    assert desired(0, peak=peak.note(110, 0), current=3) == 0
    assert peak.next_fall_s is None


def test_scale_in_stops_at_the_second_highest_need_of_the_window() -> None:
    peak = Peak(10)
    peak.note(0, 5)
    peak.note(1, 2)
    assert peak.note(5, 1) == 5
    assert peak.note(11, 1) == 2
    assert peak.note(15, 1) == 1


def test_with_scaling_off_the_number_is_fixed() -> None:
    bounds = Bounds.fixed(3)
    assert needed(bounds, ready=0, in_flight=0) == 3
    assert needed(bounds, ready=1000, in_flight=0) == 3
    assert needed(Bounds.fixed(0), ready=1000, in_flight=0) == 0


def test_bounds_that_contradict_one_another_are_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        Bounds(minimum=3, maximum=2)


def test_scale_in_takes_starting_then_longest_idle_and_never_busy_ones() -> None:
    replicas = [
        Candidate(1, "busy", 0),
        Candidate(2, "idle", 50),
        Candidate(3, "idle", 10),
        Candidate(4, "terminating", 0),
        Candidate(5, "starting", 60),
        Candidate(6, "starting", 61),
    ]
    assert expendable(replicas, 3) == [6, 5, 3]
    assert expendable(replicas, 10) == [6, 5, 3, 2]
    assert expendable(replicas, 0) == []
    assert expendable(replicas, -1) == []


def test_where_nobody_tells_what_waits_one_more_starts_while_all_are_full() -> None:
    bounds = Bounds(0, 10, queue_length=5)
    assert needed_unseen(bounds, busy=2, current=2, full=True) == 3
    assert needed_unseen(bounds, busy=10, current=10, full=True) == 10
    # the last one is still starting, one is idle, or there is room: those that work are enough
    assert needed_unseen(bounds, busy=2, current=3, full=True) == 2
    assert needed_unseen(bounds, busy=2, current=2, full=False) == 2
    # the first replica is started for what is held, not for what might wait
    assert needed_unseen(bounds, busy=0, current=0, full=True) == 0
    assert needed_unseen(Bounds(3, 3), busy=0, current=0, full=False) == 3


@given(bounds_of(), st.integers(0, 40), st.integers(0, 40), st.booleans())
def test_what_is_needed_unseen_stays_within_the_bounds(
    bounds: Bounds, busy: int, current: int, full: bool
) -> None:
    need = needed_unseen(bounds, busy=min(busy, current), current=current, full=full)
    assert bounds.minimum <= need <= bounds.maximum
    assert need >= min(bounds.maximum, min(busy, current)) or bounds.minimum == bounds.maximum
