"""The Pub/Sub transport, with the messages for delays, keeps the contract.

On Google's emulator where it is installed, and on a stand-in of ours, which keeps its messages as
the real service does; the header of the output says which of them it was.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.pubsub import PubSubEmulator, PubSubFake

from asya.chores import FixedLeader
from asya.tasks.store.sqlite.store import SqliteStore
from asya.testing.transport_contract import Harness, TransportContract
from asya.transports.base import Transport
from asya.transports.delayed import DelayedMessageStore, DelayingTransport
from asya.transports.pubsub.transport import PubSubTransport


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PubSubFake]:
    if (why := PubSubFake.missing()) is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    server = PubSubFake(tmp_path_factory.mktemp("pubsub") / "messages.db")
    with server:
        yield server


@pytest.fixture(scope="module")
def emulator() -> Iterator[PubSubEmulator]:
    with PubSubEmulator() as server:
        yield server


@pytest.fixture
async def messages(tmp_path: Path) -> AsyncIterator[DelayedMessageStore]:
    store = SqliteStore(tmp_path / "tasks.db")
    await store.open()
    yield store.delayed
    await store.close()


LARGE_S = 60.0
"""Seconds for a pull or a publish of the largest message, on any machine."""


class PubSubHarness(Harness):
    """All tests share a server; each has a project of its own."""

    transport_name = "pubsub"
    lease_s = 2.0
    long_lease_s = 5.0
    quiet_s = 0.3
    # what is handed to a pull that ends in the same moment comes back after ten seconds, the least
    # that a subscription may have; these tests pull four times a second
    slack_s = 14.0

    def __init__(
        self,
        server: PubSubFake | PubSubEmulator,
        messages: DelayedMessageStore,
        request: pytest.FixtureRequest,
    ) -> None:
        self.server = server
        # A pull that ends while its answer is on the way leaves the message leased for ten seconds.
        # The answer of 10 MB may take longer than a short pull, and then it never arrives.
        large = "largest_message" in request.node.name
        self._pull_s, self._publish_timeout_s = (LARGE_S, LARGE_S) if large else (0.25, 2.0)
        self.transports: list[DelayingTransport] = []
        self._messages = messages
        self._project = f"kit-{uuid.uuid4().hex}"

    async def connect(self, *, lease_s: float | None = None) -> Transport:
        inner = PubSubTransport(
            self.server.address(self._project),
            "kit",
            lease_s=lease_s or self.lease_s,
            publish_timeout_s=self._publish_timeout_s,
            pull_s=self._pull_s,
        )
        transport = DelayingTransport(
            inner, self._messages, leader=FixedLeader(None if self.transports else 1)
        )
        self.transports.append(transport)
        await transport.connect()
        await transport.start()
        return transport

    async def crash(self, transport: Transport) -> None:
        assert isinstance(transport, DelayingTransport)
        assert isinstance(transport.inner, PubSubTransport)
        await transport.stop()
        transport.inner.abort()


class FakeHarness(PubSubHarness):
    """Killed, and started again on its file."""

    broker_name = "a stand-in of ours, not Google's; delays in the task store (SQLite)"

    async def break_broker(self) -> None:
        self.server.kill()

    async def mend_broker(self) -> None:
        await asyncio.to_thread(self.server.start)


class EmulatorHarness(PubSubHarness):
    """It forgets when it ends, so an outage is a server that stands still."""

    broker_name = f"Google's emulator {PubSubEmulator.version()}; delays in the task store (SQLite)"
    forgets = "Google's emulator keeps messages in memory; Pub/Sub keeps them"

    async def break_broker(self) -> None:
        self.server.pause()

    async def mend_broker(self) -> None:
        self.server.resume()


class TestPubSubStandIn(TransportContract):
    @pytest.fixture
    async def harness(
        self,
        fake: PubSubFake,
        messages: DelayedMessageStore,
        request: pytest.FixtureRequest,
    ) -> AsyncIterator[FakeHarness]:
        harness = FakeHarness(fake, messages, request)
        yield harness
        fake.start()
        await asyncio.gather(*(each.close() for each in harness.transports))


if PubSubEmulator.missing() is None:

    class TestPubSubEmulator(TransportContract):
        @pytest.fixture
        async def harness(
            self,
            emulator: PubSubEmulator,
            messages: DelayedMessageStore,
            request: pytest.FixtureRequest,
        ) -> AsyncIterator[EmulatorHarness]:
            harness = EmulatorHarness(emulator, messages, request)
            yield harness
            emulator.resume()
            await asyncio.gather(*(each.close() for each in harness.transports))
