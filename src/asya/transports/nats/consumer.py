"""Consuming one JetStream pull consumer, with an exact window.

Rules of this file: requests cannot be called back. Whenever the count of what they still allow
the server to send has to go down (a smaller window) or is in doubt (silence, an error, a new
connection) the whole inbox is replaced. The server takes back what it could not deliver there.

Called by `asya.transports.nats.transport`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

from asya.errors import TransportError, TransportUnavailable
from asya.transports.backoff import Backoff
from asya.transports.base import Consumer, Delivery
from asya.transports.intake import OVERFLOW_S, Intake, Limits
from asya.transports.leases import LeasedDelivery
from asya.transports.nats.connection import Connection
from asya.transports.nats.pulls import (
    EXPIRES_S,
    PullFormat,
    Renewal,
    Watch,
    delivery_count,
)

log = logging.getLogger("asya.transports.nats")

REFILL_S: Final = 0.001
SHRINK_S: Final = 0.005
"""How long after the window shrank requests are left alone: most are being answered."""
REPAIR_FIRST_S: Final = 0.1
REPAIR_MAX_S: Final = 2.0

_ACK: Final = "$JS.ACK."


class Owner(Protocol):
    """The transport, as its consumers need it."""

    async def repair(self, queue: str) -> bool:
        """Make the queue if it is gone; tells whether it was."""
        ...

    def forget(self, consumer: PullConsumer) -> None:
        """It is closed."""
        ...


class NatsDelivery(LeasedDelivery["PullConsumer"]):
    """A message of a pull consumer; its acks are messages to the subject `reply`."""

    __slots__ = ("reply",)

    def __init__(self, consumer: PullConsumer, message: Any, count: int, until: float) -> None:
        super().__init__(consumer, message.data, count, until)
        self.reply: str = message.reply

    def extend(self) -> None:
        """Begin the lease anew, unless it was lost."""
        if self.held:
            consumer = self._holder
            consumer.connection.send(self.reply, b"+WPI", void_at=self.until)
            self.until = consumer.now() + consumer.lease_s

    def _send_ack(self) -> None:
        self._holder.connection.send(self.reply, b"+ACK", void_at=self.until)

    def _send_nack(self) -> None:
        self._holder.connection.send(self.reply, b"-NAK", void_at=self.until)


class PullConsumer(Consumer):
    """Runs until `close`, over every loss of the connection and of the queue.

    Attributes:
        connection: Where requests and acks go.
        queue: Its name.
        lease_s: The server's `ack_wait` less a margin for the way of the message, in seconds.
        now: The event loop's clock.
    """

    def __init__(
        self,
        connection: Connection,
        owner: Owner,
        *,
        stream: str,
        queue: str,
        on_delivery: Callable[[Delivery], None],
        window: int,
        lease_s: float,
    ) -> None:
        """Prepare; `renew` begins."""
        self.connection = connection
        self.queue = queue
        self.lease_s = lease_s - min(0.5, lease_s / 10)
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._owner = owner
        self._format = PullFormat(stream, queue, lease_s)
        self._watch = Watch(self.now())
        self._intake: Intake[NatsDelivery] = Intake(
            queue,
            log,
            window=window,
            limits=Limits(REFILL_S, min(OVERFLOW_S, lease_s / 3)),
            on_delivery=on_delivery,
            give_back=NatsDelivery.give_back,
            ask=self._pull,
        )
        self._inbox = ""
        self._subscription: Any = None
        self._renewal = Renewal()
        self._renewing: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def window(self) -> int:
        """The current window."""
        return self._intake.prefetch.window

    def set_window(self, window: int) -> None:
        """Change the window.

        A smaller one takes effect at once: what is already on its way and does not fit waits here
        for a place. Only if none comes free in `OVERFLOW_S` is it given back, since that counts
        as a delivery.
        """
        self._intake.set_window(window)
        prefetch = self._intake.prefetch
        if prefetch.requested > 0 and prefetch.free < 0:
            self._renew_soon()

    async def close(self) -> None:
        """Receive no more messages; see `Consumer.close`. Takes a few seconds at most."""
        self._closed = True
        self._intake.pause()
        self._intake.return_overflow()
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await self.connection.unsubscribe(subscription)
        self._owner.forget(self)

    def renew(self, *, broken: bool = False) -> None:
        """Void all outstanding requests and ask anew, soon.

        With `broken`, look after the queue first.
        """
        self._renewal.force(broken=broken)
        self._renew_soon()

    def disconnected(self) -> None:
        """The connection is gone, and with it everything that was requested."""
        self._subscription = None
        self._intake.pause()
        self._intake.prefetch.requested = 0

    def tick(self) -> None:
        """Look for lost requests; called about once a second."""
        now = self.now()
        if self._renewing is not None:
            return
        if self._subscription is None:
            self.renew()
        elif self._intake.prefetch.requested == 0:
            self._watch.zero_at = now
            self._intake.refill()
        elif self._watch.is_silent(now):
            log.warning(
                "no heartbeat from queue %s for %.0f s; requesting again",
                self.queue,
                now - self._watch.heard_at,
            )
            self.renew(broken=True)
        elif self._watch.has_drifted(now):
            self.renew()

    def settled(self, delivery: NatsDelivery) -> None:
        """One delivery was settled: its place is free."""
        self._intake.settled()

    def _pull(self, batch: int) -> None:
        prefetch = self._intake.prefetch
        if prefetch.requested == 0:
            self._watch.begin(self.now())
        prefetch.requested += batch
        # Not worth sending late: after an outage the inbox is another one.
        self.connection.send(
            self._format.subject,
            self._format.payload(batch),
            reply=self._inbox,
            void_at=self.now() + EXPIRES_S,
        )

    def _renew_soon(self) -> None:
        self._renewal.due = True
        if self._renewing is None and not self._closed and self.connection.up:
            self._intake.pause()
            self._renewing = self._loop.create_task(self._renew())

    async def _renew(self) -> None:
        delays = Backoff(REPAIR_FIRST_S, REPAIR_MAX_S)
        try:
            while self._renewal.due and self.connection.up:
                try:
                    await self._renew_once()
                except TransportError as error:
                    self._renewal.force()
                    if not isinstance(error, TransportUnavailable):
                        self._intake.warn(str(error))
                    await asyncio.sleep(delays.next())
        finally:
            self._renewing = None
        if self._subscription is not None and not self._closed:
            self._intake.paused = False
            self._intake.refill()

    async def _renew_once(self) -> None:
        renewal, intake = self._renewal, self._intake
        renewal.due = False
        if not renewal.forced and self._subscription is not None:
            # What the server is just sending comes first: what it must take back, it counts.
            await asyncio.sleep(SHRINK_S)
            if intake.prefetch.free >= 0 and not renewal.forced:
                return
        renewal.begin()
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await self.connection.unsubscribe(subscription)
        intake.prefetch.requested = 0
        if renewal.broken:
            await asyncio.sleep(renewal.repair_wait_s(self.now()))
            if await self._owner.repair(self.queue):
                log.warning("queue %s was deleted while being consumed; recreated it", self.queue)
            renewal.broken = False
        self._inbox = self.connection.new_inbox()
        self._subscription = await self.connection.subscribe(self._inbox, self._on_message)
        intake.recovered()
        self._watch.begin(self.now())

    async def _on_message(self, message: Any) -> None:
        reply: str = message.reply
        now = self._watch.heard_at = self.now()
        if not reply.startswith(_ACK):
            self._on_status(message.headers or {})
            return
        intake = self._intake
        # A message of an inbox that was replaced meanwhile comes when nothing is requested.
        if intake.prefetch.requested > 0:
            intake.prefetch.requested -= 1
        delivery = NatsDelivery(self, message, delivery_count(reply), now + self.lease_s)
        if self._closed:
            delivery.give_back()
        else:
            intake.receive(delivery)

    def _on_status(self, headers: dict[str, str]) -> None:
        status = headers.get("Status", "")
        if status == "100" or self._closed:  # a heartbeat
            return
        if status == "408":  # a request has expired
            left = int(headers.get("Nats-Pending-Messages", "0"))
            prefetch = self._intake.prefetch
            prefetch.requested = max(0, prefetch.requested - left)
            self._intake.refill()
            return
        log.debug("queue %s: %s %s", self.queue, status, headers.get("Description", ""))
        self.renew(broken=True)
