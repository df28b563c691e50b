"""Queues at two brokers behind one transport; on virtual time."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from asya.errors import QueueMissing, TransportUnavailable
from asya.testing.transport_contract import Mailbox
from asya.testing.virtual_time import VirtualClock, run_virtual
from asya.transports.base import Delivery
from asya.transports.memory.transport import MemoryBroker, MemoryTransport
from asya.transports.mixed import MixedTransport


class World:
    """A mesh with `a` and `x-sink` at one broker and `b` at the other."""

    def __init__(self) -> None:
        self.here, self.there = MemoryBroker(), MemoryBroker()
        self.default = MemoryTransport("unit", clock=VirtualClock(), broker=self.here, lease_s=3)
        self.other = MemoryTransport(
            "unit", clock=VirtualClock(), broker=self.there, lease_s=60, message_max_bytes=10
        )
        self.mixed = MixedTransport(self.default, {"b": self.other})

    async def start(self) -> MixedTransport:
        await self.mixed.connect()
        for queue in ("a", "b", "x-sink"):
            await self.mixed.ensure(queue)
        return self.mixed


def test_each_queue_is_at_its_broker() -> None:
    async def scenario() -> None:
        world = World()
        mixed = await world.start()
        assert await mixed.queues() == ["a", "b", "x-sink"]
        assert await world.default.queues() == ["a", "x-sink"]
        assert await world.other.queues() == ["b"]
        assert mixed.capabilities == world.default.capabilities
        assert [mixed.capabilities_of(queue).lease_s for queue in ("a", "b", "?")] == [3, 60, 3]

        await mixed.publish("b", b"1")
        await mixed.publish("b", b"2", not_before=VirtualClock().now() + timedelta(hours=1))
        assert (await mixed.depth("b")).ready == 1
        assert (await mixed.depth("b")).delayed == 1
        assert (await mixed.depth("a")).ready == 0

        await mixed.delete("b")
        assert await world.other.queues() == []
        with pytest.raises(QueueMissing):
            await mixed.publish("b", b"3")

    run_virtual(scenario())


def test_a_hand_over_waits_for_the_confirm_of_the_other_broker() -> None:
    async def scenario() -> None:
        world = World()
        mixed = await world.start()
        await mixed.publish("a", b"work")
        tried, handed = asyncio.Event(), Mailbox(ack=True)

        async def hand_over(delivery: Delivery) -> None:
            while True:
                tried.set()
                try:
                    await mixed.publish("b", delivery.body)
                except TransportUnavailable:
                    await asyncio.sleep(1)
                else:
                    return delivery.ack()

        tasks = []
        world.there.available = False
        await mixed.consume(
            "a", lambda delivery: tasks.append(asyncio.create_task(hand_over(delivery)))
        )
        await tried.wait()
        assert (await mixed.depth("a")).in_flight == 1, "not acked before the other one's confirm"
        world.there.available = True
        await mixed.consume("b", handed)
        await handed.wait_for(1)
        assert handed.bodies == [b"work"]

    run_virtual(scenario())


def test_none_stays_connected_when_one_cannot_be_reached() -> None:
    async def scenario() -> None:
        world = World()
        world.there.available = False
        with pytest.raises(TransportUnavailable):
            await world.mixed.connect()
        assert not world.default.connected

    run_virtual(scenario())


def test_inspection_is_of_all_brokers() -> None:
    async def scenario() -> None:
        world = World()
        mixed = await world.start()
        found = await mixed.inspect(["a", "b"])
        assert (found.broker, found.queues) == (
            "memory, memory",
            frozenset({"a", "b", "x-sink"}),
        )

    run_virtual(scenario())


def test_trouble_is_that_of_any(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    assert world.mixed.trouble is None
    monkeypatch.setattr(
        MemoryTransport,
        "trouble",
        property(lambda self: "no way there" if self.broker is world.there else None),
    )
    assert world.mixed.trouble == "no way there"
