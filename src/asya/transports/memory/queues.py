"""The broker in memory: queues of every namespace, and who consumes them.

It outlives the transports that connect to it: dropping one and connecting another is what a crash
looks like. All timers are the event loop's, so it runs on virtual time as well.

Called by `asya.transports.memory.transport` and its consumers, and by tests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from asya.errors import QueueMissing, TransportUnavailable

if TYPE_CHECKING:
    from asya.transports.memory.consumer import MemoryConsumer, MemoryDelivery
    from asya.transports.memory.transport import MemoryTransport

DEDUP_WINDOW_S: Final = 120.0


@dataclass(slots=True, eq=False)
class Message:
    """A message and how often it was given out."""

    body: bytes
    deliveries: int = 0


@dataclass(slots=True, eq=False)
class Queue:
    """One queue: what is ready, what is held and by whom, what waits for its time."""

    ready: deque[Message] = field(default_factory=deque)
    held: dict[MemoryDelivery, None] = field(default_factory=dict)
    delayed: dict[Message, asyncio.TimerHandle] = field(default_factory=dict)
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
        self._queues: dict[tuple[str, str], Queue] = {}
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
                self.serve(queue)

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
        self._queues.setdefault((namespace, name), Queue()).exists = True

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

    def find(self, namespace: str, name: str) -> Queue:
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

    def put(self, queue: Queue, body: bytes, delay_s: float) -> None:
        """Add a message, now or after a delay."""
        message = Message(body)
        if delay_s <= 0:
            queue.ready.append(message)
            self.serve(queue)
            return
        loop = asyncio.get_running_loop()
        queue.delayed[message] = loop.call_later(delay_s, self._fall_due, queue, message)

    def attach(self, queue: Queue, consumer: MemoryConsumer) -> None:
        """Begin to serve a consumer."""
        queue.consumers.append(consumer)
        self.serve(queue)

    def detach(self, queue: Queue, consumer: MemoryConsumer) -> None:
        """Serve a consumer no more, and take back what it has not been shown."""
        if consumer in queue.consumers:
            queue.consumers.remove(consumer)
        for delivery in [one for one in queue.held if one.consumer is consumer and not one.shown]:
            self.give_back(queue, delivery)

    def forget(self, queue: Queue, delivery: MemoryDelivery) -> None:
        """A message was handled."""
        queue.held.pop(delivery, None)
        delivery.lose()

    def give_back(self, queue: Queue, delivery: MemoryDelivery) -> None:
        """A message was not handled: it is the next to be given out."""
        if delivery in queue.held:
            del queue.held[delivery]
            delivery.lose()
            queue.ready.appendleft(delivery.message)
            self.serve(queue)

    def _fall_due(self, queue: Queue, message: Message) -> None:
        del queue.delayed[message]
        queue.ready.append(message)
        self.serve(queue)

    def serve(self, queue: Queue) -> None:
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
            delivery = consumer.lease(message)
            queue.held[delivery] = None
            consumer.receive(delivery)
