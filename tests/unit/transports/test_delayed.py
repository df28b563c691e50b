"""Delays that a broker cannot keep: on virtual time, with a messages in a dictionary."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime, timedelta

import pytest

from asya.errors import (
    MessageTooLarge,
    QueueMissing,
    StoreError,
    TransportError,
    TransportUnavailable,
)
from asya.testing.delayed_contract import DelayedMessageStoreContract
from asya.testing.transport_contract import Mailbox
from asya.testing.virtual_time import VirtualClock, run_virtual
from asya.transports.base import Receipt
from asya.transports.delayed import DelayedMessageStore, DelayingTransport, ScheduledMessage
from asya.transports.memory.transport import MemoryBroker, MemoryTransport
from asya.transports.mixed import MixedTransport


class DictStore:
    """Outlives the transports that use it, as a file does. `broken`: it refuses everything."""

    def __init__(self) -> None:
        self.broken = self.keeps_all = False
        self.messages: dict[int, tuple[datetime, ScheduledMessage]] = {}
        self._last = 0

    async def put(self, queue: str, body: bytes, due_at: datetime, dedup_id: str | None) -> bool:
        self._check()
        for _, one in self.messages.values():
            if dedup_id is not None and (one.queue, one.dedup_id) == (queue, dedup_id):
                return False
        self._last += 1
        self.messages[self._last] = (due_at, ScheduledMessage(self._last, queue, body, dedup_id))
        return True

    async def due(
        self, until: datetime, limit: int, without: Collection[str] = ()
    ) -> Sequence[ScheduledMessage]:
        found = [each for at, each in self._sorted(without) if at <= until]
        return found[:limit]

    async def next_due(self, without: Collection[str] = ()) -> datetime | None:
        return next((at for at, _ in self._sorted(without)), None)

    async def remove(self, keys: Sequence[int]) -> None:
        self._check()
        if self.keeps_all:
            raise StoreError("no room to forget")
        for key in keys:
            self.messages.pop(key, None)

    async def counts(self) -> dict[str, int]:
        return dict(Counter(each.queue for _, each in self._sorted(())))

    async def count(self, queue: str) -> int:
        return (await self.counts()).get(queue, 0)

    async def clear(self, queue: str) -> None:
        self._check()
        await self.remove([key for key, (_, each) in self.messages.items() if each.queue == queue])

    def _sorted(self, without: Collection[str]) -> list[tuple[datetime, ScheduledMessage]]:
        self._check()
        found = [each for each in self.messages.values() if each[1].queue not in without]
        return sorted(found, key=lambda each: (each[0], each[1].key))

    def _check(self) -> None:
        if self.broken:
            raise StoreError("no disk")


class TestDictStore(DelayedMessageStoreContract):
    @pytest.fixture
    def messages(self) -> DelayedMessageStore:
        return DictStore()


class World:
    def __init__(self, delay_max_s: float | None = 0) -> None:
        self.clock, self.broker, self.messages = VirtualClock(), MemoryBroker(), DictStore()
        self.inner = self.make_inner(delay_max_s)
        self.later = DelayingTransport(self.inner, self.messages, clock=self.clock)
        self.box = Mailbox(ack=True)

    def make_inner(self, delay_max_s: float | None) -> MemoryTransport:
        return MemoryTransport(
            "unit", clock=self.clock, broker=self.broker, delay_max_s=delay_max_s
        )

    async def start(self, *queues: str) -> DelayingTransport:
        await self.later.connect()
        for queue in queues or ("q",):
            await self.later.ensure(queue)
            await self.later.consume(queue, self.box, window=100)
        await self.later.start()
        return self.later

    def after(self, seconds: float) -> datetime:
        return self.clock.now() + timedelta(seconds=seconds)


Scenario = Callable[[World], Awaitable[None]]


def run(scenario: Scenario, delay_max_s: float | None = 0) -> None:
    async def within() -> None:
        world = World(delay_max_s)
        try:
            await scenario(world)
        finally:
            await world.later.close()

    run_virtual(within())


def test_the_broker_keeps_what_it_can_and_the_store_the_rest() -> None:
    async def scenario(world: World) -> None:
        later = await world.start()
        for seconds in (0.5, 10, 10.5, 86_400 * 30):
            await later.publish("q", str(seconds).encode(), not_before=world.after(seconds))
        assert (await world.inner.depth("q")).delayed == 2
        assert await world.messages.counts() == {"q": 2}
        assert (await later.depth("q")).delayed == 4
        await world.box.wait_for(4, timeout_s=86_400 * 31)
        assert world.box.times == [pytest.approx(t, abs=0.01) for t in (0.5, 10, 10.5, 2_592_000)]
        await asyncio.sleep(1)
        assert world.messages.messages == {}
        assert (await later.depth("q")).delayed == 0

    run(scenario, delay_max_s=10)


def test_a_broker_without_a_limit_needs_no_store() -> None:
    async def scenario(world: World) -> None:
        later = await world.start()
        world.messages.broken = True
        await later.publish("q", b"1", not_before=world.after(10**6))
        await later.publish("q", b"2")
        assert (await later.depth("q")).delayed == 1

    run(scenario, delay_max_s=None)


def test_an_earlier_one_is_not_kept_waiting_by_a_later_one() -> None:
    async def scenario(world: World) -> None:
        later = await world.start()
        await later.publish("q", b"late", not_before=world.after(3600))
        await asyncio.sleep(5)
        await later.publish("q", b"soon", not_before=world.after(1))
        await world.box.wait_for(2, timeout_s=4000)
        assert world.box.bodies == [b"soon", b"late"]
        assert world.box.times == [pytest.approx(6, abs=0.01), pytest.approx(3600, abs=0.01)]

    run(scenario)


def test_what_falls_due_while_the_broker_is_away_comes_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(world: World) -> None:
        later = await world.start()
        for number in range(100):
            await later.publish("q", str(number).encode(), not_before=world.after(1))
        world.broker.available = False
        await asyncio.sleep(600)
        assert len(world.messages.messages) == 100
        world.broker.available = True
        await world.box.wait_for(100, timeout_s=15)
        await asyncio.sleep(60)
        assert world.box.bodies == [str(number).encode() for number in range(100)]
        assert world.messages.messages == {}

    with caplog.at_level(logging.WARNING):
        run(scenario)
    assert caplog.records == [], "the transport of the broker tells of that"


def test_a_death_before_the_store_knows_sends_once_more_with_the_same_id() -> None:
    async def scenario(world: World) -> None:
        later = await world.start()
        published: list[str | None] = []
        original = world.inner.publish

        async def publish(
            queue: str,
            body: bytes,
            *,
            dedup_id: str | None = None,
            not_before: datetime | None = None,
        ) -> Receipt:
            published.append(dedup_id)
            return await original(queue, body, dedup_id=dedup_id, not_before=not_before)

        world.inner.publish = publish  # type: ignore[method-assign]  # sees what is sent
        world.messages.keeps_all = True
        await later.publish("q", b"1", dedup_id="id:1", not_before=world.after(1))
        await asyncio.sleep(60)
        assert published == ["id:1"], "one process sends it once, however long that takes"
        await later.stop()  # dead: nothing of it is left but the messages
        world.messages.keeps_all = False
        heir = DelayingTransport(world.inner, world.messages, clock=world.clock)
        await heir.start()
        await asyncio.sleep(1)
        await heir.stop()
        assert published == ["id:1", "id:1"]
        assert world.box.bodies == [b"1"], "the broker knows the id"
        assert world.messages.messages == {}

    run(scenario)


def test_a_missing_queue_is_told_once_and_disturbs_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(world: World) -> None:
        later = await world.start("good", "gone")
        for number in range(200):
            await later.publish("gone", str(number).encode(), not_before=world.after(1))
        await later.publish("good", b"good", not_before=world.after(2))
        world.broker.remove("unit", "gone")  # by somebody else
        await world.box.wait_for(1, timeout_s=3)
        assert world.box.bodies == [b"good"]
        await asyncio.sleep(600)
        assert len(world.messages.messages) == 200
        await world.inner.ensure("gone")
        await world.box.wait_for(201, timeout_s=30)

    with caplog.at_level(logging.WARNING):
        run(scenario)
    first, second = caplog.messages
    assert first.startswith(
        "gone: delayed messages cannot be sent, and are kept: there is no queue"
    )
    assert second == "gone: delayed messages are sent again"


def test_a_delayed_message_for_a_queue_that_nobody_made_is_refused() -> None:
    async def scenario(world: World) -> None:
        later = await world.start()
        with pytest.raises(QueueMissing):
            await later.publish("nobody", b"", not_before=world.after(60))
        assert world.messages.messages == {}
        # a broker that is away cannot tell; the message is safe and is sent when it is back
        world.broker.available = False
        await later.publish("q", b"kept", not_before=world.after(60))
        world.broker.available = True
        await world.box.wait_for(1, timeout_s=100)

    run(scenario)


def test_deleting_a_queue_takes_its_messages_off_the_store() -> None:
    async def scenario(world: World) -> None:
        later = await world.start("q", "other")
        for queue in ("q", "other"):
            await later.publish(queue, queue.encode(), not_before=world.after(10))
        await later.delete("q")
        await later.ensure("q")
        assert (await later.depth("q")).delayed == 0
        await asyncio.sleep(60)
        assert world.box.bodies == [b"other"]

    run(scenario)


def test_what_the_store_refuses_was_not_published() -> None:
    async def scenario(world: World) -> None:
        later = await world.start()
        with pytest.raises(MessageTooLarge):
            await later.publish("q", b"x" * (8 * 2**20 + 1), not_before=world.after(60))
        world.messages.broken = True
        with pytest.raises(TransportUnavailable, match="cannot be stored: no disk"):
            await later.publish("q", b"", not_before=world.after(60))
        with pytest.raises(TransportUnavailable, match="cannot be counted"):
            await later.depth("q")
        with pytest.raises(TransportUnavailable, match="cannot be removed"):
            await later.delete("q")

    run(scenario)


def test_a_store_that_cannot_be_read_for_a_while_is_read_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(world: World) -> None:
        later = await world.start()
        await later.publish("q", b"1", not_before=world.after(60))
        world.messages.broken = True
        await asyncio.sleep(100)
        world.messages.broken = False
        await world.box.wait_for(1, timeout_s=15)

    run(scenario)
    assert "the chore delayed-messages failed" in caplog.text


def test_a_repeated_id_is_kept_once() -> None:
    async def scenario(world: World) -> None:
        later = await world.start()
        receipts = [
            await later.publish("q", b"1", dedup_id="id", not_before=world.after(60))
            for _ in range(2)
        ]
        assert [each.duplicate for each in receipts] == [False, True]

    run(scenario)


def test_it_can_do_what_the_broker_can_and_any_delay() -> None:
    world = World()
    limited = MemoryTransport("unit", delay_max_s=900, lease_s=3)
    mixed = DelayingTransport(MixedTransport(world.inner, {"b": limited}), world.messages)
    assert mixed.capabilities.delay_max_s is None
    assert mixed.capabilities_of("b").delay_max_s is None
    assert mixed.capabilities_of("b").lease_s == 3
    assert mixed.capabilities_of("b") is mixed.capabilities_of("b")


def test_a_message_on_the_store_follows_its_queue_to_another_broker() -> None:
    async def scenario(world: World) -> None:
        later = await world.start()
        await later.publish("q", b"moved", not_before=world.after(60))
        await later.stop()
        elsewhere = MemoryTransport("unit", clock=world.clock)
        mixed = MixedTransport(world.inner, {"q": elsewhere})
        heir = DelayingTransport(mixed, world.messages, clock=world.clock)
        await heir.connect()
        await heir.ensure("q")
        await heir.start()
        assert (await heir.depth("q")).delayed == 1
        box = Mailbox(ack=True)
        await elsewhere.consume("q", box)
        await box.wait_for(1, timeout_s=70)
        await heir.close()

    run(scenario)


def test_the_memory_broker_refuses_what_it_does_not_keep() -> None:
    async def scenario(world: World) -> None:
        await world.start()
        with pytest.raises(TransportError, match="a delay of 60 s; this broker keeps 10 s"):
            await world.inner.publish("q", b"", not_before=world.after(60))

    run(scenario, delay_max_s=10)
