"""Refusals are told once; the connection itself is tested against a server in tests/contract."""

from __future__ import annotations

import pytest

from asya.transports.pubsub.connection import REFUSED_S, Refusals, chunks


def test_refusals_are_told_once_and_so_is_their_end(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals("project")
    refusals.refused("Pull", "a", "permission denied", 10.0)
    refusals.refused("Publish", "b", "permission denied too", 11.0)
    assert refusals.reason == "permission denied"
    refusals.accepted("Pull", "a", 12.0)
    refusals.accepted("Pull", "unknown", 12.0)
    assert refusals.reason
    refusals.accepted("Publish", "b", 14.0)
    assert refusals.reason == ""
    refused, accepted = caplog.messages
    assert "permission denied" in refused
    assert accepted.endswith("after 4.0 s")


def test_one_that_is_not_met_again_is_no_trouble_any_more() -> None:
    refusals = Refusals("project")
    refusals.refused("Pull", "a", "permission denied", 10.0)
    refusals.expire(10.0 + REFUSED_S)
    assert refusals.reason
    refusals.expire(10.1 + REFUSED_S)
    assert refusals.reason == ""


def test_chunks_keep_order_and_size() -> None:
    assert list(chunks([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]
