"""The SQS transport keeps the contract, on moto's server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.support.moto import MotoServer

from asya.addresses import parse_address
from asya.testing.transport_contract import Harness, TransportContract
from asya.transports.base import Transport
from asya.transports.sqs.transport import SqsTransport


class SqsHarness(Harness):
    """moto forgets when it ends, so an outage is a server that stands still.

    Unlike SQS it never ends a receive whose client or queue is gone; short polls bound that.
    """

    transport_name = "sqs"
    broker_name = f"moto {MotoServer.version()}, which stands in for Amazon SQS"
    forgets = "moto keeps messages in memory; Amazon SQS keeps them"
    lease_s = 2.0
    long_lease_s = 6.0
    quiet_s = 0.3
    messages_max = 60

    def __init__(self, server: MotoServer) -> None:
        self.server = server
        self.transports: list[SqsTransport] = []

    async def connect(self, *, lease_s: float | None = None) -> Transport:
        transport = SqsTransport(
            parse_address(self.server.address),
            "kit",
            lease_s=lease_s or self.lease_s,
            publish_timeout_s=4.0,
            poll_s=2.0,
            linger_s=10.0,
        )
        await transport.connect()
        self.transports.append(transport)
        return transport

    async def crash(self, transport: Transport) -> None:
        assert isinstance(transport, SqsTransport)
        transport.abort()

    async def break_broker(self) -> None:
        self.server.pause()

    async def mend_broker(self) -> None:
        self.server.resume()


class TestSqs(TransportContract):
    @pytest.fixture
    async def harness(self, moto: MotoServer) -> AsyncIterator[SqsHarness]:
        harness = SqsHarness(moto)
        try:
            yield harness
        finally:
            moto.resume()
            for transport in harness.transports:
                transport.abort()
            await asyncio.gather(*(transport.close() for transport in harness.transports))
