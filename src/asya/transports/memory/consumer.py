"""Deliveries and consumers of the broker in memory.

Here the broker's side of a lease is a timer, and its end takes the message back at once. So a
delivery needs no clock of its own, as those of other brokers do.

Called by the broker and the transport.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from asya.transports.base import Consumer, Delivery
from asya.transports.memory.queues import Message, Queue

if TYPE_CHECKING:
    from asya.transports.memory.transport import MemoryTransport


class MemoryDelivery(Delivery):
    """A message on loan, for a lease."""

    __slots__ = ("_lease", "_settled", "consumer", "message", "shown")

    def __init__(self, consumer: MemoryConsumer, message: Message) -> None:
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

    def _settle(self, outcome: Callable[[Queue, MemoryDelivery], None]) -> None:
        if self._settled:
            return
        held, self._settled = self.held, True
        if held and self.transport.connected:
            outcome(self.consumer.queue, self)
        self.consumer.settled()


class MemoryConsumer(Consumer):
    """Consumes one queue for one transport."""

    def __init__(
        self,
        transport: MemoryTransport,
        name: str,
        queue: Queue,
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
        """Receive no more messages."""
        self.transport.forget(self)
        self.transport.broker.detach(self.queue, self)

    def lease(self, message: Message) -> MemoryDelivery:
        """The broker's side: lend a message."""
        return MemoryDelivery(self, message)

    def receive(self, delivery: MemoryDelivery) -> None:
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
