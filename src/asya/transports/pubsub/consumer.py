"""Consuming one Pub/Sub subscription by unary pulls, with an exact window.

Rules of this file: one pull at a time. A pull that waits is never cancelled while the connection
stands: what a server hands out to one that was cancelled is nobody's until the ack deadline is
over, and Google's emulator serves them on for as long as they would have lasted. So pulls are
short, and a closed consumer gives back at once what its last one still brings.

Called by `asya.transports.pubsub.transport`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from asya.errors import QueueMissing, TransportError, TransportUnavailable
from asya.transports.backoff import Backoff
from asya.transports.base import Consumer, Delivery
from asya.transports.intake import OVERFLOW_S, Intake, Limits
from asya.transports.leases import LeasedDelivery
from asya.transports.pubsub.acks import Acks
from asya.transports.pubsub.connection import Connection, Silence

log = logging.getLogger("asya.transports.pubsub")

INSPECT_S: Final = 30.0
"""How often a queue without messages is looked after."""
PULL_MAX: Final = 1000
"""Messages that one pull asks for; Pub/Sub gives fewer as it likes."""
REFILL_S: Final = 0.002
CLOSE_PULL_S: Final = 0.05
"""How long `close` waits for the last pull, which may just be answered."""
EMPTY_S: Final = 0.05
"""The first pause after a pull that ended early and empty."""
EMPTY_MAX_S: Final = 0.2
AGAIN_FIRST_S: Final = 0.1
AGAIN_MAX_S: Final = 2.0
CLOSE_S: Final = 2.0


class Owner(Protocol):
    """The transport, as its consumers need it."""

    async def repair(self, queue: str) -> bool:
        """Make the queue if it is gone, and tell whether it was.

        Raises:
            QueueMissing: The subscription has lost its topic.
        """
        ...

    async def recreate(self, queue: str) -> bool:
        """Make the queue anew, without what it holds."""
        ...

    def forget(self, consumer: PullConsumer) -> None:
        """It is closed."""
        ...


@dataclass(frozen=True, slots=True)
class PullOptions:
    """How a subscription is pulled.

    Attributes:
        subscription: Its full name.
        lease_s: How long a delivery is ours, in seconds.
        pull_s: How long a pull waits for messages, in seconds.
        adjusts: Whether the subscription's own deadline is another one, so that each message is
            given its own before it is shown.
    """

    subscription: str
    lease_s: float
    pull_s: float
    adjusts: bool

    @property
    def deadline_s(self) -> int:
        """The lease as the server is told it, in whole seconds."""
        return math.ceil(self.lease_s)


class Orphan:
    """A subscription whose topic was deleted. Pure.

    It is emptied first, by everybody who consumes it, and only then made anew: deleting it
    deletes what it holds.
    """

    __slots__ = ("_lease_s", "_since", "heard_at")

    def __init__(self, now: float, lease_s: float) -> None:
        self._lease_s = lease_s
        self._since: float | None = None
        self.heard_at = now

    @property
    def found(self) -> bool:
        """Whether it is one."""
        return self._since is not None

    def find(self, now: float) -> bool:
        """It is one; True the first time."""
        first = self._since is None
        if first:
            self._since = now
        return first

    def over(self) -> None:
        """It has a topic."""
        self._since = None

    def is_drained(self, now: float) -> bool:
        """Whether nothing came for so long that others hold nothing of it either."""
        # What others hold of it comes back within a lease.
        return self._since is not None and now - max(self.heard_at, self._since) > self._lease_s


class PubSubDelivery(LeasedDelivery["PullConsumer"]):
    """A message that was pulled."""

    __slots__ = ("ack_id",)

    def __init__(self, consumer: PullConsumer, received: Any, until: float) -> None:
        # 0 where the subscription has no dead letter policy, as that of the dead letters themselves
        count = received.delivery_attempt or 1
        super().__init__(consumer, received.message.data, count, until)
        self.ack_id: str = received.ack_id

    def extend(self) -> None:
        """Begin the lease anew, unless it was lost."""
        if self.held:
            consumer = self._holder
            consumer.acks.hold(self.ack_id, consumer.options.deadline_s, self.until)
            self.until = consumer.now() + consumer.lease_s

    def _send_ack(self) -> None:
        self._holder.acks.ack(self.ack_id, self.until)

    def _send_nack(self) -> None:
        self._holder.acks.hold(self.ack_id, 0, self.until)


class PullConsumer(Consumer):
    """Runs until `close`, over every loss of the connection and of the queue.

    Attributes:
        queue: Its name.
        options: How it is pulled.
        lease_s: How long a delivery is ours, less a margin for the way of the message.
        acks: Where deliveries go when they are settled.
        now: The event loop's clock.
    """

    def __init__(
        self,
        connection: Connection,
        owner: Owner,
        *,
        queue: str,
        on_delivery: Callable[[Delivery], None],
        window: int,
        options: PullOptions,
    ) -> None:
        """Begin."""
        self.queue = queue
        self.options = options
        self.lease_s = options.lease_s - min(2.0, options.lease_s / 10)
        self.acks = Acks(connection, options.subscription)
        self._connection = connection
        self._owner = owner
        loop = asyncio.get_running_loop()
        self.now = loop.time
        self._wake = asyncio.Event()
        self._intake: Intake[PubSubDelivery] = Intake(
            queue,
            log,
            window=window,
            limits=Limits(REFILL_S, min(OVERFLOW_S, options.lease_s / 3), PULL_MAX),
            on_delivery=on_delivery,
            give_back=PubSubDelivery.give_back,
            ask=lambda free: self._wake.set(),
        )
        self._intake.paused = False
        self._empties = Backoff(EMPTY_S, EMPTY_MAX_S)
        self._orphan = Orphan(self.now(), self.lease_s)
        self._inspected_at = self.now()
        self._inspecting: asyncio.Task[None] | None = None
        self._closed = False
        self._task = loop.create_task(self._run())

    @property
    def window(self) -> int:
        """The current window."""
        return self._intake.prefetch.window

    @property
    def unsettled(self) -> int:
        """Deliveries that were shown and are not settled."""
        return self._intake.prefetch.unsettled

    @property
    def waiting(self) -> int:
        """Messages that are here and wait for a place."""
        return len(self._intake.prefetch.overflow)

    def set_window(self, window: int) -> None:
        """Change the window; a smaller one takes effect at once, for what is on its way, too."""
        self._intake.set_window(window)

    async def close(self) -> None:
        """Receive no more messages; see `Consumer.close`. Takes a few seconds at most."""
        if not self._closed:
            self._closed = True
            self._intake.pause()
            self._wake.set()
            self._intake.return_overflow()
            await asyncio.wait({self._task}, timeout=CLOSE_PULL_S)
            self._owner.forget(self)
        await self.acks.drain(CLOSE_S)

    async def end(self, timeout_s: float) -> None:
        """After `close`: wait for the last pull, and cut it off after this time."""
        await asyncio.wait({self._task}, timeout=timeout_s)
        await self.acks.drain(CLOSE_S)
        for task in (self._task, self._inspecting):
            if task is not None and not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self.acks.stop()

    @property
    def ended(self) -> bool:
        """Whether its last pull is over."""
        return self._task.done()

    def abandon(self) -> None:
        """Stop without a word, as a killed process does: for tests of crashes."""
        self._closed = True
        self._task.cancel()
        self.acks.stop()

    def resume(self) -> None:
        """The broker is back."""
        self._wake.set()

    def inspect_soon(self) -> None:
        """Somebody found that the queue is not as it should be."""
        if self._inspecting is None and not self._closed:
            self._inspecting = asyncio.get_running_loop().create_task(self._inspect_now())

    def settled(self, delivery: PubSubDelivery) -> None:
        """One delivery was settled: its place is free."""
        self._intake.settled()

    async def _run(self) -> None:
        delays = Backoff(AGAIN_FIRST_S, AGAIN_MAX_S)
        while not self._closed:
            try:
                if await self._step():
                    delays.reset()
            except TransportError as error:
                if self._closed:
                    return
                if not isinstance(error, TransportUnavailable):
                    self._intake.warn(str(error))
                await self._pause(delays.next())
            except Exception:
                log.exception("queue %s: receiving failed; retrying", self.queue)
                await self._pause(AGAIN_MAX_S)

    async def _step(self) -> bool:
        """Wait for places, or pull once; tells whether the broker answered."""
        self._wake.clear()
        self._intake.refill()  # wakes at once where free places are worth a pull
        if not self._connection.up or not self._wake.is_set():
            self._wake.clear()
            await self._wake.wait()
            if not self._connection.up:
                return False
        free = self._intake.prefetch.free
        if free <= 0 or self._closed:
            return False
        began = self.now()
        try:
            received = await self._pull(min(free, PULL_MAX))
        except QueueMissing:
            await self._inspect()
            return True
        if received:
            self._empties.reset()
            self._intake.recovered()
            self._orphan.heard_at = self.now()
            await self._take_in(received)
            return True
        if self.now() - began < self.options.pull_s / 2:
            await self._pause(self._empties.next())
        if self._orphan.found or self.now() - self._inspected_at > INSPECT_S:
            await self._inspect()
        return True

    async def _pull(self, count: int) -> Any:
        """The messages; none when the time is over."""
        connection, name = self._connection, self.options.subscription
        request = connection.request("Pull", subscription=name, max_messages=count)
        prefetch = self._intake.prefetch
        prefetch.requested = count
        try:
            answer = await connection.call("Pull", request, name, timeout_s=self.options.pull_s)
        except Silence:
            return ()
        finally:
            prefetch.requested = 0
        return answer.received_messages

    async def _take_in(self, received: Any) -> None:
        until = self.now() + self.lease_s
        if self.options.adjusts:
            prefetch = self._intake.prefetch
            prefetch.requested = len(received)
            try:
                ack_ids = [one.ack_id for one in received]
                await self.acks.lease(ack_ids, self.options.deadline_s)
            except TransportUnavailable:
                log.debug("queue %s: messages come back with the subscription's lease", self.queue)
            finally:
                prefetch.requested = 0
        for one in received:
            delivery = PubSubDelivery(self, one, until)
            if self._closed:
                delivery.give_back()
            else:
                self._intake.receive(delivery)

    async def _inspect_now(self) -> None:
        try:
            await self._inspect()
        except TransportError as error:
            log.debug("queue %s: %s", self.queue, error)
        finally:
            self._inspecting = None

    async def _inspect(self) -> None:
        """See that topic and subscription exist and belong together."""
        if self._closed:
            return  # its last pull ends when the queue is deleted: no reason to make it again
        now = self._inspected_at = self.now()
        try:
            made = await self._owner.repair(self.queue)
        except QueueMissing:
            if self._orphan.find(now):
                log.warning(
                    "the topic of queue %s was deleted; emptying its subscription before "
                    "recreating both",
                    self.queue,
                )
            elif (
                self._orphan.is_drained(now)
                and not self.unsettled
                and await self._owner.recreate(self.queue)
            ):
                self._orphan.over()
                log.warning("queue %s was emptied; recreated it", self.queue)
            return
        self._orphan.over()
        if made:
            log.warning("queue %s was deleted while being consumed; recreated it", self.queue)

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not longer than until `close`."""
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._closed:
                    await self._wake.wait()
                    if not self._closed:
                        self._wake.clear()
