"""The NATS transport keeps the contract, on a real server of its own."""

from __future__ import annotations

import asyncio
import functools
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asya.local.broker import NatsServer, find_binary
from asya.testing.transport_contract import Harness, TransportContract
from asya.transports.base import Transport
from asya.transports.nats.transport import NatsTransport


@functools.cache
def version() -> str:
    """Of the server, to the minor number."""
    done = subprocess.run(
        [find_binary(None), "--version"], check=True, capture_output=True, text=True
    )
    found = re.search(r"v(\d+\.\d+)", done.stdout)
    assert found is not None, done.stdout
    return found[1]


class NatsHarness(Harness):
    transport_name = "nats"

    def __init__(self, server: NatsServer) -> None:
        self.broker_name = f"nats-server {version()}, started for each test"
        self.server = server
        self.transports: list[NatsTransport] = []

    async def connect(self, *, lease_s: float | None = None) -> Transport:
        transport = NatsTransport(
            self.server.url, "kit", lease_s=lease_s or self.lease_s, publish_timeout_s=3.0
        )
        await transport.connect()
        self.transports.append(transport)
        return transport

    async def crash(self, transport: Transport) -> None:
        assert isinstance(transport, NatsTransport)
        transport.abort()

    async def break_broker(self) -> None:
        assert self.server.pid is not None
        gone = asyncio.Event()
        self.server.on_exit = lambda code: gone.set()
        os.kill(self.server.pid, signal.SIGKILL)
        await gone.wait()

    async def mend_broker(self) -> None:
        await self.server.start()


class TestNats(TransportContract):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[NatsHarness]:
        server = NatsServer(tmp_path / "nats")
        await server.start()
        harness = NatsHarness(server)
        try:
            yield harness
        finally:
            await asyncio.gather(*(transport.close() for transport in harness.transports))
            await server.stop()
