"""The memory transport keeps the contract, on virtual time."""

from __future__ import annotations

from datetime import datetime

import pytest

from asya.testing.transport_contract import Harness, TransportContract
from asya.testing.virtual_time import VirtualClock
from asya.transports.base import Transport
from asya.transports.memory.transport import MemoryBroker, MemoryTransport


class MemoryHarness(Harness):
    transport_name = "memory"
    broker_name = "none: it is in the process; on virtual time"
    slack_s = 0.1  # time is virtual: nothing makes it late

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.clock = VirtualClock()

    async def connect(self, *, lease_s: float | None = None) -> Transport:
        transport = MemoryTransport(
            "kit", clock=self.clock, lease_s=lease_s or self.lease_s, broker=self.broker
        )
        await transport.connect()
        return transport

    async def crash(self, transport: Transport) -> None:
        assert isinstance(transport, MemoryTransport)
        transport.abort()

    async def break_broker(self) -> None:
        self.broker.available = False

    async def mend_broker(self) -> None:
        self.broker.available = True

    def now(self) -> datetime:
        return self.clock.now()


class TestMemory(TransportContract):
    @pytest.fixture
    async def harness(self) -> MemoryHarness:
        return MemoryHarness()
