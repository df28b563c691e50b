"""Taking messages from one RabbitMQ queue, with an exact window.

The broker fixes a consumer's prefetch when it begins, so a window is made of subscriptions: AMQP
consumers of one channel whose prefetches add up to it. A window that grows adds one for the
difference; one that shrinks ends as many as are too much, after a moment, and adds a smaller one
when the broker has said how many messages went to them.

Rules of this file: no more than the window is shown, ever. `granted + orphaned <= window` is what
all subscriptions tend to, where `granted` is what they may hold, those being ended included, and
`orphaned` is what is unsettled of ended ones. What comes while they hold more and does not fit
waits here for a place, for a second at most. Called by `asya.transports.rabbitmq.transport`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from asya.errors import QueueMissing, TransportError, TransportUnavailable
from asya.transports.base import Consumer, Delivery
from asya.transports.rabbitmq.connection import Channel, Link

log = logging.getLogger("asya.transports.rabbitmq")

REFILL_S: Final = 0.001
"""Places that orphans leave are granted together: when half of the window is free, or after this."""
SHRINK_S: Final = 0.25
"""How long after the window shrank subscriptions are left alone. What the broker is just sending to
one that ends it takes back, and counts; and windows that follow the load soon grow again."""
SURPLUS_S: Final = 1.0
"""How long a message that came just after the window shrank waits for a place here."""
REPAIR_FIRST_S: Final = 0.1
REPAIR_MAX_S: Final = 2.0


class _Subscription:
    """One AMQP consumer: may hold `prefetch` messages, holds `unsettled`."""

    __slots__ = ("ending", "prefetch", "tag", "unsettled")

    def __init__(self, tag: str, prefetch: int) -> None:
        self.tag = tag
        self.prefetch = prefetch
        self.unsettled = 0
        self.ending = False


class _Verdicts:
    """Acks and rejects of one channel.

    Acks of one turn of the loop are written together, all that nothing older waits behind as a
    single frame: the broker's channel passes some 30 verdicts on to a quorum queue at a time, and
    forgets those that still wait when it is closed.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, bool] = {}
        self._acked: list[int] = []

    @property
    def lost(self) -> bool:
        """Whether the channel is gone, and what it held with it."""
        return self.channel.closed is not None

    def expect(self, tag: int) -> None:
        """A message came; tags rise."""
        self._waiting[tag] = False

    def ack(self, tag: int) -> None:
        """Write an ack at the end of this turn of the loop."""
        self._waiting[tag] = True
        if not self._acked:
            self._loop.call_soon(self.flush)
        self._acked.append(tag)

    def give_back(self, tag: int, *, counted: bool) -> None:
        """Write that the message is to be given out again; RabbitMQ 4.3 counts rejects only."""
        self._waiting.pop(tag, None)
        raw = self.channel.raw
        if not raw.is_open:
            return
        if counted:
            raw.basic_reject(tag, True)
        else:
            raw.basic_nack(tag, False, True)

    def flush(self) -> None:
        """Write the acks now."""
        acked, self._acked = self._acked, []
        raw, waiting = self.channel.raw, self._waiting
        if not acked or not raw.is_open:
            return
        first: list[int] = []
        for tag, done in waiting.items():
            if not done:
                break
            first.append(tag)
        for tag in first:
            del waiting[tag]
        if first:
            raw.basic_ack(first[-1], len(first) > 1)
        if len(first) < len(acked):
            for tag in acked:
                if waiting.pop(tag, False):
                    raw.basic_ack(tag)


class RabbitDelivery(Delivery):
    """A message of one channel; lost with it."""

    __slots__ = ("_consumer", "_settled", "subscription", "tag", "verdicts")

    def __init__(
        self,
        consumer: RabbitConsumer,
        verdicts: _Verdicts,
        subscription: _Subscription,
        tag: int,
        body: bytes,
        count: int,
    ) -> None:
        self.body = body
        self.delivery_count = count
        self.subscription = subscription
        self.tag = tag
        self.verdicts = verdicts
        self._consumer = consumer
        self._settled = False

    def ack(self) -> None:
        """Done."""
        if not self._settled:
            self._settled = True
            self.verdicts.ack(self.tag)
            self._consumer.settled(self)

    def requeue(self) -> None:
        """Not done; the broker gives it out again at once."""
        if not self._settled:
            self._settled = True
            self.verdicts.give_back(self.tag, counted=True)
            self._consumer.settled(self)

    def extend(self) -> None:
        """Nothing: the connection is the lease."""

    @property
    def held(self) -> bool:
        """Whether neither settled nor lost with its channel."""
        return not self._settled and not self.verdicts.lost


class RabbitConsumer(Consumer):
    """Runs until `close`, over every loss of the connection and of the queue."""

    def __init__(
        self,
        link: Link,
        *,
        queue: str,
        on_delivery: Callable[[Delivery], None],
        window: int,
        repair: Callable[[], Awaitable[bool]],
        on_close: Callable[[RabbitConsumer], None],
    ) -> None:
        """Prepare; `repair` makes the queue if it is gone, and tells whether it was."""
        self.queue = queue
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._on_delivery = on_delivery
        self._repair = repair
        self._on_close = on_close
        self._window = window
        self._channel: Channel | None = None
        self._verdicts: _Verdicts | None = None
        self._subscriptions: dict[str, _Subscription] = {}
        self._serial = 0
        self._granted = 0
        self._unsettled = 0
        self._orphaned = 0
        self._surplus: deque[RabbitDelivery] = deque()
        self._showing_surplus = False
        self._surplus_timer: asyncio.TimerHandle | None = None
        self._refiller: asyncio.TimerHandle | None = None
        self._shrinker: asyncio.TimerHandle | None = None
        self._closed = False
        self._revival: asyncio.Task[None] | None = None
        self._broken = False
        self._complaint = ""
        self._endings: set[asyncio.Task[None]] = set()

    @property
    def window(self) -> int:
        """The current window."""
        return self._window

    def set_window(self, window: int) -> None:
        """Change the window.

        A smaller one takes effect at once: what is already on its way and does not fit waits here
        for a place. Only if none comes free in `SURPLUS_S` is it given back, since brokers before
        4.3 count that as a delivery.
        """
        if window < 0:
            raise ValueError(f"a window is 0 or more, not {window}")
        self._window = window
        self._show_surplus()
        self._adjust()

    async def close(self) -> None:
        """Take no more messages; see `Consumer.close`. Never waits longer than a few seconds."""
        self._closed = True
        for timer in (self._refiller, self._surplus_timer, self._shrinker):
            if timer is not None:
                timer.cancel()
        if self._revival is not None:
            self._revival.cancel()
            await asyncio.gather(self._revival, return_exceptions=True)
        for subscription in list(self._subscriptions.values()):
            self._end(subscription)
        await asyncio.gather(*self._endings, return_exceptions=True)
        self._return_surplus()
        if self._verdicts is not None:
            self._verdicts.flush()
        self._close_if_done()
        self._on_close(self)

    def revive(self, *, broken: bool = False) -> None:
        """Begin anew on a channel of the connection that stands now.

        With `broken`, look after the queue first.
        """
        self._broken = self._broken or broken
        if self._revival is None and not self._closed and self._link.up:
            self._revival = self._loop.create_task(self._revive())

    def disconnected(self) -> None:
        """The connection is gone, and with it the channel and what it held."""
        self._lose_channel()

    def tick(self) -> None:
        """Put small subscriptions together that hold nothing; called about once a second."""
        if self._channel is None:
            self.revive()
            return
        idle = [one for one in self._subscriptions.values() if not one.unsettled and not one.ending]
        if len(idle) > 1:
            for subscription in idle:
                self._end(subscription)

    def settled(self, delivery: RabbitDelivery) -> None:
        """One delivery was settled: its place is free."""
        self._unsettled -= 1
        subscription = delivery.subscription
        subscription.unsettled -= 1
        if subscription.tag not in self._subscriptions:
            self._orphaned -= 1
            if self._closed:
                self._loop.call_soon(self._close_if_done)
            else:
                self._grant()
        if self._surplus:
            self._show_surplus()

    # -- the window ---------------------------------------------------------------------------------

    def _adjust(self) -> None:
        """Grant what is missing, or end what is too much: at once with a window of 0."""
        if self._closed or self._channel is None:
            return
        if self._window - self._granted - self._orphaned >= 0:
            self._grant()
        elif self._window == 0:
            self._shrink()
        elif self._shrinker is None:
            self._shrinker = self._loop.call_later(SHRINK_S, self._shrink)

    def _shrink(self) -> None:
        if self._shrinker is not None:
            self._shrinker.cancel()
            self._shrinker = None
        if self._closed or self._channel is None:
            return
        staying = [one for one in self._subscriptions.values() if not one.ending]
        # As it will be when those that are being ended have answered.
        room = self._window - self._orphaned
        room -= sum(one.unsettled if one.ending else 0 for one in self._subscriptions.values())
        room -= sum(one.prefetch for one in staying)
        staying.sort(key=lambda one: one.prefetch - one.unsettled)
        while room < 0 and staying:
            subscription = staying.pop()
            room += subscription.prefetch - subscription.unsettled
            self._end(subscription)

    def _grant(self) -> None:
        room = self._window - self._granted - self._orphaned
        if room <= 0 or self._channel is None or self._closed:
            return
        if room * 2 >= self._window:
            self._subscribe(room)
        elif self._refiller is None:
            self._refiller = self._loop.call_later(REFILL_S, self._grant_now)

    def _grant_now(self) -> None:
        self._refiller = None
        room = self._window - self._granted - self._orphaned
        if room > 0 and self._channel is not None and not self._closed:
            self._subscribe(room)

    def _subscribe(self, prefetch: int) -> None:
        channel = self._channel
        verdicts = self._verdicts
        if channel is None or verdicts is None or not channel.raw.is_open:
            return
        self._serial += 1
        subscription = _Subscription(f"asya-{self._serial}", prefetch)
        self._subscriptions[subscription.tag] = subscription
        self._granted += prefetch
        channel.raw.basic_qos(prefetch_count=prefetch)
        channel.raw.basic_consume(
            self.queue,
            partial(self._on_message, verdicts, subscription),
            consumer_tag=subscription.tag,
        )

    def _end(self, subscription: _Subscription) -> None:
        channel = self._channel
        if subscription.ending or channel is None:
            return
        subscription.ending = True
        task = self._loop.create_task(self._cancel(channel, subscription))
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    async def _cancel(self, channel: Channel, subscription: _Subscription) -> None:
        try:
            await channel.cancel(subscription.tag)
        except TransportUnavailable:
            return
        self._drop(subscription)
        self._adjust()

    def _drop(self, subscription: _Subscription) -> None:
        if self._subscriptions.pop(subscription.tag, None) is not None:
            self._granted -= subscription.prefetch
            self._orphaned += subscription.unsettled

    # -- messages -----------------------------------------------------------------------------------

    def _on_message(
        self,
        verdicts: _Verdicts,
        subscription: _Subscription,
        raw: Any,
        method: Any,
        properties: Any,
        body: bytes,
    ) -> None:
        headers = properties.headers
        count = int(headers.get("x-delivery-count", 0)) + 1 if headers else 1
        tag: int = method.delivery_tag
        verdicts.expect(tag)
        if self._closed:
            verdicts.give_back(tag, counted=False)
            return
        delivery = RabbitDelivery(self, verdicts, subscription, tag, body, count)
        subscription.unsettled += 1
        if self._unsettled < self._window and not self._surplus:
            self._show(delivery)
            return
        self._surplus.append(delivery)
        if self._surplus_timer is None:
            self._surplus_timer = self._loop.call_later(SURPLUS_S, self._return_surplus)

    def _show(self, delivery: RabbitDelivery) -> None:
        self._unsettled += 1
        try:
            self._on_delivery(delivery)
        except Exception:
            log.exception("the receiver of queue %s failed; the message goes back", self.queue)
            delivery.requeue()

    def _show_surplus(self) -> None:
        # A receiver may settle at once, and so come here again: not deeper, the loop goes on.
        if self._showing_surplus:
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
            delivery.subscription.unsettled -= 1
            if delivery.subscription.tag not in self._subscriptions:
                self._orphaned -= 1
            delivery.verdicts.give_back(delivery.tag, counted=False)
        self._grant()

    # -- losing and finding -------------------------------------------------------------------------

    async def _revive(self) -> None:
        delay_s = REPAIR_FIRST_S
        try:
            while self._link.up and self._channel is None:
                try:
                    await self._begin()
                except TransportError as error:
                    self._broken = self._broken or isinstance(error, QueueMissing)
                    if not isinstance(error, (TransportUnavailable, QueueMissing)):
                        self._complain(str(error))
                    await asyncio.sleep(delay_s)
                    delay_s = min(delay_s * 2, REPAIR_MAX_S)
        finally:
            self._revival = None

    async def _begin(self) -> None:
        if self._broken:
            # Who deleted the queue may be about to write that down.
            await asyncio.sleep(REPAIR_FIRST_S)
            if await self._repair():
                log.warning("queue %s was deleted under its consumer; made it again", self.queue)
            self._broken = False
        channel = await self._link.channel()
        channel.on_closed = partial(self._on_channel_closed, channel)
        channel.raw.add_on_cancel_callback(self._on_canceled)
        self._channel, self._verdicts = channel, _Verdicts(channel)
        if self._complaint:
            self._complaint = ""
            log.warning("taking messages from queue %s again", self.queue)
        self._adjust()

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            self._complaint = text
            log.warning("cannot take messages from queue %s: %s; trying on", self.queue, text)

    def _on_canceled(self, frame: Any) -> None:
        """The broker ended a subscription: the queue is gone, or moves."""
        channel = self._channel
        if channel is not None and frame.method.consumer_tag in self._subscriptions:
            self._lose_channel()
            channel.close()
            self.revive(broken=True)

    def _on_channel_closed(self, channel: Channel, error: TransportError) -> None:
        if channel is not self._channel or self._closed:
            return
        self._lose_channel()
        if not isinstance(error, (TransportUnavailable, QueueMissing)):
            self._complain(str(error))
        self.revive(broken=True)

    def _lose_channel(self) -> None:
        """Forget the channel; what was shown of it keeps its places until it is settled."""
        self._channel = None
        self._surplus.clear()
        self._subscriptions.clear()
        self._granted = 0
        self._orphaned = self._unsettled

    def _close_if_done(self) -> None:
        """After `close` the channel stays for what can still be settled."""
        channel = self._channel
        if channel is not None and self._unsettled == 0 and not self._surplus:
            self._channel = None
            channel.close()
