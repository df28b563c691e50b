"""What the memory broker offers to tests beyond the contract; on virtual time."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from asya.errors import MessageTooLarge, TransportUnavailable
from asya.testing.transport_contract import Mailbox
from asya.testing.virtual_time import VirtualClock, run_virtual
from asya.transports.memory.transport import DEDUP_WINDOW_S, MemoryBroker, MemoryTransport


async def connected(broker: MemoryBroker, lease_s: float = 10.0) -> MemoryTransport:
    transport = MemoryTransport("unit", clock=VirtualClock(), broker=broker, lease_s=lease_s)
    await transport.connect()
    await transport.ensure("q")
    return transport


def test_an_hour_of_delay_takes_no_time() -> None:
    async def scenario() -> None:
        clock = VirtualClock()
        transport = await connected(MemoryBroker())
        box = Mailbox(ack=True)
        await transport.consume("q", box)
        await transport.publish("q", b"later", not_before=clock.now() + timedelta(hours=1))
        await box.wait_for(1, timeout_s=4000)
        assert box.times == [pytest.approx(3600, abs=0.01)]

    run_virtual(scenario())


def test_a_dead_client_is_told_at_once_or_noticed_after_the_lease() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        told, silent, heir = [await connected(broker, lease_s=7) for _ in range(3)]
        await heir.publish("q", b"1")
        await heir.publish("q", b"2")
        for transport in (told, silent):
            box = Mailbox()
            await transport.consume("q", box)
            await box.wait_for(1)
        box = Mailbox(ack=True)
        await heir.consume("q", box, window=2)
        broker.client_died(told)
        silent.abort()
        await box.wait_for(2)
        assert [delivery.delivery_count for delivery in box.deliveries] == [2, 2]
        assert box.times == [pytest.approx(0, abs=0.01), pytest.approx(7, abs=0.01)]

    run_virtual(scenario())


def test_a_delivery_of_a_dead_client_changes_nothing() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        dead, heir = await connected(broker), await connected(broker)
        await heir.publish("q", b"1")
        box = Mailbox()
        await dead.consume("q", box)
        (delivery,) = await box.wait_for(1)
        dead.abort()
        delivery.extend()
        delivery.ack()
        assert (await heir.depth("q")).in_flight == 1
        await asyncio.sleep(10.1)
        assert (await heir.depth("q")).ready == 1

    run_virtual(scenario())


def test_an_id_is_forgotten_after_the_window() -> None:
    async def scenario() -> None:
        transport = await connected(MemoryBroker())
        duplicates = []
        for pause_s in (0, DEDUP_WINDOW_S - 1, 2, DEDUP_WINDOW_S - 1):
            await asyncio.sleep(pause_s)
            duplicates.append((await transport.publish("q", b"x", dedup_id="x")).duplicate)
        assert duplicates == [False, True, False, True]

    run_virtual(scenario())


def test_namespaces_are_apart() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        transport = await connected(broker)
        other = MemoryTransport("other", broker=broker)
        await other.connect()
        assert await other.queues() == []
        assert await transport.queues() == ["q"]

    run_virtual(scenario())


def test_bodies_are_copied() -> None:
    async def scenario() -> None:
        transport = await connected(MemoryBroker())
        body = bytearray(b"before")
        await transport.publish("q", body)  # type: ignore[arg-type]  # the point of it
        body[:] = b"after!"
        box = Mailbox(ack=True)
        await transport.consume("q", box)
        await box.wait_for(1)
        assert box.bodies == [b"before"]

    run_virtual(scenario())


def test_the_limit_on_messages_can_be_set() -> None:
    async def scenario() -> None:
        transport = MemoryTransport("unit", message_max_bytes=3)
        await transport.connect()
        await transport.ensure("q")
        assert transport.capabilities.message_max_bytes == 3
        with pytest.raises(MessageTooLarge):
            await transport.publish("q", b"1234")

    run_virtual(scenario())


def test_nothing_works_before_connect_and_during_an_outage() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        transport = MemoryTransport("unit", broker=broker)
        with pytest.raises(TransportUnavailable, match="not connected"):
            await transport.ensure("q")
        broker.available = False
        with pytest.raises(TransportUnavailable):
            await transport.connect()

    run_virtual(scenario())
