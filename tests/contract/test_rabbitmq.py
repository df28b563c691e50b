"""The RabbitMQ transport keeps the contract, on a real server of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.support.rabbitmq import RabbitServer

from asya.addresses import parse_address
from asya.testing.transport_contract import Harness, TransportContract
from asya.transports.base import Transport
from asya.transports.rabbitmq.transport import SETTLE_S, RabbitTransport


class RabbitHarness(Harness):
    transport_name = "rabbitmq"
    lease_s = 0.2  # there is none: what is left of it in the kit is waiting

    def __init__(self, server: RabbitServer) -> None:
        self.server = server
        self.transports: list[RabbitTransport] = []

    async def connect(self, *, lease_s: float | None = None) -> Transport:
        # Queues settle in `break_broker` instead, since most tests break nothing.
        transport = RabbitTransport(parse_address(self.server.url()), "kit", settle_s=0.0)
        await transport.connect()
        version = ".".join(transport._connection.version.split(".")[:2])
        self.broker_name = f"RabbitMQ {version}, one server for all tests"
        self.transports.append(transport)
        return transport

    async def crash(self, transport: Transport) -> None:
        assert isinstance(transport, RabbitTransport)
        transport.abort()

    async def break_broker(self) -> None:
        await asyncio.sleep(SETTLE_S)
        await asyncio.to_thread(self.server.kill)

    async def mend_broker(self) -> None:
        await asyncio.to_thread(self.server.start)


class TestRabbit(TransportContract):
    @pytest.fixture
    async def harness(self, rabbit: RabbitServer) -> AsyncIterator[RabbitHarness]:
        harness = RabbitHarness(rabbit)
        try:
            yield harness
        finally:
            await asyncio.gather(*(transport.close() for transport in harness.transports))
            last = await harness.connect()
            await asyncio.gather(*(last.delete(queue) for queue in await last.queues()))
            await last.close()
