"""Delays of ours keep the contract: the task store's messages before a broker that keeps none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asya.chores import FixedLeader
from asya.tasks.store.sqlite.store import SqliteStore
from asya.testing.delayed_contract import NOW, DelayedMessageStoreContract
from asya.testing.transport_contract import Harness, TransportContract
from asya.transports.base import Transport
from asya.transports.delayed import DelayedMessageStore, DelayingTransport
from asya.transports.memory.transport import MemoryBroker, MemoryTransport


class LaterHarness(Harness):
    transport_name = "memory + shelf"
    broker_name = "none: it is in the process; delays in the task store (SQLite)"

    def __init__(self, messages: DelayedMessageStore) -> None:
        self.broker = MemoryBroker()
        self.transports: list[DelayingTransport] = []
        self._messages = messages

    async def connect(self, *, lease_s: float | None = None) -> Transport:
        inner = MemoryTransport(
            "kit", lease_s=lease_s or self.lease_s, broker=self.broker, delay_max_s=0
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
        assert isinstance(transport.inner, MemoryTransport)
        await transport.stop()
        transport.inner.abort()

    async def break_broker(self) -> None:
        self.broker.available = False

    async def mend_broker(self) -> None:
        self.broker.available = True


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "tasks.db")
    await store.open()
    yield store
    await store.close()


class TestLater(TransportContract):
    @pytest.fixture
    async def harness(self, store: SqliteStore) -> AsyncIterator[LaterHarness]:
        harness = LaterHarness(store.delayed)
        yield harness
        await asyncio.gather(*(each.close() for each in harness.transports))


class TestSqliteDelayedMessages(DelayedMessageStoreContract):
    @pytest.fixture
    def messages(self, store: SqliteStore) -> DelayedMessageStore:
        return store.delayed


async def test_the_store_is_there_after_the_store_was_closed(tmp_path: Path) -> None:
    for _ in range(2):
        store = SqliteStore(tmp_path / "tasks.db")
        await store.open()
        await store.delayed.put("q", b"stays", NOW, "id")
        await store.close()
    store = SqliteStore(tmp_path / "tasks.db")
    await store.open()
    assert [each.body for each in await store.delayed.due(NOW, 10)] == [b"stays"]
    await store.close()
