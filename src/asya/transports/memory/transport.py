"""Queues in this process's memory: for tests.

Bodies are real bytes, and wall time is the clock's; nothing here waits for real. Called by tests,
and by the mesh in a box.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from asya.clock import Clock, SystemClock, seconds_until
from asya.errors import MessageTooLarge, TransportError, TransportUnavailable
from asya.transports.base import (
    Capabilities,
    Consumer,
    Delivery,
    Depth,
    Inspection,
    Receipt,
    Transport,
)
from asya.transports.memory.consumer import MemoryConsumer
from asya.transports.memory.queues import DEDUP_WINDOW_S, MemoryBroker

__all__ = ["DEDUP_WINDOW_S", "MESSAGE_MAX_BYTES", "MemoryBroker", "MemoryTransport"]

MESSAGE_MAX_BYTES: Final = 8 * 1024 * 1024


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
        """Begin to receive messages."""
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
