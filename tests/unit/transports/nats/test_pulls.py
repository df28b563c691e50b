"""Pull requests, and when they are replaced."""

from __future__ import annotations

import json

import pytest

from asya.transports.nats.pulls import (
    DRIFT_S,
    EXPIRES_S,
    REPAIR_AGAIN_S,
    SILENCE_S,
    PullFormat,
    Renewal,
    Watch,
    delivery_count,
)


@pytest.mark.parametrize(
    ("reply", "count"),
    [
        ("$JS.ACK.asya-x.queue.1.17.3.1795467718606628400.0", 1),
        ("$JS.ACK.asya-x.queue.12.17.3.1795467718606628400.0", 12),
        ("$JS.ACK.hub.ACCHASH.asya-x.queue.7.17.3.1795467718606628400.0.rnd", 7),
        ("$JS.ACK._.ACCHASH.asya-x.queue.7.17.3.1795467718606628400.0", 7),
    ],
)
def test_the_delivery_count_stands_in_the_ack_subject(reply: str, count: int) -> None:
    assert delivery_count(reply) == count


@pytest.mark.parametrize("lease_s", [0.5, 1.0, 10.0, 3600.0])
def test_requests_end_soon_after_the_lease_and_have_a_heartbeat_the_server_accepts(
    lease_s: float,
) -> None:
    request = json.loads(PullFormat("asya-x", "q", lease_s).payload(17))
    assert request["batch"] == 17
    assert request["expires"] <= min(EXPIRES_S, 2 * lease_s) * 1e9
    assert request["idle_heartbeat"] * 2 <= request["expires"]


def test_silence_and_drift_are_counted_from_different_moments() -> None:
    watch = Watch(0.0)
    watch.heard_at = DRIFT_S
    assert not watch.is_silent(DRIFT_S + SILENCE_S)
    assert watch.is_silent(DRIFT_S + SILENCE_S + 0.1)
    assert not watch.has_drifted(DRIFT_S)
    assert watch.has_drifted(DRIFT_S + 0.1)
    watch.begin(DRIFT_S + 0.1)
    assert not watch.has_drifted(DRIFT_S + 0.2)
    assert not watch.is_silent(DRIFT_S + 0.2)


def test_what_is_found_during_a_renewal_needs_another_one() -> None:
    renewal = Renewal()
    renewal.force(broken=True)
    renewal.begin()
    assert (renewal.due, renewal.forced, renewal.broken) == (False, False, True)
    renewal.force()
    assert (renewal.due, renewal.forced, renewal.broken) == (True, True, True)


def test_repairs_keep_a_distance() -> None:
    renewal = Renewal()
    assert renewal.repair_wait_s(100.0) == 0.0
    assert renewal.repair_wait_s(100.25) == pytest.approx(REPAIR_AGAIN_S - 0.25)
    # counted from when the second one begins
    assert renewal.repair_wait_s(101.5) == pytest.approx(REPAIR_AGAIN_S - 0.5)
