"""When a subscription that has lost its topic may be made anew."""

from __future__ import annotations

import pytest

from asya.transports.pubsub.consumer import Orphan, PullOptions


@pytest.mark.parametrize(
    ("heard_at", "found_at", "now", "drained"),
    [
        (0.0, None, 100.0, False),  # it has a topic
        (0.0, 50.0, 59.0, False),  # what others hold may still come back
        (0.0, 50.0, 60.5, True),
        (55.0, 50.0, 60.5, False),  # something came meanwhile
        (55.0, 50.0, 65.5, True),
    ],
)
def test_an_orphan_is_drained_a_lease_after_the_last_message(
    heard_at: float, found_at: float | None, now: float, drained: bool
) -> None:
    orphan = Orphan(0.0, lease_s=10.0)
    orphan.heard_at = heard_at
    if found_at is not None:
        assert orphan.find(found_at)
        assert not orphan.find(found_at + 1)
    assert orphan.is_drained(now) is drained


def test_one_that_has_a_topic_again_is_found_anew() -> None:
    orphan = Orphan(0.0, lease_s=10.0)
    orphan.find(1.0)
    orphan.over()
    assert not orphan.found
    assert orphan.find(2.0)


def test_the_server_is_told_whole_seconds() -> None:
    assert PullOptions("s", 1.2, 1.0, adjusts=True).deadline_s == 2
