"""What the NATS transport decides without a server."""

from __future__ import annotations

import pytest

from asya.errors import QueueMissing, TransportError
from asya.transports.nats.transport import NatsTransport


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
    with pytest.raises(TransportError, match=r"2\.12"):
        await transport._ensure_stream()
