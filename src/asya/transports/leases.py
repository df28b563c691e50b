"""Deliveries that a broker leases for a time: settled once, extended, expired by our own clock.

NATS, SQS and Pub/Sub accept a late ack without an error, even when the message was handed to
somebody else meanwhile. Such an ack would delete a message that another process is working on.
So our clock decides: nothing is sent for a delivery whose lease is over.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from asya.transports.base import Delivery


class Holder(Protocol):
    """The consumer that holds leased deliveries.

    Attributes:
        now: The event loop's clock.
    """

    now: Callable[[], float]

    def settled(self, delivery: Any) -> None:
        """One delivery was settled: its place is free. Called once for each."""
        ...


H = TypeVar("H", bound=Holder)


class LeasedDelivery(Delivery, Generic[H]):
    """A delivery that is ours until a time.

    Attributes:
        until: When the lease ends, on the loop's clock; earlier than at the broker.
    """

    __slots__ = ("_holder", "_settled", "until")

    def __init__(self, holder: H, body: bytes, count: int, until: float) -> None:
        self.body = body
        self.delivery_count = count
        self.until = until
        self._holder = holder
        self._settled = False

    def ack(self) -> None:
        """Settle it as done, unless the lease is over."""
        if not self._settled:
            self._settled = True
            holder = self._holder
            if holder.now() < self.until:
                self._send_ack()
            holder.settled(self)

    def requeue(self) -> None:
        """Settle it as not done, unless the lease is over; the broker delivers it again."""
        if not self._settled:
            self._settled = True
            self.give_back()
            self._holder.settled(self)

    def give_back(self) -> None:
        """Return the message to the broker while the lease is ours; frees no place."""
        if self._holder.now() < self.until:
            self._send_nack()

    @property
    def held(self) -> bool:
        """Whether it is neither settled nor, by our clock, past its lease."""
        return not self._settled and self._holder.now() < self.until

    @abstractmethod
    def _send_ack(self) -> None: ...

    @abstractmethod
    def _send_nack(self) -> None: ...
