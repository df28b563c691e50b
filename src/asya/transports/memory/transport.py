"""Queues in this process's memory: for tests.

`MemoryBroker` is the broker, and outlives the `MemoryTransport`s that connect to it: dropping one
and connecting another is what a crash looks like. Bodies are real bytes. All timers are the
event loop's and wall time is the clock's, so it runs on virtual time as well; nothing here waits.
Called by tests, and by the mesh in a box.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from asya.clock import Clock, SystemClock, seconds_until
from asya.errors import MessageTooLarge, QueueMissing, TransportError, TransportUnavailable
from asya.transports.base import (
    Capabilities,
    Consumer,
    Delivery,
    Depth,
    Inspection,
    Receipt,
    Transport,
)

DEDUP_WINDOW_S = 120.0
MESSAGE_MAX_BYTES = 8 * 1024 * 1024


@dataclass(slots=True, eq=False)
class _Message:
    body: bytes
    deliveries: int = 0


@dataclass(slots=True, eq=False)
class _Queue:
    ready: deque[_Message] = field(default_factory=deque)
    held: dict[MemoryDelivery, None] = field(default_factory=dict)
    delayed: dict[_Message, asyncio.TimerHandle] = field(default_factory=dict)
    consumers: deque[MemoryConsumer] = field(default_factory=deque)
    exists: bool = True


class MemoryBroker:
    """Keeps the messages.

    Attributes:
        available: Set it to False for an outage: every call raises `TransportUnavailable` and
            nothing is delivered; back to True, and everything goes on.
    """

    def __init__(self) -> None:
        self._available = True
        self._queues: dict[tuple[str, str], _Queue] = {}
        self._seen: dict[tuple[str, str], float] = {}

    @property
    def available(self) -> bool:
        """Whether the broker answers."""
        return self._available

    @available.setter
    def available(self, value: bool) -> None:
        self._available = value
        if value:
            for queue in self._queues.values():
                self._serve(queue)

    def client_died(self, transport: MemoryTransport) -> None:
        """Take a transport's connection for broken: what it held is given out again at once."""
        transport.abort()
        for queue in self._queues.values():
            for delivery in [one for one in queue.held if one.transport is transport]:
                self.give_back(queue, delivery)

    def check(self) -> None:
        """Raise `TransportUnavailable` during an outage."""
        if not self._available:
            raise TransportUnavailable("the memory broker is set to be unavailable")

    def make(self, namespace: str, name: str) -> None:
        """Make a queue; consumers that one of this name had before go on with it."""
        self._queues.setdefault((namespace, name), _Queue()).exists = True

    def remove(self, namespace: str, name: str) -> None:
        """Remove a queue; its consumers get nothing until it is made again."""
        queue = self._queues.get((namespace, name))
        if queue is not None:
            for timer in queue.delayed.values():
                timer.cancel()
            for delivery in queue.held:
                delivery.lose()
            for messages in (queue.ready, queue.delayed, queue.held):
                messages.clear()
            queue.exists = False

    def names(self, namespace: str) -> list[str]:
        """The queues of a namespace, sorted."""
        found = self._queues.items()
        return sorted(name for (space, name), one in found if space == namespace and one.exists)

    def find(self, namespace: str, name: str) -> _Queue:
        """A queue, or `QueueMissing`."""
        queue = self._queues.get((namespace, name))
        if queue is None or not queue.exists:
            raise QueueMissing(f"there is no queue {name} in the namespace {namespace}")
        return queue

    def seen_before(self, namespace: str, dedup_id: str) -> bool:
        """Whether the id was published in the last `DEDUP_WINDOW_S`; remembers it."""
        now = asyncio.get_running_loop().time()
        while self._seen and next(iter(self._seen.values())) <= now:
            del self._seen[next(iter(self._seen))]
        if (namespace, dedup_id) in self._seen:
            return True
        self._seen[namespace, dedup_id] = now + DEDUP_WINDOW_S
        return False

    def put(self, queue: _Queue, body: bytes, delay_s: float) -> None:
        """Add a message, now or after a delay."""
        message = _Message(body)
        if delay_s <= 0:
            queue.ready.append(message)
            self._serve(queue)
            return
        loop = asyncio.get_running_loop()
        queue.delayed[message] = loop.call_later(delay_s, self._fall_due, queue, message)

    def attach(self, queue: _Queue, consumer: MemoryConsumer) -> None:
        """Begin to serve a consumer."""
        queue.consumers.append(consumer)
        self._serve(queue)

    def detach(self, queue: _Queue, consumer: MemoryConsumer) -> None:
        """Serve a consumer no more, and take back what it has not been shown."""
        if consumer in queue.consumers:
            queue.consumers.remove(consumer)
        for delivery in [one for one in queue.held if one.consumer is consumer and not one.shown]:
            self.give_back(queue, delivery)

    def forget(self, queue: _Queue, delivery: MemoryDelivery) -> None:
        """A message was handled."""
        queue.held.pop(delivery, None)
        delivery.lose()

    def give_back(self, queue: _Queue, delivery: MemoryDelivery) -> None:
        """A message was not handled: it is the next to be given out."""
        if delivery in queue.held:
            del queue.held[delivery]
            delivery.lose()
            queue.ready.appendleft(delivery.message)
            self._serve(queue)

    def serve(self, queue: _Queue) -> None:
        """A consumer has room again."""
        self._serve(queue)

    def _fall_due(self, queue: _Queue, message: _Message) -> None:
        del queue.delayed[message]
        queue.ready.append(message)
        self._serve(queue)

    def _serve(self, queue: _Queue) -> None:
        """Hand out what is ready, in turn, to consumers that have room."""
        full = 0
        while self._available and queue.ready and full < len(queue.consumers):
            consumer = queue.consumers[0]
            queue.consumers.rotate(-1)
            if not consumer.has_room:
                full += 1
                continue
            full = 0
            message = queue.ready.popleft()
            message.deliveries += 1
            delivery = MemoryDelivery(consumer, message)
            queue.held[delivery] = None
            consumer.take(delivery)


class MemoryDelivery(Delivery):
    """A message on loan, for a lease."""

    __slots__ = ("_lease", "_settled", "consumer", "message", "shown")

    def __init__(self, consumer: MemoryConsumer, message: _Message) -> None:
        self.body = message.body
        self.delivery_count = message.deliveries
        self.consumer = consumer
        self.message = message
        self.shown = False
        self._settled = False
        self._lease: asyncio.TimerHandle | None = None
        self._begin()

    @property
    def transport(self) -> MemoryTransport:
        """The connection that it went to."""
        return self.consumer.transport

    def ack(self) -> None:
        """Done."""
        self._settle(self.transport.broker.forget)

    def requeue(self) -> None:
        """Not done; it is the next to be given out."""
        self._settle(self.transport.broker.give_back)

    def extend(self) -> None:
        """Begin the lease anew, unless it was lost."""
        if self._lease is not None and self.transport.connected:
            self._lease.cancel()
            self._begin()

    @property
    def held(self) -> bool:
        """Whether the broker holds it for us."""
        return self._lease is not None and not self._settled

    def lose(self) -> None:
        """The broker's side: the lease is over."""
        if self._lease is not None:
            self._lease.cancel()
            self._lease = None

    def _begin(self) -> None:
        loop, lease_s = asyncio.get_running_loop(), self.transport.lease_s
        self._lease = loop.call_later(lease_s, self._expire)

    def _expire(self) -> None:
        self.transport.broker.give_back(self.consumer.queue, self)

    def _settle(self, verdict: Callable[[_Queue, MemoryDelivery], None]) -> None:
        if self._settled:
            return
        held, self._settled = self.held, True
        if held and self.transport.connected:
            verdict(self.consumer.queue, self)
        self.consumer.settled()


class MemoryConsumer(Consumer):
    """Takes messages of one queue for one transport."""

    def __init__(
        self,
        transport: MemoryTransport,
        name: str,
        queue: _Queue,
        on_delivery: Callable[[Delivery], None],
        window: int,
    ) -> None:
        self.transport = transport
        self.name = name
        self.queue = queue
        self._on_delivery = on_delivery
        self._window = window
        self._unsettled = 0

    @property
    def has_room(self) -> bool:
        """Whether the window allows one more."""
        return self._unsettled < self._window

    @property
    def window(self) -> int:
        """The current window."""
        return self._window

    def set_window(self, window: int) -> None:
        """Change the window; what is on its way and does not fit any more is given back."""
        if window < 0:
            raise ValueError(f"a window is 0 or more, not {window}")
        self._window = window
        self.transport.broker.serve(self.queue)

    async def close(self) -> None:
        """Take no more messages."""
        self.transport.forget(self)
        self.transport.broker.detach(self.queue, self)

    def take(self, delivery: MemoryDelivery) -> None:
        """The broker's side: hand a message over, in the loop's next turn."""
        self._unsettled += 1
        asyncio.get_running_loop().call_soon(self._show, delivery)

    def settled(self) -> None:
        """One delivery was settled: its place is free."""
        self._unsettled -= 1
        self.transport.broker.serve(self.queue)

    def _show(self, delivery: MemoryDelivery) -> None:
        if not delivery.held or not self.transport.connected or self._unsettled > self._window:
            self._unsettled -= 1
            self.transport.broker.give_back(self.queue, delivery)
            return
        delivery.shown = True
        try:
            self._on_delivery(delivery)
        except Exception as error:
            delivery.requeue()
            asyncio.get_running_loop().call_exception_handler(
                {"message": "the receiver of a delivery failed", "exception": error}
            )


class MemoryTransport(Transport):
    """A connection to a `MemoryBroker`, for one namespace."""

    capabilities = Capabilities(
        name="memory",
        persistent=False,
        deduplicates=True,
        dedup_window_s=DEDUP_WINDOW_S,
        delay_max_s=None,
        delay_resolution_s=0.0,
        message_max_bytes=MESSAGE_MAX_BYTES,
        lease_s=10.0,
    )

    def __init__(
        self,
        namespace: str,
        *,
        clock: Clock | None = None,
        lease_s: float = 10.0,
        broker: MemoryBroker | None = None,
        message_max_bytes: int = MESSAGE_MAX_BYTES,
        delay_max_s: float | None = None,
    ) -> None:
        """Prepare; without a `broker` it gets one of its own, as the attribute `broker`."""
        self.capabilities = replace(
            type(self).capabilities,
            lease_s=lease_s,
            message_max_bytes=message_max_bytes,
            delay_max_s=delay_max_s,
        )
        self.broker = broker if broker is not None else MemoryBroker()
        self.lease_s = lease_s
        self.connected = False
        self._namespace = namespace
        self._clock = clock or SystemClock()
        self._consumers: list[MemoryConsumer] = []

    def trigger(self, queue: str, target: int) -> dict[str, Any]:
        """There is none: nothing outside of the process sees these queues."""
        raise TransportError("the memory transport has no queue that KEDA could see")

    async def inspect(self, queues: Sequence[str]) -> Inspection:
        """Its queues; nothing differs."""
        self.broker.check()
        return Inspection("memory", frozenset(self.broker.names(self._namespace)))

    async def connect(self) -> None:
        """Connect to the broker."""
        self.broker.check()
        self.connected = True

    async def close(self) -> None:
        """Close all consumers, and disconnect."""
        for consumer in list(self._consumers):
            await consumer.close()
        self.connected = False

    def abort(self) -> None:
        """Vanish without a word, as a killed process: what is held comes back after the lease."""
        self.connected = False
        for consumer in self._consumers:
            queue = consumer.queue
            if consumer in queue.consumers:
                queue.consumers.remove(consumer)

    async def ensure(self, queue: str) -> None:
        """Make the queue if it is not there."""
        self._check()
        self.broker.make(self._namespace, queue)

    async def delete(self, queue: str) -> None:
        """Remove the queue and its messages; stops this transport's consumers of it."""
        self._check()
        for consumer in [one for one in self._consumers if one.name == queue]:
            await consumer.close()
        self.broker.remove(self._namespace, queue)

    async def queues(self) -> list[str]:
        """The names of all queues of this namespace, sorted."""
        self._check()
        return self.broker.names(self._namespace)

    async def publish(
        self,
        queue: str,
        body: bytes,
        *,
        dedup_id: str | None = None,
        not_before: datetime | None = None,
    ) -> Receipt:
        """Put a message into a queue; see `Transport.publish`."""
        self._check()
        found = self.broker.find(self._namespace, queue)
        if len(body) > self.capabilities.message_max_bytes:
            limit = self.capabilities.message_max_bytes
            raise MessageTooLarge(f"a message of {len(body)} bytes; the limit is {limit}")
        delay_s = 0.0 if not_before is None else seconds_until(not_before, self._clock.now())
        most_s = self.capabilities.delay_max_s
        if most_s is not None and delay_s > most_s:
            raise TransportError(f"a delay of {delay_s:g} s; this broker keeps {most_s:g} s")
        if dedup_id is not None and self.broker.seen_before(self._namespace, dedup_id):
            return Receipt(duplicate=True)
        self.broker.put(found, bytes(body), delay_s)
        # A broker answers later, and others get their turn meanwhile.
        await asyncio.sleep(0)
        return Receipt()

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, window: int = 1
    ) -> Consumer:
        """Begin to take messages."""
        self._check()
        found = self.broker.find(self._namespace, queue)
        consumer = MemoryConsumer(self, queue, found, on_delivery, window)
        self._consumers.append(consumer)
        self.broker.attach(found, consumer)
        return consumer

    async def depth(self, queue: str) -> Depth:
        """How many messages the queue holds."""
        self._check()
        found = self.broker.find(self._namespace, queue)
        return Depth(ready=len(found.ready), in_flight=len(found.held), delayed=len(found.delayed))

    def forget(self, consumer: MemoryConsumer) -> None:
        """A consumer was closed."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)

    def _check(self) -> None:
        if not self.connected:
            raise TransportUnavailable("not connected to the memory broker")
        self.broker.check()
