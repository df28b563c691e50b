"""Consuming one RabbitMQ queue, with an exact window made of subscriptions.

Rules of this file: what all subscriptions may still bring is what the intake counts as requested.
A subscription that is ended still delivers until the broker has answered. What it brings by then
and does not fit waits in the intake.

Called by `asya.transports.rabbitmq.transport`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

from asya.errors import QueueMissing, TransportError, TransportUnavailable
from asya.transports.backoff import Backoff
from asya.transports.base import Consumer, Delivery
from asya.transports.intake import Intake, Limits
from asya.transports.rabbitmq.acks import Acks
from asya.transports.rabbitmq.channel import Channel
from asya.transports.rabbitmq.connection import Connection
from asya.transports.rabbitmq.subscriptions import Subscription, Subscriptions

log = logging.getLogger("asya.transports.rabbitmq")

REFILL_S: Final = 0.001
SHRINK_S: Final = 0.25
"""How long after the window shrank subscriptions are left alone. What the broker is just sending to
one that ends it takes back, and counts; and windows that follow the load soon grow again."""
REPAIR_FIRST_S: Final = 0.1
REPAIR_MAX_S: Final = 2.0


class Owner(Protocol):
    """The transport, as its consumers need it."""

    async def repair(self, queue: str) -> bool:
        """Make the queue if it is gone; tells whether it was."""
        ...

    def forget(self, consumer: RabbitConsumer) -> None:
        """It is closed."""
        ...


class RabbitDelivery(Delivery):
    """A message of one channel; lost with it."""

    __slots__ = ("_consumer", "_settled", "acks", "subscription", "tag")

    def __init__(
        self,
        consumer: RabbitConsumer,
        acks: Acks,
        subscription: Subscription,
        tag: int,
        body: bytes,
        count: int,
    ) -> None:
        self.body = body
        self.delivery_count = count
        self.subscription = subscription
        self.tag = tag
        self.acks = acks
        self._consumer = consumer
        self._settled = False

    def ack(self) -> None:
        """Done."""
        if not self._settled:
            self._settled = True
            self.acks.ack(self.tag)
            self._consumer.settled(self)

    def requeue(self) -> None:
        """Not done; the broker gives it out again at once."""
        if not self._settled:
            self._settled = True
            self.acks.give_back(self.tag, counted=True)
            self._consumer.settled(self)

    def extend(self) -> None:
        """Nothing: the connection is the lease."""

    @property
    def held(self) -> bool:
        """Whether neither settled nor lost with its channel."""
        return not self._settled and not self.acks.lost


class RabbitConsumer(Consumer):
    """Runs until `close`, over every loss of the connection and of the queue."""

    def __init__(
        self,
        connection: Connection,
        owner: Owner,
        *,
        queue: str,
        on_delivery: Callable[[Delivery], None],
        window: int,
    ) -> None:
        """Prepare; `recover` begins."""
        self.queue = queue
        self._connection = connection
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._intake: Intake[RabbitDelivery] = Intake(
            queue,
            log,
            window=window,
            limits=Limits(REFILL_S),
            on_delivery=on_delivery,
            give_back=self._give_back,
            ask=self._subscribe,
        )
        self._channel: Channel | None = None
        self._acks: Acks | None = None
        self._subscriptions = Subscriptions()
        self._shrinker: asyncio.TimerHandle | None = None
        self._closed = False
        self._recovery: asyncio.Task[None] | None = None
        self._broken = False
        self._endings: set[asyncio.Task[None]] = set()

    @property
    def window(self) -> int:
        """The current window."""
        return self._intake.prefetch.window

    def set_window(self, window: int) -> None:
        """Change the window.

        A smaller one takes effect at once: what is already on its way and does not fit waits here
        for a place. Only if none comes free in a second is it given back, since brokers before
        4.3 count that as a delivery.
        """
        self._intake.set_window(window)
        self._shrink_soon()

    async def close(self) -> None:
        """Receive no more messages; see `Consumer.close`. Takes a few seconds at most."""
        self._closed = True
        self._intake.pause()
        if self._shrinker is not None:
            self._shrinker.cancel()
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.gather(self._recovery, return_exceptions=True)
        for subscription in self._subscriptions.all():
            self._end(subscription)
        await asyncio.gather(*self._endings, return_exceptions=True)
        self._intake.return_overflow()
        if self._acks is not None:
            self._acks.flush()
        self._close_if_done()
        self._owner.forget(self)

    def recover(self, *, broken: bool = False) -> None:
        """Begin anew on a channel of the connection that stands now.

        With `broken`, look after the queue first.
        """
        self._broken = self._broken or broken
        if self._recovery is None and not self._closed and self._connection.up:
            self._recovery = self._loop.create_task(self._recover())

    def disconnected(self) -> None:
        """The connection is gone, and with it the channel and what it held."""
        self._lose_channel()

    def tick(self) -> None:
        """Put small subscriptions together that hold nothing; called about once a second."""
        if self._channel is None:
            self.recover()
            return
        for subscription in self._subscriptions.idle():
            self._end(subscription)

    def settled(self, delivery: RabbitDelivery) -> None:
        """One delivery was settled: its place is free."""
        self._freed(delivery.subscription)
        self._intake.settled()
        if self._closed:
            self._loop.call_soon(self._close_if_done)

    def _freed(self, subscription: Subscription) -> None:
        """A message is settled: its subscription may bring another, unless it has ended."""
        subscription.unsettled -= 1
        if subscription.tag in self._subscriptions:
            self._intake.prefetch.requested += 1

    # -- the window ---------------------------------------------------------------------------------

    def _shrink_soon(self) -> None:
        """End what is too much: at once with a window of 0."""
        if self._closed or self._channel is None or self._intake.prefetch.free >= 0:
            return
        if self.window == 0:
            self._shrink()
        elif self._shrinker is None:
            self._shrinker = self._loop.call_later(SHRINK_S, self._shrink)

    def _shrink(self) -> None:
        if self._shrinker is not None:
            self._shrinker.cancel()
            self._shrinker = None
        if self._closed or self._channel is None:
            return
        prefetch = self._intake.prefetch
        held = prefetch.unsettled + len(prefetch.overflow)
        for subscription in self._subscriptions.excess(prefetch.window, held):
            self._end(subscription)

    def _subscribe(self, count: int) -> None:
        channel, acks = self._channel, self._acks
        if channel is None or acks is None or not channel.raw.is_open:
            return
        subscription = self._subscriptions.add(count)
        self._intake.prefetch.requested += count
        channel.raw.basic_qos(prefetch_count=count)
        channel.raw.basic_consume(
            self.queue,
            partial(self._on_message, acks, subscription),
            consumer_tag=subscription.tag,
        )

    def _end(self, subscription: Subscription) -> None:
        channel = self._channel
        if subscription.ending or channel is None:
            return
        subscription.ending = True
        task = self._loop.create_task(self._cancel(channel, subscription))
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    async def _cancel(self, channel: Channel, subscription: Subscription) -> None:
        try:
            await channel.cancel(subscription.tag)
        except TransportUnavailable:
            return
        self._intake.prefetch.requested -= self._subscriptions.remove(subscription)
        self._intake.refill()
        self._shrink_soon()

    # -- messages -----------------------------------------------------------------------------------

    def _on_message(
        self,
        acks: Acks,
        subscription: Subscription,
        raw: Any,
        method: Any,
        properties: Any,
        body: bytes,
    ) -> None:
        headers = properties.headers
        count = int(headers.get("x-delivery-count", 0)) + 1 if headers else 1
        tag: int = method.delivery_tag
        acks.expect(tag)
        if self._closed:
            acks.give_back(tag, counted=False)
            return
        subscription.unsettled += 1
        self._intake.prefetch.requested -= 1
        self._intake.receive(RabbitDelivery(self, acks, subscription, tag, body, count))

    def _give_back(self, delivery: RabbitDelivery) -> None:
        self._freed(delivery.subscription)
        delivery.acks.give_back(delivery.tag, counted=False)

    # -- losing and finding -------------------------------------------------------------------------

    async def _recover(self) -> None:
        delays = Backoff(REPAIR_FIRST_S, REPAIR_MAX_S)
        try:
            while self._connection.up and self._channel is None:
                try:
                    await self._begin()
                except TransportError as error:
                    self._broken = self._broken or isinstance(error, QueueMissing)
                    if not isinstance(error, (TransportUnavailable, QueueMissing)):
                        self._intake.warn(str(error))
                    await asyncio.sleep(delays.next())
        finally:
            self._recovery = None

    async def _begin(self) -> None:
        if self._broken:
            # Who deleted the queue may be about to write that down.
            await asyncio.sleep(REPAIR_FIRST_S)
            if await self._owner.repair(self.queue):
                log.warning("queue %s was deleted while being consumed; recreated it", self.queue)
            self._broken = False
        channel = await self._connection.channel()
        channel.on_closed = partial(self._on_channel_closed, channel)
        channel.raw.add_on_cancel_callback(self._on_canceled)
        self._channel, self._acks = channel, Acks(channel)
        self._intake.recovered()
        self._intake.paused = False
        self._intake.refill()

    def _on_canceled(self, frame: Any) -> None:
        """The broker ended a subscription: the queue is gone, or moves."""
        channel = self._channel
        if channel is not None and frame.method.consumer_tag in self._subscriptions:
            self._lose_channel()
            channel.close()
            self.recover(broken=True)

    def _on_channel_closed(self, channel: Channel, error: TransportError) -> None:
        if channel is not self._channel or self._closed:
            return
        self._lose_channel()
        if not isinstance(error, (TransportUnavailable, QueueMissing)):
            self._intake.warn(str(error))
        self.recover(broken=True)

    def _lose_channel(self) -> None:
        """Forget the channel; what was shown of it keeps its places until it is settled."""
        self._channel = None
        self._intake.pause()
        self._intake.lose()
        self._subscriptions.clear()

    def _close_if_done(self) -> None:
        """After `close` the channel stays for what can still be settled."""
        channel, prefetch = self._channel, self._intake.prefetch
        if channel is not None and prefetch.unsettled == 0 and not prefetch.overflow:
            self._channel = None
            channel.close()
