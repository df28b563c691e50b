"""Addresses and refusals; the connection itself is tested against a server in tests/contract."""

from __future__ import annotations

from asya.errors import QueueMissing, TransportError, TransportUnavailable
from asya.transports.nats.connection import ConsumerInMotion, address, refusal


def test_addresses_are_shown_without_credentials() -> None:
    assert address("nats://user:pa@ss@host:4222") == "host:4222"
    assert address("nats://token@[::1]:4222") == "[::1]:4222"
    assert address("host:1") == "host:1"


def test_refusals_say_whether_a_retry_helps() -> None:
    kinds = {
        10014: QueueMissing,
        10059: QueueMissing,
        10077: TransportUnavailable,
        10012: ConsumerInMotion,
        10003: TransportError,
    }
    for number, kind in kinds.items():
        error = refusal({"err_code": number, "description": "why"}, "subject")
        assert type(error) is kind
        assert "why" in str(error)
