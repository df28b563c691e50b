"""Which subscriptions make a window."""

from __future__ import annotations

import pytest

from asya.transports.rabbitmq.subscriptions import Subscriptions


@pytest.mark.parametrize(
    ("made", "window", "orphaned", "ended"),
    [
        # prefetch and unsettled of each, the window, messages of ended ones; prefetches that end
        ([(10, 0)], 10, 0, []),
        ([(10, 0)], 5, 0, [10]),
        ([(10, 10)], 0, 0, [10]),
        ([(5, 0), (5, 5)], 5, 0, [5]),
        ([(5, 5), (3, 0)], 5, 0, [3]),
        ([(4, 1), (4, 0)], 6, 0, [4]),
        ([(4, 0)], 4, 2, [4]),
        ([], 3, 5, []),
    ],
)
def test_a_smaller_window_ends_as_few_as_it_takes(
    made: list[tuple[int, int]], window: int, orphaned: int, ended: list[int]
) -> None:
    subscriptions = Subscriptions()
    held = orphaned
    for prefetch, unsettled in made:
        subscriptions.add(prefetch).unsettled = unsettled
        held += unsettled
    assert [one.prefetch for one in subscriptions.excess(window, held)] == ended


def test_one_that_is_being_ended_counts_with_what_it_holds() -> None:
    subscriptions = Subscriptions()
    ending = subscriptions.add(10)
    ending.ending, ending.unsettled = True, 4
    subscriptions.add(2)
    assert subscriptions.excess(6, held=4) == []
    assert [one.prefetch for one in subscriptions.excess(5, held=4)] == [2]


def test_an_ended_one_tells_once_what_it_could_still_have_brought() -> None:
    subscriptions = Subscriptions()
    one = subscriptions.add(10)
    one.unsettled = 4
    assert one.tag in subscriptions
    assert subscriptions.remove(one) == 6
    assert subscriptions.remove(one) == 0
    assert one.tag not in subscriptions


def test_tags_are_never_used_twice_and_single_ones_are_left_alone() -> None:
    subscriptions = Subscriptions()
    first = subscriptions.add(1)
    assert subscriptions.idle() == []
    subscriptions.clear()
    assert subscriptions.add(1).tag != first.tag
    subscriptions.add(1)
    assert len(subscriptions.idle()) == 2
