"""What counts as stuck."""

from __future__ import annotations

import pytest

from asya.tasks.diagnosis.latency import Latency
from asya.tasks.diagnosis.stuck import stuck_after_s


@pytest.mark.parametrize(
    ("latency", "limit"),
    [
        (Latency(), None),
        (Latency(19, 1.0, 9.0), None),
        (Latency(20, 0.001, 0.002), 10.0),
        (Latency(20, 1.0, 9.0), 90.0),
    ],
)
def test_what_is_stuck_is_measured_by_the_actor_with_a_floor(
    latency: Latency, limit: float | None
) -> None:
    assert stuck_after_s(latency) == limit
