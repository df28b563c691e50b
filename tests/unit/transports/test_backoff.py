"""The one back-off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asya.transports.backoff import RECONNECT_FIRST_S, RECONNECT_MAX_S, Backoff, reconnecting


@pytest.mark.parametrize(
    ("first_s", "max_s", "factor", "delays"),
    [
        (0.1, 2.0, 2.0, [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]),
        (1.0, 1.0, 3.0, [1.0, 1.0, 1.0]),
        (4.0, 2.0, 2.0, [2.0, 2.0]),
    ],
)
def test_delays_grow_up_to_the_maximum(
    first_s: float, max_s: float, factor: float, delays: list[float]
) -> None:
    backoff = Backoff(first_s, max_s, factor=factor)
    assert [backoff.next() for _ in delays] == pytest.approx(delays)
    assert backoff.failures == len(delays)
    backoff.reset()
    assert backoff.next() == delays[0]


def test_an_outage_of_days_overflows_nothing() -> None:
    backoff = Backoff(0.1, 2.0)
    for _ in range(5000):
        backoff.next()
    assert backoff.next() == 2.0


@given(st.floats(0, 1), st.floats(0, 1, exclude_max=True))
def test_jitter_only_shortens(jitter: float, chance: float) -> None:
    backoff = Backoff(1.0, 8.0, jitter=jitter, random=lambda: chance)
    for plain in (1.0, 2.0, 4.0, 8.0, 8.0):
        assert plain * (1 - jitter) <= backoff.next() <= plain


def test_reconnecting_is_quick_at_first_and_bounded() -> None:
    delays = reconnecting()
    assert 0 < delays.next() <= RECONNECT_FIRST_S
    assert max(delays.next() for _ in range(50)) <= RECONNECT_MAX_S
