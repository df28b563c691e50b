"""How much is held and sent in advance, by the time that a handler takes."""

import pytest

from asya.sidecar.window import AHEAD_MAX, PIPELINE_MAX, ahead, pipeline, window


@pytest.mark.parametrize(
    ("median_s", "calls"),
    [(None, 0), (10.0, 0), (0.002, 0), (0.0016, 10), (0.0005, PIPELINE_MAX), (0.0, PIPELINE_MAX)],
)
def test_only_quick_handlers_are_sent_calls_in_advance(median_s, calls):
    assert pipeline(median_s) == calls


@pytest.mark.parametrize(
    ("median_s", "messages"), [(None, 0), (0.051, 0), (0.01, 2), (0.001, 20), (0.0, AHEAD_MAX)]
)
def test_what_is_held_in_advance_keeps_a_replica_busy_for_a_moment(median_s, messages):
    assert ahead(1, median_s) == messages


def test_without_a_replica_one_message_wakes_the_first():
    assert window(0, 5, 0.001) == 1
    assert window(2, 5, None) == 10
