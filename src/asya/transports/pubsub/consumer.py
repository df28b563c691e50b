"""Taking messages from one Pub/Sub subscription by unary pulls, with an exact window.

Rules of this file: `unsettled + asked for <= window`, always, with one pull at a time. A pull that
waits is never cancelled while the connection stands: what a server hands out to one that was
cancelled is nobody's until the ack deadline is over, and Google's emulator serves them on for as
long as they would have lasted. So pulls are short, a closed consumer gives back at once what its
last one still brings, and what does not fit after the window shrank waits here for a place, for a
second at most, since giving it back counts as a delivery.

Called by `asya.transports.pubsub.transport`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from asya.errors import QueueMissing, TransportError, TransportUnavailable
from asya.transports.base import Consumer, Delivery
from asya.transports.pubsub.acks import Verdicts
from asya.transports.pubsub.connection import Link, Silence

log = logging.getLogger("asya.transports.pubsub")

LOOK_S: Final = 30.0
"""How often a queue without messages is looked after."""
PULL_MAX: Final = 1000
"""Messages that one pull asks for; Pub/Sub gives fewer as it likes."""
REFILL_S: Final = 0.002
"""Freed places are asked for together: when half of the window is free, or after this time."""
SURPLUS_S: Final = 1.0
"""How long a message that came just after the window shrank waits for a place here."""
CLOSE_PULL_S: Final = 0.05
"""How long `close` waits for the last pull, which may just be answered."""
EMPTY_S: Final = 0.05
"""The first pause after a pull that ended early and empty."""
EMPTY_MAX_S: Final = 0.2
AGAIN_FIRST_S: Final = 0.1
AGAIN_MAX_S: Final = 2.0
CLOSE_S: Final = 2.0

Look = Callable[[], Awaitable[bool]]


class PubSubDelivery(Delivery):
    """A message that was pulled."""

    __slots__ = ("_consumer", "_settled", "ack_id", "until")

    def __init__(self, consumer: PullConsumer, received: Any, until: float) -> None:
        self.body = received.message.data
        # 0 where the subscription has no dead letter policy, as that of the dead letters themselves
        self.delivery_count = received.delivery_attempt or 1
        self.ack_id: str = received.ack_id
        self.until = until
        self._consumer = consumer
        self._settled = False

    def ack(self) -> None:
        """Done. Unlike the server, which would take it, a late ack is not sent."""
        if not self._settled:
            self._settled = True
            consumer = self._consumer
            if consumer.now() < self.until:
                consumer.verdicts.ack(self.ack_id, self.until)
            consumer.settled()

    def requeue(self) -> None:
        """Not done; the server gives it out again at once."""
        if not self._settled:
            self._settled = True
            self.give_back()
            self._consumer.settled()

    def extend(self) -> None:
        """Begin the lease anew, unless it was lost."""
        if self.held:
            consumer = self._consumer
            consumer.verdicts.hold(self.ack_id, consumer.deadline_s, self.until)
            self.until = consumer.now() + consumer.lease_s

    @property
    def held(self) -> bool:
        """Whether neither settled nor, by our clock, past the lease."""
        return not self._settled and self._consumer.now() < self.until

    def give_back(self) -> None:
        """Tell the server that it may have the message, if the lease is still ours."""
        if self._consumer.now() < self.until:
            self._consumer.verdicts.hold(self.ack_id, 0, self.until)


class PullConsumer(Consumer):
    """Runs until `close`, over every loss of the connection and of the queue.

    Attributes:
        queue: What it takes messages from.
        lease_s: How long a delivery is ours, less a margin for the way of the message.
        deadline_s: The same as the server is told it, in whole seconds.
        verdicts: Where deliveries say what becomes of them.
        now: The event loop's clock.
    """

    def __init__(
        self,
        link: Link,
        *,
        queue: str,
        subscription: str,
        on_delivery: Callable[[Delivery], None],
        window: int,
        lease_s: float,
        pull_s: float,
        adjusts: bool,
        look: Look,
        remake: Look,
        on_close: Callable[[PullConsumer], None],
    ) -> None:
        """Prepare.

        Args:
            link: The connection.
            queue: See above.
            subscription: Its full name.
            on_delivery: Called for each message.
            window: How many of them may be unsettled.
            lease_s: How long a delivery is ours, in seconds.
            pull_s: How long a pull waits for messages, in seconds.
            adjusts: Whether the subscription's own deadline is another one, so that each message
                is given its own before it is shown.
            look: Makes the queue if it is gone, raises `QueueMissing` where the subscription has
                lost its topic, and tells whether it made something.
            remake: Makes the queue anew, without what it holds.
            on_close: Told at the end.
        """
        self.queue = queue
        self.lease_s = lease_s - min(2.0, lease_s / 10)
        self.deadline_s = math.ceil(lease_s)
        self.verdicts = Verdicts(link, subscription)
        self._link = link
        self._subscription = subscription
        self._on_delivery = on_delivery
        self._pull_s = pull_s
        self._adjusts = adjusts
        self._look = look
        self._remake = remake
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._window = window
        self._unsettled = 0
        self._asked = 0
        self._surplus: deque[PubSubDelivery] = deque()
        self._surplus_timer: asyncio.TimerHandle | None = None
        self._surplus_s = min(SURPLUS_S, lease_s / 3)
        self._showing = False
        self._wake = asyncio.Event()
        self._empty_s = EMPTY_S
        self._orphaned = False
        self._orphaned_at = 0.0
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = self._heard_at = self.now()
        self._complaint = ""
        self._closed = False
        self._task = self._loop.create_task(self._run())

    @property
    def window(self) -> int:
        """The current window."""
        return self._window

    @property
    def unsettled(self) -> int:
        """Deliveries that were shown and are not settled."""
        return self._unsettled

    @property
    def waiting(self) -> int:
        """Messages that are here and wait for a place."""
        return len(self._surplus)

    def set_window(self, window: int) -> None:
        """Change the window; a smaller one takes effect at once, for what is on its way, too."""
        if window < 0:
            raise ValueError(f"a window is 0 or more, not {window}")
        self._window = window
        self._show_surplus()
        self._wake.set()

    async def close(self) -> None:
        """Take no more messages; see `Consumer.close`. Never waits longer than a few seconds."""
        if not self._closed:
            self._closed = True
            self._wake.set()
            self._return_surplus()
            await asyncio.wait({self._task}, timeout=CLOSE_PULL_S)
            self._on_close(self)
        await self.verdicts.drain(CLOSE_S)

    async def end(self, timeout_s: float) -> None:
        """After `close`: wait for the last pull, and cut it off after this time."""
        await asyncio.wait({self._task}, timeout=timeout_s)
        await self.verdicts.drain(CLOSE_S)
        for task in (self._task, self._looking):
            if task is not None and not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self.verdicts.stop()

    @property
    def ended(self) -> bool:
        """Whether its last pull is over."""
        return self._task.done()

    def abandon(self) -> None:
        """Stop without a word, as a killed process does: for tests of crashes."""
        self._closed = True
        self._task.cancel()
        self.verdicts.stop()

    def resume(self) -> None:
        """The broker is back."""
        self._wake.set()

    def look_soon(self) -> None:
        """Somebody found that the queue is not as it should be."""
        if self._looking is None and not self._closed:
            self._looking = self._loop.create_task(self._look_now())

    def settled(self) -> None:
        """One delivery was settled: its place is free."""
        self._unsettled -= 1
        self._show_surplus()
        self._wake.set()

    @property
    def _free(self) -> int:
        return self._window - self._unsettled - self._asked - len(self._surplus)

    async def _run(self) -> None:
        delay_s = AGAIN_FIRST_S
        while not self._closed:
            try:
                if await self._step():
                    delay_s = AGAIN_FIRST_S
            except TransportError as error:
                if self._closed:
                    return
                if not isinstance(error, TransportUnavailable):
                    self._complain(str(error))
                await self._pause(delay_s)
                delay_s = min(delay_s * 2, AGAIN_MAX_S)
            except Exception:
                log.exception("queue %s: taking messages failed; trying on", self.queue)
                await self._pause(AGAIN_MAX_S)

    async def _step(self) -> bool:
        """Wait for a place, or pull once; tells whether the broker answered."""
        free = self._free
        if free > 0 and free * 2 < self._window:
            await asyncio.sleep(REFILL_S)
            free = self._free
        if free <= 0 or not self._link.up:
            self._wake.clear()
            await self._wake.wait()
            return False
        began = self.now()
        try:
            received = await self._pull(min(free, PULL_MAX))
        except QueueMissing:
            await self._look_after()
            return True
        if received:
            self._empty_s = EMPTY_S
            self._complaint = ""
            self._heard_at = self.now()
            await self._take(received)
            return True
        if self.now() - began < self._pull_s / 2:
            await self._pause(self._empty_s)
            self._empty_s = min(self._empty_s * 2, EMPTY_MAX_S)
        if self._orphaned or self.now() - self._looked_at > LOOK_S:
            await self._look_after()
        return True

    async def _pull(self, count: int) -> Any:
        """The messages; none when the time is over."""
        link, name = self._link, self._subscription
        request = link.request("Pull", subscription=name, max_messages=count)
        self._asked = count
        try:
            answer = await link.call("Pull", request, name, timeout_s=self._pull_s)
        except Silence:
            return ()
        finally:
            self._asked = 0
        return answer.received_messages

    async def _take(self, received: Any) -> None:
        until = self.now() + self.lease_s
        if self._adjusts:
            self._asked = len(received)
            try:
                await self.verdicts.lease([one.ack_id for one in received], self.deadline_s)
            except TransportUnavailable:
                log.debug("queue %s: messages come back with the subscription's lease", self.queue)
            finally:
                self._asked = 0
        for one in received:
            delivery = PubSubDelivery(self, one, until)
            if self._closed:
                delivery.give_back()
            elif self._unsettled < self._window and not self._surplus:
                self._show(delivery)
            else:
                self._surplus.append(delivery)
        if self._surplus and self._surplus_timer is None:
            self._surplus_timer = self._loop.call_later(self._surplus_s, self._return_surplus)

    def _show_surplus(self) -> None:
        # A receiver may settle at once, and so come here again: not deeper, the loop goes on.
        if not self._surplus or self._showing:
            return
        self._showing = True
        while self._surplus and self._unsettled < self._window:
            self._show(self._surplus.popleft())
        self._showing = False
        if not self._surplus:
            self._stop_surplus_timer()

    def _return_surplus(self) -> None:
        self._stop_surplus_timer()
        while self._surplus:
            self._surplus.popleft().give_back()
        self._wake.set()

    def _stop_surplus_timer(self) -> None:
        if self._surplus_timer is not None:
            self._surplus_timer.cancel()
            self._surplus_timer = None

    def _show(self, delivery: PubSubDelivery) -> None:
        self._unsettled += 1
        try:
            self._on_delivery(delivery)
        except Exception:
            log.exception("the receiver of queue %s failed; the message goes back", self.queue)
            delivery.requeue()

    async def _look_now(self) -> None:
        try:
            await self._look_after()
        except TransportError as error:
            log.debug("queue %s: %s", self.queue, error)
        finally:
            self._looking = None

    async def _look_after(self) -> None:
        """See that topic and subscription are there and belong together.

        A subscription whose topic was deleted is emptied first, by everybody who takes from it,
        and only then made anew: deleting it deletes what it holds.
        """
        if self._closed:
            return  # its last pull ends when the queue is deleted: that is no reason to make it again
        self._looked_at = self.now()
        try:
            made = await self._look()
        except QueueMissing:
            # what others hold of it comes back within a lease
            drained = self.now() - max(self._heard_at, self._orphaned_at) > self.lease_s
            if not self._orphaned:
                self._orphaned = True
                self._orphaned_at = self.now()
                log.warning(
                    "the topic of queue %s was deleted; emptying its subscription, and then "
                    "making both again",
                    self.queue,
                )
            elif drained and not self._unsettled and await self._remake():
                self._orphaned = False
                log.warning("queue %s was emptied; made it again", self.queue)
            return
        self._orphaned = False
        if made:
            log.warning("queue %s was deleted under its consumer; made it again", self.queue)

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            self._complaint = text
            log.warning("cannot take messages from queue %s: %s; trying on", self.queue, text)

    async def _pause(self, seconds: float) -> None:
        """A pause that `close` ends."""
        if self._closed:
            return
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._closed:
                    await self._wake.wait()
                    if not self._closed:
                        self._wake.clear()
