"""Taking messages from one JetStream pull consumer, with an exact window.

Rules of this file: `unsettled + outstanding <= window`, always. `outstanding` is what pull
requests still allow the server to send. A request cannot be called back, so whenever the count
has to go down (a smaller window) or is in doubt (silence, an error, a new connection) the whole
inbox is replaced: the server drops the requests of an inbox nobody listens to, and takes back
what it could not deliver there. What comes in between and does not fit waits here for a place,
for a second at most.

Called by `asya.transports.nats.transport`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from asya.errors import TransportError, TransportUnavailable
from asya.transports.base import Consumer, Delivery
from asya.transports.nats.connection import Link

log = logging.getLogger("asya.transports.nats")

EXPIRES_S = 30.0
"""The most that a request may stand."""
EXPIRES_LEASES = 2.0
"""In leases. When the network goes silent the server still delivers to the requests that stand, and
again when each lease ends: deliveries that nobody saw, which count like deaths of a handler."""
HEARTBEAT_S = 5.0
SILENCE_S = 2 * HEARTBEAT_S + 1.0
"""A request that is not answered by a message or a heartbeat for so long is lost."""
DRIFT_S = 2 * EXPIRES_S
"""Every request has ended by then; a count that never touched zero in this time is made anew."""
REFILL_S = 0.001
"""Freed places are asked for together: when half of the window is free, or after this time."""
SURPLUS_S = 1.0
"""How long a message that came just after the window shrank waits for a place here."""
SHRINK_S = 0.005
"""How long after the window shrank requests are left alone: most are being answered."""
REPAIR_FIRST_S = 0.1
REPAIR_MAX_S = 2.0
REPAIR_AGAIN_S = 1.0

_ACK = "$JS.ACK."


class NatsDelivery(Delivery):
    """A message of a pull consumer; its acks are messages to the subject `reply`."""

    __slots__ = ("_consumer", "_settled", "reply", "until")

    def __init__(self, consumer: PullConsumer, message: Any, count: int, until: float) -> None:
        self.body = message.data
        self.delivery_count = count
        self._consumer = consumer
        self.reply: str = message.reply
        self.until = until
        self._settled = False

    def ack(self) -> None:
        """Done. Unlike the server, which would take it, a late ack is not sent."""
        self._settle(b"+ACK")

    def requeue(self) -> None:
        """Not done; the server gives it out again at once."""
        self._settle(b"-NAK")

    def extend(self) -> None:
        """Begin the lease anew, unless it was lost."""
        if self.held:
            consumer = self._consumer
            consumer.link.send(self.reply, b"+WPI", void_at=self.until)
            self.until = consumer.now() + consumer.lease_s

    @property
    def held(self) -> bool:
        """Whether neither settled nor, by our clock, past the lease."""
        return not self._settled and self._consumer.now() < self.until

    def _settle(self, verdict: bytes) -> None:
        if self._settled:
            return
        consumer = self._consumer
        self._settled = True
        if consumer.now() < self.until:
            consumer.link.send(self.reply, verdict, void_at=self.until)
        consumer.settled()


class PullConsumer(Consumer):
    """Runs until `close`, over every loss of the connection and of the queue.

    Attributes:
        link: The connection.
        lease_s: The server's `ack_wait` less a margin for the way of the message, in seconds.
        now: The event loop's clock.
    """

    def __init__(
        self,
        link: Link,
        *,
        queue: str,
        stream: str,
        on_delivery: Callable[[Delivery], None],
        window: int,
        lease_s: float,
        repair: Callable[[], Awaitable[bool]],
        on_close: Callable[[PullConsumer], None],
    ) -> None:
        """Prepare; `repair` makes the queue if it is gone, and tells whether it was."""
        self.link = link
        self.queue = queue
        self.lease_s = lease_s - min(0.5, lease_s / 10)
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        expires_s = min(EXPIRES_S, lease_s * EXPIRES_LEASES)
        # The server refuses a heartbeat of more than half of the time.
        self._wait = (expires_s * 1e9, min(HEARTBEAT_S, expires_s / 4) * 1e9)
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{queue}"
        self._on_delivery = on_delivery
        self._repair = repair
        self._on_close = on_close
        self._window = window
        self._unsettled = 0
        self._outstanding = 0
        self._surplus: deque[NatsDelivery] = deque()
        self._showing_surplus = False
        self._surplus_timer: asyncio.TimerHandle | None = None
        self._surplus_s = min(SURPLUS_S, lease_s / 3)
        self._inbox = ""
        self._subscription: Any = None
        self._closed = False
        self._renewal: asyncio.Task[None] | None = None
        self._stale = False
        self._forced = False
        self._broken = False
        self._repaired_at = float("-inf")
        self._complaint = ""
        self._refiller: asyncio.TimerHandle | None = None
        self._heard_at = self._zero_at = self.now()

    @property
    def window(self) -> int:
        """The current window."""
        return self._window

    def set_window(self, window: int) -> None:
        """Change the window.

        A smaller one takes effect at once: what is already on its way and does not fit waits here
        for a place. Only if none comes free in `SURPLUS_S` is it given back, since that counts
        as a delivery.
        """
        if window < 0:
            raise ValueError(f"a window is 0 or more, not {window}")
        self._window = window
        self._show_surplus()
        if self._outstanding > 0 and self._free < 0:
            self._void()
        else:
            self._refill()

    async def close(self) -> None:
        """Take no more messages; see `Consumer.close`. Never waits longer than a few seconds."""
        self._closed = True
        self._return_surplus()
        if self._refiller is not None:
            self._refiller.cancel()
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await self.link.unsubscribe(subscription)
        self._on_close(self)

    def renew(self, *, broken: bool = False) -> None:
        """Void all outstanding requests and ask anew, soon.

        With `broken`, look after the queue first.
        """
        self._forced = True
        self._broken = self._broken or broken
        self._void()

    def _void(self) -> None:
        self._stale = True
        if self._renewal is None and not self._closed and self.link.up:
            self._renewal = self._loop.create_task(self._renew())

    def disconnected(self) -> None:
        """The connection is gone, and with it everything that was asked for."""
        self._subscription = None
        self._outstanding = 0

    def tick(self) -> None:
        """Look for lost requests; called about once a second."""
        now = self.now()
        if self._renewal is not None:
            return
        if self._subscription is None:
            self.renew()
        elif self._outstanding == 0:
            self._zero_at = now
            self._refill()
        elif now - self._heard_at > SILENCE_S:
            log.warning("no heartbeat from queue %s for %.0f s; asking anew", self.queue, SILENCE_S)
            self.renew(broken=True)
        elif now - self._zero_at > DRIFT_S:
            self.renew()

    def settled(self) -> None:
        """One delivery was settled: its place is free."""
        self._unsettled -= 1
        self._show_surplus()
        self._refill()

    @property
    def _free(self) -> int:
        return self._window - self._unsettled - self._outstanding - len(self._surplus)

    def _refill(self) -> None:
        free = self._free
        if free <= 0 or self._closed or self._subscription is None or self._renewal is not None:
            return
        if free * 2 >= self._window:
            self._pull(free)
        elif self._refiller is None:
            self._refiller = self._loop.call_later(REFILL_S, self._refill_now)

    def _refill_now(self) -> None:
        self._refiller = None
        free = self._free
        if free > 0 and not self._closed and self._subscription and self._renewal is None:
            self._pull(free)

    def _pull(self, batch: int) -> None:
        if self._outstanding == 0:
            self._zero_at = self._heard_at = self.now()
        self._outstanding += batch
        ask = b'{"batch":%d,"expires":%d,"idle_heartbeat":%d}'
        payload = ask % (batch, *self._wait)
        # Not worth sending late: after an outage the inbox is another one.
        self.link.send(self._next, payload, reply=self._inbox, void_at=self.now() + EXPIRES_S)

    async def _renew(self) -> None:
        delay_s = REPAIR_FIRST_S
        try:
            while self._stale and self.link.up:
                try:
                    await self._renew_once()
                except TransportError as error:
                    self._stale = self._forced = True
                    if not isinstance(error, TransportUnavailable):
                        self._complain(str(error))
                    await asyncio.sleep(delay_s)
                    delay_s = min(delay_s * 2, REPAIR_MAX_S)
        finally:
            self._renewal = None
        self._refill()

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            self._complaint = text
            log.warning("cannot take messages from queue %s: %s; trying on", self.queue, text)

    async def _renew_once(self) -> None:
        self._stale = False
        if not self._forced and self._subscription is not None:
            # What the server is just sending comes first: what it must take back, it counts.
            await asyncio.sleep(SHRINK_S)
            if self._free >= 0 and not self._forced:
                return
        self._forced = False
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await self.link.unsubscribe(subscription)
        self._outstanding = 0
        if self._broken:
            # The server may go on refusing what it is asked right after a repair.
            await asyncio.sleep(max(0.0, self._repaired_at + REPAIR_AGAIN_S - self.now()))
            self._repaired_at = self.now()
            if await self._repair():
                log.warning("queue %s was deleted under its consumer; made it again", self.queue)
            self._broken = False
        self._inbox = self.link.new_inbox()
        self._subscription = await self.link.subscribe(self._inbox, self._on_message)
        self._complaint = ""
        self._zero_at = self._heard_at = self.now()

    async def _on_message(self, message: Any) -> None:
        reply: str = message.reply
        self._heard_at = self.now()
        if not reply.startswith(_ACK):
            self._on_status(message.headers or {})
            return
        if self._outstanding > 0:
            self._outstanding -= 1
        until = self._heard_at + self.lease_s
        if self._closed:
            self.link.send(reply, b"-NAK", void_at=until)
            return
        delivery = NatsDelivery(self, message, _delivery_count(reply), until)
        if self._unsettled < self._window:
            self._show(delivery)
            return
        if self._surplus_timer is None:
            self._surplus_timer = self._loop.call_later(self._surplus_s, self._return_surplus)
        self._surplus.append(delivery)

    def _show_surplus(self) -> None:
        # A receiver may settle at once, and so come here again: not deeper, the loop goes on.
        if not self._surplus or self._showing_surplus:
            return
        self._showing_surplus = True
        while self._surplus and self._unsettled < self._window:
            self._show(self._surplus.popleft())
        self._showing_surplus = False
        if not self._surplus and self._surplus_timer is not None:
            self._surplus_timer.cancel()
            self._surplus_timer = None

    def _return_surplus(self) -> None:
        if self._surplus_timer is not None:
            self._surplus_timer.cancel()
            self._surplus_timer = None
        while self._surplus:
            delivery = self._surplus.popleft()
            self.link.send(delivery.reply, b"-NAK", void_at=delivery.until)
        self._refill()

    def _show(self, delivery: NatsDelivery) -> None:
        self._unsettled += 1
        try:
            self._on_delivery(delivery)
        except Exception:
            log.exception("the receiver of queue %s failed; the message goes back", self.queue)
            delivery.requeue()

    def _on_status(self, headers: dict[str, str]) -> None:
        status = headers.get("Status", "")
        if status == "100" or self._closed:
            return
        if status == "408":
            left = int(headers.get("Nats-Pending-Messages", "0"))
            self._outstanding = max(0, self._outstanding - left)
            self._refill()
            return
        log.debug("queue %s: %s %s", self.queue, status, headers.get("Description", ""))
        self.renew(broken=True)


def _delivery_count(reply: str) -> int:
    """The fifth token of `$JS.ACK.stream.consumer.N...`; two later where a domain is named."""
    tokens = reply.split(".", 7)
    return int(tokens[4] if reply.count(".") == 8 else tokens[6])
