"""What every transport must do: a kit of tests.

A transport's test module makes a `Harness` for its broker, and a subclass of `TransportContract`
with a fixture `harness`::

    class TestMine(TransportContract):
        @pytest.fixture
        async def harness(self):
            ...
            yield MyHarness(...)

Where brokers differ the kit looks at `Capabilities`, never at names. It knows nothing of how
time passes: the tests run on a virtual loop as well.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final

import pytest

from asya.errors import MessageTooLarge, QueueMissing, TransportError, TransportUnavailable
from asya.transports.base import Consumer, Delivery, Transport

QUEUE: Final = "asya-kit-first"
OTHER: Final = "asya-kit-second"
QUIET_S: Final = 0.15
"""How long nothing must come for nothing to be coming, in seconds."""
PATIENCE_S: Final = 15.0
SLACK_S: Final = 5.0
"""How late a broker may be with what it owes at a time, in seconds."""


class Harness(ABC):
    """A broker for tests, and ways to harm it.

    All transports it makes have the namespace `kit`.

    Attributes:
        lease_s: The lease where a test does not ask for another, in seconds; short, and such that
            the broker can keep it.
        long_lease_s: One that is long beside what a loaded machine needs for a few hundred
            messages, in seconds.
        slack_s: How late the broker may be with what it owes at a time, in seconds.
        quiet_s: How long nothing must come for nothing to be coming, in seconds.
        messages_max: The most that a test may have in a queue.
        forgets: Why the tests' server loses its messages when it is restarted, where the broker that
            it stands for keeps them; empty if it does not.
        transport_name: As manifests have it, for the table in the docs.
        broker_name: What the tests run against, with its version to the minor number, for the same
            table; a stand-in says that it is one.
    """

    transport_name = ""
    broker_name = ""
    lease_s = 1.0
    long_lease_s = 5.0
    slack_s = SLACK_S
    quiet_s = QUIET_S
    messages_max = 1500
    forgets = ""

    @abstractmethod
    async def connect(self, *, lease_s: float | None = None) -> Transport:
        """A new, connected client of the broker; deliveries are leased for `lease_s`."""

    def bodies(self, count: int) -> list[bytes]:
        """Different messages, as many as a test would like, or as the broker can bear."""
        return [str(number).encode() for number in range(min(count, self.messages_max))]

    async def quiet(self) -> None:
        """Give what is wrongly on its way the time to come."""
        await asyncio.sleep(self.quiet_s)

    @abstractmethod
    async def crash(self, transport: Transport) -> None:
        """Let a client vanish as if its process had been killed."""

    @abstractmethod
    async def break_broker(self) -> None:
        """Stop the broker, at once and without a warning."""

    @abstractmethod
    async def mend_broker(self) -> None:
        """Start it again; returns when it can be reached."""

    def now(self) -> datetime:
        """The wall time that the transports go by."""
        return datetime.now(UTC)


class Mailbox:
    """Collects deliveries; `ack` settles each as it comes."""

    def __init__(self, *, ack: bool = False) -> None:
        self.deliveries: list[Delivery] = []
        self.times: list[float] = []
        self._ack = ack
        self._arrived = asyncio.Event()

    def __call__(self, delivery: Delivery) -> None:
        """Take a delivery."""
        self.deliveries.append(delivery)
        self.times.append(asyncio.get_running_loop().time())
        if self._ack:
            delivery.ack()
        self._arrived.set()

    @property
    def bodies(self) -> list[bytes]:
        """The bodies in the order they came."""
        return [delivery.body for delivery in self.deliveries]

    async def wait_for(self, count: int, timeout_s: float = PATIENCE_S) -> list[Delivery]:
        """The first `count` deliveries, once they are there."""
        async with asyncio.timeout(timeout_s):
            while len(self.deliveries) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return self.deliveries[:count]

    async def wait_for_bodies(self, bodies: set[bytes], timeout_s: float = PATIENCE_S) -> None:
        """Return once each of the bodies has come at least once."""
        async with asyncio.timeout(timeout_s):
            while not bodies <= set(self.bodies):
                self._arrived.clear()
                await self._arrived.wait()


async def publish_soon(transport: Transport, body: bytes, dedup_id: str | None = None) -> None:
    """Publish as a caller does that must not lose it: again, until it is confirmed."""
    async with asyncio.timeout(PATIENCE_S * 2):
        while True:
            try:
                await transport.publish(QUEUE, body, dedup_id=dedup_id)
            except TransportUnavailable:
                await asyncio.sleep(0.05)
            else:
                return


class QueueContract:
    """Queues: made, removed, listed, counted."""

    async def test_ensure_and_delete_are_idempotent(self, harness: Harness) -> None:
        """Both may be repeated, and `ensure` leaves messages alone."""
        transport = await harness.connect()
        await transport.ensure(QUEUE)
        await transport.publish(QUEUE, b"stays")
        await transport.ensure(QUEUE)
        counts = transport.capabilities.counts_ready
        assert (await transport.depth(QUEUE)).ready == (1 if counts else 0)
        kept, gone = Mailbox(), Mailbox()
        consumer = await transport.consume(QUEUE, kept)
        await kept.wait_for(1)
        await consumer.close()
        await transport.delete(QUEUE)
        await transport.delete(QUEUE)
        await transport.ensure(QUEUE)
        assert (await transport.depth(QUEUE)).ready == 0
        await transport.consume(QUEUE, gone)
        await harness.quiet()
        assert gone.bodies == []

    async def test_delete_removes_delayed_messages_too(self, harness: Harness) -> None:
        """A queue that is made again begins empty."""
        transport = await harness.connect()
        await transport.ensure(QUEUE)
        later = harness.now() + timedelta(seconds=0.4)
        await transport.publish(QUEUE, b"late", not_before=later)
        await transport.delete(QUEUE)
        await transport.ensure(QUEUE)
        box = Mailbox(ack=True)
        await transport.consume(QUEUE, box)
        await asyncio.sleep(0.4 + transport.capabilities.delay_resolution_s)
        await harness.quiet()
        assert box.bodies == []

    async def test_queues_are_listed_sorted(self, harness: Harness) -> None:
        """All of them, also when there are many."""
        transport = await harness.connect()
        names = [f"asya-kit-{number:03}" for number in range(20)]
        await asyncio.gather(*(transport.ensure(name) for name in reversed(names)))
        listed = await transport.queues()
        assert [name for name in listed if name in names] == names
        assert listed == sorted(listed)

    async def test_a_missing_queue_is_told(self, harness: Harness) -> None:
        """By everything that needs it, and only as long as it is missing."""
        transport = await harness.connect()
        await transport.delete(QUEUE)
        with pytest.raises(QueueMissing, match=QUEUE):
            await transport.publish(QUEUE, b"nobody")
        with pytest.raises(QueueMissing, match=QUEUE):
            await transport.consume(QUEUE, Mailbox())
        with pytest.raises(QueueMissing):
            await transport.depth(QUEUE)
        another = await harness.connect()
        await another.ensure(QUEUE)
        await asyncio.sleep(1.0)
        await transport.publish(QUEUE, b"somebody")

    async def test_depth_tells_ready_held_and_delayed(self, harness: Harness) -> None:
        """As far as the broker counts them."""
        transport = await harness.connect()
        await transport.ensure(QUEUE)
        for body in (b"1", b"2", b"3"):
            await transport.publish(QUEUE, body)
        for _ in range(2):
            later = harness.now() + timedelta(hours=1)
            await transport.publish(QUEUE, b"later", not_before=later)
        box = Mailbox()
        consumer = await transport.consume(QUEUE, box, window=1)
        (held,) = await box.wait_for(1)
        depth = await transport.depth(QUEUE)
        counts = transport.capabilities
        assert depth.ready == (2 if counts.counts_ready else 0)
        assert depth.in_flight == 1 or (depth.in_flight == 0 and not counts.counts_in_flight)
        assert depth.delayed == (2 if transport.capabilities.counts_delayed else 0)
        consumer.set_window(0)
        held.ack()
        await consumer.close()


class PublishContract:
    """Messages: what goes in comes out."""

    async def test_a_message_is_delivered_once_and_acked(self, harness: Harness) -> None:
        """The ordinary way."""
        transport = await harness.connect()
        await transport.ensure(QUEUE)
        receipt = await transport.publish(QUEUE, b"hello")
        box = Mailbox(ack=True)
        await transport.consume(QUEUE, box)
        (delivery,) = await box.wait_for(1)
        assert (delivery.body, delivery.delivery_count) == (b"hello", 1)
        assert not receipt.duplicate
        await asyncio.sleep(harness.lease_s + harness.quiet_s)
        assert box.bodies == [b"hello"]
        assert await transport.depth(QUEUE) == await (await harness.connect()).depth(QUEUE)
        assert (await transport.depth(QUEUE)).in_flight == 0

    @pytest.mark.parametrize(
        "body",
        [b"", b"\x00\xff\r\n\xfe" * 3, "ünï\N{SNOWMAN}\N{ROCKET}".encode(), b"MSG a 1 2\r\n"],
        ids=["empty", "binary", "unicode", "protocol"],
    )
    async def test_bodies_come_out_as_they_went_in(self, harness: Harness, body: bytes) -> None:
        """Byte for byte."""
        transport = await harness.connect()
        await transport.ensure(QUEUE)
        await transport.publish(QUEUE, body)
        box = Mailbox(ack=True)
        await transport.consume(QUEUE, box)
        await box.wait_for(1)
        assert box.bodies == [body]

    async def test_the_largest_message_passes_and_a_larger_one_is_refused(
        self, harness: Harness
    ) -> None:
        """The limit is the declared one, and a refusal harms nothing else."""
        transport = await harness.connect()
        await transport.ensure(QUEUE)
        limit = transport.capabilities.message_max_bytes
        with pytest.raises(MessageTooLarge, match=str(limit + 1)):
            await transport.publish(QUEUE, b"x" * (limit + 1))
        await transport.publish(QUEUE, b"y" * limit, dedup_id="largest")
        box = Mailbox(ack=True)
        await transport.consume(QUEUE, box)
        await box.wait_for(1)
        assert len(box.bodies[0]) == limit

    async def test_a_thousand_messages_come_in_order(self, harness: Harness) -> None:
        """With one consumer and nothing given back; where the broker has no order, they all come."""
        transport = await harness.connect(lease_s=harness.long_lease_s)
        await transport.ensure(QUEUE)
        bodies = harness.bodies(1000)
        for body in bodies:
            await transport.publish(QUEUE, body)
        box = Mailbox(ack=True)
        await transport.consume(QUEUE, box, window=50)
        await box.wait_for(len(bodies))
        ordered = transport.capabilities.ordered
        assert (box.bodies if ordered else sorted(box.bodies)) == (
            bodies if ordered else sorted(bodies)
        )

    async def test_publishes_may_overlap(self, harness: Harness) -> None:
        """While the queue is consumed."""
        transport = await harness.connect()
        await transport.ensure(QUEUE)
        box = Mailbox(ack=True)
        await transport.consume(QUEUE, box, window=10)
        bodies = harness.bodies(500)
        await asyncio.gather(*(transport.publish(QUEUE, body) for body in bodies))
        await box.wait_for(len(bodies))
        await harness.quiet()
        assert sorted(box.bodies) == sorted(bodies)

    async def test_a_repeated_id_is_dropped(self, harness: Harness) -> None:
        """Where the broker deduplicates; delayed or not, and also while it is being handled."""
        transport = await harness.connect()
        if not transport.capabilities.deduplicates:
            pytest.skip("this broker does not deduplicate")
        await transport.ensure(QUEUE)
        later = harness.now() + timedelta(seconds=0.3)
        box = Mailbox(ack=True)
        await transport.consume(QUEUE, box)
        receipts = [
            await transport.publish(QUEUE, b"a", dedup_id="a"),
            await transport.publish(QUEUE, b"a", dedup_id="a"),
            await transport.publish(QUEUE, b"b", dedup_id="b", not_before=later),
            await transport.publish(QUEUE, b"b", dedup_id="b", not_before=later),
            await transport.publish(QUEUE, b"c", dedup_id="c"),
        ]
        assert [receipt.duplicate for receipt in receipts] == [False, True, False, True, False]
        await box.wait_for(3)
        await harness.quiet()
        assert sorted(box.bodies) == [b"a", b"b", b"c"]

    async def test_delayed_messages_come_at_their_time(self, harness: Harness) -> None:
        """Never early, at most a little late; in the order of their times, where the broker has one."""
        transport = await harness.connect()
        await transport.ensure(QUEUE)
        box = Mailbox(ack=True)
        await transport.consume(QUEUE, box, window=10)
        begin, now = asyncio.get_running_loop().time(), harness.now()
        delays = {b"1.5": 1.5, b"0.5": 0.5}
        for body, delay_s in delays.items():
            await transport.publish(QUEUE, body, not_before=now + timedelta(seconds=delay_s))
        await box.wait_for(2)
        ordered = transport.capabilities.ordered
        assert (box.bodies if ordered else sorted(box.bodies)) == [b"0.5", b"1.5"]
        for body, at in zip(box.bodies, box.times, strict=True):
            late_s = at - begin - delays[body]
            assert -0.02 < late_s < transport.capabilities.delay_resolution_s + harness.slack_s

    async def test_a_time_that_has_passed_means_now(self, harness: Harness) -> None:
        """However long ago."""
        transport = await harness.connect()
        await transport.ensure(QUEUE)
        box = Mailbox(ack=True)
        await transport.consume(QUEUE, box, window=2)
        await transport.publish(QUEUE, b"1", not_before=harness.now() - timedelta(days=400))
        await transport.publish(QUEUE, b"2", not_before=harness.now())
        await box.wait_for(2, timeout_s=harness.slack_s)


class DeliveryContract:
    """Deliveries: windows, leases, and what becomes of what is not settled."""

    async def test_requeue_gives_back_at_once_and_counts(self, harness: Harness) -> None:
        """Long before the lease ends."""
        transport = await harness.connect(lease_s=harness.long_lease_s)
        await transport.ensure(QUEUE)
        await transport.publish(QUEUE, b"again")
        box = Mailbox()
        await transport.consume(QUEUE, box)
        for count in (1, 2, 3):
            delivery = (await box.wait_for(count, timeout_s=harness.long_lease_s * 0.8))[-1]
            assert delivery.delivery_count == count
            assert delivery.held
            delivery.requeue()
        (await box.wait_for(4))[-1].ack()

    async def test_the_window_is_exact(self, harness: Harness) -> None:
        """As it is, as it grows, as it shrinks, and at zero."""
        transport = await harness.connect()
        await transport.ensure(QUEUE)
        for number in range(20):
            await transport.publish(QUEUE, str(number).encode())
        box = Mailbox()
        consumer = await transport.consume(QUEUE, box, window=3)
        await box.wait_for(3)
        await harness.quiet()
        assert len(box.deliveries) == consumer.window == 3
        box.deliveries[0].ack()
        box.deliveries[0].ack()
        await box.wait_for(4)
        await harness.quiet()
        assert len(box.deliveries) == 4
        consumer.set_window(5)
        await box.wait_for(6)
        await harness.quiet()
        assert len(box.deliveries) == 6
        consumer.set_window(0)
        for delivery in box.deliveries:
            delivery.ack()
        await harness.quiet()
        assert len(box.deliveries) == 6
        consumer.set_window(1)
        await box.wait_for(7)
        await harness.quiet()
        assert len(box.deliveries) == 7

    async def test_a_window_that_shrinks_while_idle_holds(self, harness: Harness) -> None:
        """Also when the broker was asked for more before; nothing is lost or counted twice."""
        transport = await harness.connect()
        await transport.ensure(QUEUE)
        box = Mailbox()
        consumer = await transport.consume(QUEUE, box, window=10)
        await harness.quiet()
        consumer.set_window(2)
        await harness.quiet()
        bodies = {str(number).encode() for number in range(8)}
        for body in bodies:
            await transport.publish(QUEUE, body)
        await box.wait_for(2)
        await harness.quiet()
        assert len(box.deliveries) == 2
        for index in range(8):
            (await box.wait_for(index + 1))[-1].ack()
        assert set(box.bodies) == bodies
        assert [delivery.delivery_count for delivery in box.deliveries] == [1] * 8

    async def test_the_window_holds_while_it_changes_under_load(self, harness: Harness) -> None:
        """At every delivery; and nothing is lost or done twice on the way."""
        transport = await harness.connect()
        await transport.ensure(QUEUE)
        bodies = harness.bodies(1500)
        await asyncio.gather(*(transport.publish(QUEUE, body) for body in bodies))
        held: set[Delivery] = set()
        done: list[bytes] = []
        excess: list[int] = []
        random = Random(7)  # noqa: S311 -- a repeatable order of windows, no secret
        loop = asyncio.get_running_loop()

        def settle(delivery: Delivery) -> None:
            held.discard(delivery)
            done.append(delivery.body)
            delivery.ack()
            if len(done) % 15 == 0:
                consumer.set_window(random.choice((1, 2, 5, 20, 60)))

        def receive(delivery: Delivery) -> None:
            held.add(delivery)
            if len(held) > consumer.window:
                excess.append(len(held))
            loop.call_later(random.random() * 0.004, settle, delivery)

        consumer = await transport.consume(QUEUE, receive, window=0)
        consumer.set_window(10)
        async with asyncio.timeout(PATIENCE_S):
            while len(set(done)) < len(bodies):
                await asyncio.sleep(0.02)
        assert excess == []
        assert sorted(done) == sorted(bodies)

    async def test_a_lease_that_ends_gives_the_message_to_another(self, harness: Harness) -> None:
        """And the late ack of the first changes nothing."""
        transport, another = await harness.connect(), await harness.connect()
        if transport.capabilities.lease_s is None:
            pytest.skip("here the connection is the lease")
        await transport.ensure(QUEUE)
        await transport.publish(QUEUE, b"slow")
        box, second = Mailbox(), Mailbox()
        consumer = await transport.consume(QUEUE, box)
        (delivery,) = await box.wait_for(1)
        await another.consume(QUEUE, second)
        (taken,) = await second.wait_for(1, timeout_s=harness.lease_s + harness.slack_s)
        assert taken.delivery_count == 2
        assert taken.held
        assert not delivery.held
        delivery.extend()
        assert not delivery.held
        delivery.ack()
        taken.requeue()
        redelivered = (await asyncio.wait_for(_either(box, second, 3), PATIENCE_S))[-1]
        assert redelivered.delivery_count == 3
        redelivered.ack()
        await consumer.close()

    async def test_extend_keeps_a_message(self, harness: Harness) -> None:
        """However long."""
        transport = await harness.connect()
        await transport.ensure(QUEUE)
        await transport.publish(QUEUE, b"long")
        box = Mailbox()
        await transport.consume(QUEUE, box, window=2)
        (delivery,) = await box.wait_for(1)
        for _ in range(8):
            await asyncio.sleep(harness.lease_s / 3)
            delivery.extend()
            assert delivery.held
        assert len(box.deliveries) == 1
        delivery.ack()
        assert not delivery.held
        await harness.quiet()
        assert (await transport.depth(QUEUE)).in_flight == 0

    async def test_closing_a_consumer_gives_back_at_once(self, harness: Harness) -> None:
        """What it had not shown; what it had can still be settled."""
        transport = await harness.connect(lease_s=harness.long_lease_s)
        await transport.ensure(QUEUE)
        bodies = harness.bodies(300)
        await asyncio.gather(*(transport.publish(QUEUE, body) for body in bodies))
        first, second = Mailbox(), Mailbox(ack=True)
        consumer = await transport.consume(QUEUE, first, window=100)
        await first.wait_for(1)
        await consumer.close()
        seen = len(first.deliveries)
        await transport.consume(QUEUE, second, window=100)
        await second.wait_for(len(bodies) - seen, timeout_s=harness.long_lease_s * 0.8)
        for delivery in first.deliveries:
            delivery.ack()
        await asyncio.sleep(harness.long_lease_s + harness.quiet_s)
        assert len(first.deliveries) == seen
        assert sorted(first.bodies + second.bodies) == sorted(bodies)

    async def test_consumers_share(self, harness: Harness) -> None:
        """Each message goes to one of them, and one that stands still holds only its window."""
        transport = await harness.connect(lease_s=harness.long_lease_s)
        another = await harness.connect(lease_s=harness.long_lease_s)
        await transport.ensure(QUEUE)
        stuck, busy = Mailbox(), Mailbox(ack=True)
        await transport.consume(QUEUE, stuck, window=2)
        await another.consume(QUEUE, busy, window=5)
        await harness.quiet()
        for number in range(40):
            await transport.publish(QUEUE, str(number).encode())
        await busy.wait_for(38, timeout_s=harness.long_lease_s * 0.8)
        assert len(stuck.deliveries) == 2
        assert len(set(stuck.bodies + busy.bodies)) == 40

    async def test_a_receiver_that_raises_gives_the_message_back(
        self, harness: Harness, caplog: pytest.LogCaptureFixture
    ) -> None:
        """And the consumer goes on."""
        transport = await harness.connect()
        await transport.ensure(QUEUE)
        box = Mailbox(ack=True)

        def refuse_once(delivery: Delivery) -> None:
            if delivery.delivery_count == 1:
                raise RuntimeError("a bug of the receiver")
            box(delivery)

        await transport.publish(QUEUE, b"1")
        await transport.consume(QUEUE, refuse_once)
        await box.wait_for(1)
        assert "a bug of the receiver" in caplog.text


class FaultContract:
    """Faults: nothing accepted is lost, nothing goes silent."""

    async def test_closing_a_transport_loses_nothing(self, harness: Harness) -> None:
        """In the middle of consuming; acks given before the close arrive."""
        transport = await harness.connect(lease_s=harness.long_lease_s)
        another = await harness.connect(lease_s=harness.long_lease_s)
        await transport.ensure(QUEUE)
        bodies = set(harness.bodies(400))
        await asyncio.gather(*(transport.publish(QUEUE, body) for body in bodies))
        first, second = Mailbox(ack=True), Mailbox(ack=True)
        await transport.consume(QUEUE, first, window=20)
        await first.wait_for(50)
        await transport.close()
        await transport.close()
        with pytest.raises(TransportUnavailable):
            await transport.publish(QUEUE, b"too late")
        await another.consume(QUEUE, second, window=20)
        left = bodies - set(first.bodies)
        await second.wait_for_bodies(left, timeout_s=harness.long_lease_s * 0.8)
        await harness.quiet()
        assert not set(first.bodies) & set(second.bodies)
        assert (await another.depth(QUEUE)).ready == 0

    async def test_a_crash_of_a_client_loses_nothing(self, harness: Harness) -> None:
        """What it held comes to another, counted, within the lease."""
        transport, another = await harness.connect(), await harness.connect()
        await transport.ensure(QUEUE)
        bodies = {str(number).encode() for number in range(10)}
        for body in bodies:
            await transport.publish(QUEUE, body)
        first, second = Mailbox(), Mailbox(ack=True)
        await transport.consume(QUEUE, first, window=4)
        await first.wait_for(4)
        await harness.crash(transport)
        await another.consume(QUEUE, second, window=10)
        await second.wait_for(10, timeout_s=harness.lease_s + harness.slack_s)
        assert set(second.bodies) == bodies
        counts = {delivery.body: delivery.delivery_count for delivery in second.deliveries}
        assert all(counts[body] == 2 for body in first.bodies)
        assert all(counts[body] == 1 for body in bodies - set(first.bodies))

    async def test_messages_survive_a_restart_of_the_broker(self, harness: Harness) -> None:
        """Ready, held and delayed ones; and the clients need not do anything."""
        transport = await harness.connect()
        if not transport.capabilities.persistent:
            pytest.skip("this broker forgets")
        if harness.forgets:
            pytest.skip(harness.forgets)
        await transport.ensure(QUEUE)
        later = harness.now() + timedelta(seconds=2)
        await transport.publish(QUEUE, b"delayed", not_before=later)
        await transport.publish(QUEUE, b"held")
        box = Mailbox()
        consumer = await transport.consume(QUEUE, box)
        await box.wait_for(1)
        await transport.publish(QUEUE, b"ready", dedup_id="ready")
        await harness.break_broker()
        await harness.mend_broker()
        consumer.set_window(10)
        await box.wait_for_bodies({b"ready", b"delayed"})
        assert harness.now() >= later
        for delivery in box.deliveries:
            delivery.ack()
        if transport.capabilities.deduplicates:
            await publish_soon(transport, b"after", "after")
            await box.wait_for_bodies({b"after"})

    async def test_an_outage_is_told_and_then_over(self, harness: Harness) -> None:
        """Publishes fail in bounded time; consumers go on by themselves."""
        transport = await harness.connect()
        await transport.ensure(QUEUE)
        box = Mailbox(ack=True)
        await transport.consume(QUEUE, box, window=5)
        await publish_soon(transport, b"before")
        await box.wait_for(1)
        await harness.break_broker()
        begin = asyncio.get_running_loop().time()
        with pytest.raises(TransportUnavailable):
            await transport.publish(QUEUE, b"lost", dedup_id="lost")
        with pytest.raises(TransportUnavailable):
            await transport.depth(QUEUE)
        assert asyncio.get_running_loop().time() - begin < PATIENCE_S
        await harness.mend_broker()
        bodies = {str(number).encode() for number in range(20)}
        await asyncio.gather(*(publish_soon(transport, one, one.decode()) for one in bodies))
        await box.wait_for_bodies(bodies)

    async def test_one_bad_queue_disturbs_no_other(self, harness: Harness) -> None:
        """Stuck, or deleted under its consumer and made again: the other flows, it comes back."""
        transport, another = await harness.connect(), await harness.connect()
        await transport.ensure(QUEUE)
        await transport.ensure(OTHER)
        broken, flowing = Mailbox(ack=True), Mailbox(ack=True)
        await transport.consume(QUEUE, broken, window=5)
        await transport.consume(OTHER, flowing, window=5)
        await another.delete(QUEUE)
        for number in range(50):
            await transport.publish(OTHER, str(number).encode())
        await flowing.wait_for(50, timeout_s=harness.slack_s)
        await another.ensure(QUEUE)
        async with asyncio.timeout(PATIENCE_S):
            while not broken.deliveries:
                try:
                    await another.publish(QUEUE, b"back")
                except TransportError:
                    await asyncio.sleep(0.1)
                await asyncio.sleep(0.1)


class TransportContract(QueueContract, PublishContract, DeliveryContract, FaultContract):
    """All of it."""


async def _either(first: Mailbox, second: Mailbox, total: int) -> list[Delivery]:
    while len(first.deliveries) + len(second.deliveries) < total:
        await asyncio.sleep(0.01)
    both = first.deliveries + second.deliveries
    return sorted(both, key=lambda delivery: delivery.delivery_count)


__all__ = ["Consumer", "Harness", "Mailbox", "TransportContract", "publish_soon"]
