"""The forms that NATS asks for: subjects, times, acks, addresses, refusals."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from asya.errors import QueueMissing, TransportError, TransportUnavailable
from asya.transports.nats.connection import _address, _refusal
from asya.transports.nats.consumer import _delivery_count
from asya.transports.nats.transport import NatsTransport, _schedule_id, _whole_ms


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
    assert _delivery_count(reply) == count


def test_a_schedule_is_never_earlier_than_asked() -> None:
    moment = datetime(2026, 1, 1, 0, 0, 0, 1_001, tzinfo=UTC)
    assert _whole_ms(moment).microsecond == 2_000
    exact = moment.replace(microsecond=5_000)
    assert _whole_ms(exact) == exact
    assert _whole_ms(moment.replace(microsecond=999_999)).second == 1


def test_the_same_id_names_the_same_schedule_and_no_id_a_new_one() -> None:
    assert _schedule_id("a b.c>*") == _schedule_id("a b.c>*")
    assert _schedule_id("a") != _schedule_id("b")
    assert _schedule_id(None) != _schedule_id(None)
    assert _schedule_id("a b.c>*").isalnum()


def test_addresses_are_shown_without_credentials() -> None:
    assert _address("nats://user:pa@ss@host:4222") == "host:4222"
    assert _address("nats://token@[::1]:4222") == "[::1]:4222"
    assert _address("host:1") == "host:1"


def test_refusals_say_whether_a_retry_helps() -> None:
    kinds = {10014: QueueMissing, 10059: QueueMissing, 10077: TransportUnavailable}
    for number, kind in kinds.items():
        refusal = _refusal({"err_code": number, "description": "why"}, "subject")
        assert type(refusal) is kind
        assert "why" in str(refusal)
    assert type(_refusal({"err_code": 10003}, "subject")) is TransportError


async def test_capabilities_tell_the_lease_that_was_asked_for() -> None:
    transport = NatsTransport("nats://127.0.0.1:1", "unit", lease_s=3.5)
    assert transport.capabilities.lease_s == 3.5
    assert NatsTransport.capabilities.lease_s == 10.0


async def test_a_server_that_cannot_delay_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = NatsTransport("nats://127.0.0.1:1", "unit")

    async def answer_of_an_old_server(call: str, request: object = None) -> dict[str, object]:
        if call.startswith("STREAM.INFO"):
            raise QueueMissing("stream not found")
        return {"config": {"name": "asya-unit"}}

    monkeypatch.setattr(transport, "_api", answer_of_an_old_server)
    with pytest.raises(TransportError, match=r"2\.12 or later"):
        await transport._ensure_stream()
