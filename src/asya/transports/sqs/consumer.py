"""Taking messages of one SQS queue.

Long polls ask for no more than there are free places, ten at most, so a window is never
overrun. One poll is under way while the queue is short; a poll that comes back full is a sign of
a backlog and lets more run side by side. A poll is never broken off while anybody could still
read its answer, since what SQS put into it would be invisible until its lease ends: a consumer
that is closed lets its last polls come back, and gives what they bring to the others.

SQS takes a late ack without a word, even one for a message that somebody else has meanwhile. So
what counts is our own clock of each lease. Called by `asya.transports.sqs.transport`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asya.clock import Clock
from asya.errors import QueueMissing, TransportError, TransportUnavailable
from asya.transports.base import Consumer, Delivery
from asya.transports.sqs.batch import Change, Settler
from asya.transports.sqs.connection import Link, log
from asya.transports.sqs.messages import ATTRIBUTES, ENCODING, attribute, decode, due

POLLS_MAX = 8
"""Long polls of one consumer that run side by side."""
REFILL_S = 0.005
"""Freed places are asked for together: when half of the window is free, or after this time."""
SURPLUS_S = 1.0
"""How long a message that came just after the window shrank waits for a place here."""
HOLD_MAX_S = 12 * 3600
"""However often it is extended, SQS takes a message back after this time."""
LATE_S = 1.0
"""How much longer than it may wait a poll may take without being late, in seconds."""
RETRY_FIRST_S = 0.1
RETRY_MAX_S = 5.0
MEND_AGAIN_S = 1.0
"""How long SQS may go on naming a queue that it no longer has is up to a minute: ask calmly."""

SendOn = Callable[[dict[str, Any], datetime], Awaitable[None]]


class SqsDelivery(Delivery):
    """A message that SQS leased to us; `until` is when that ends, on the loop's clock."""

    __slots__ = ("_consumer", "_extending", "_settled", "_verdict", "handle", "last", "until")

    def __init__(
        self, consumer: PollConsumer, body: bytes, count: int, handle: str, begun: float
    ) -> None:
        self.body = body
        self.delivery_count = count
        self.handle = handle
        self._consumer = consumer
        self._settled = False
        self._extending = False
        self._verdict: Change | None = None
        margin_s = consumer.margin_s
        self.until = begun + consumer.lease_s - margin_s
        self.last = begun + HOLD_MAX_S - margin_s

    def ack(self) -> None:
        """Done. SQS would take a late ack, too, so a late one is not sent."""
        self._settle(None)

    def requeue(self) -> None:
        """Not done; visible at once."""
        self._settle(0)

    def extend(self) -> None:
        """Begin the lease anew; it counts from when SQS has said so."""
        if self._extending or not self.held:
            return
        consumer = self._consumer
        began = consumer.now()
        left_s = int(self.last - began)
        lease_s = min(consumer.lease_s, left_s)
        if lease_s < 1:
            return
        self._extending = True

        def done(well: bool) -> None:
            self._extending = False
            if well:
                self.until = min(began + lease_s - consumer.margin_s, self.last)
            elif not self._settled:
                self.until = min(self.until, consumer.now())
            if self._verdict is not None:
                consumer.settler.add(self._verdict)
                self._verdict = None

        consumer.settler.add(Change(self.handle, lease_s, self.until, done))

    @property
    def held(self) -> bool:
        """Whether neither settled nor, by our clock, past the lease."""
        return not self._settled and self._consumer.now() < self.until

    def _settle(self, visible_s: int | None) -> None:
        if self._settled:
            return
        consumer = self._consumer
        self._settled = True
        if consumer.now() < self.until:
            change = Change(self.handle, visible_s, self.until)
            if self._extending and visible_s is not None:
                # An extension that arrives after it would hide the message again.
                self._verdict = change
            else:
                consumer.settler.add(change)
        consumer.settled()


@dataclass(slots=True, eq=False)
class _Poll:
    asked: int
    began: float


class PollConsumer(Consumer):
    """Runs until `close`, over every outage and loss of the queue.

    Attributes:
        lease_s: What SQS is asked for, in whole seconds.
        margin_s: How much earlier than at SQS a lease ends here.
        now: The event loop's clock.
        settler: Where settlements go.
        polls: The tasks that may still bring messages.
    """

    def __init__(
        self,
        link: Link,
        settler: Settler,
        *,
        queue: str,
        url_of: Callable[[str], Awaitable[str]],
        on_delivery: Callable[[Delivery], None],
        window: int,
        lease_s: int,
        poll_s: float,
        batch_max: int,
        clock: Clock,
        send_on: SendOn,
        repair: Callable[[], Awaitable[bool]],
        on_close: Callable[[PollConsumer], None],
    ) -> None:
        """Prepare.

        Args:
            link: SQS.
            settler: Of the queue.
            queue: Its name.
            url_of: Tells a queue's URL.
            on_delivery: See `Transport.consume`.
            window: See there.
            lease_s: See above.
            poll_s: How long a poll waits for messages, in whole seconds.
            batch_max: How many messages a poll may bring.
            clock: Wall time, for messages that carry one.
            send_on: Publishes a message that came before its time again; returns when confirmed.
            repair: Makes the queue if it is gone; tells whether it was.
            on_close: Called once.
        """
        self.queue = queue
        self.lease_s = lease_s
        self.margin_s = min(2.0, lease_s / 10)
        self.settler = settler
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self.polls: dict[asyncio.Task[None], _Poll] = {}
        self._link = link
        self._url_of = url_of
        self._on_delivery = on_delivery
        self._poll_s = int(poll_s)
        self._batch_max = batch_max
        self._clock = clock
        self._send_on = send_on
        self._repair = repair
        self._on_close = on_close
        self._window = window
        self._unsettled = 0
        self._outstanding = 0
        self._side_by_side = 1
        self._surplus: deque[SqsDelivery] = deque()
        self._showing_surplus = False
        self._surplus_timer: asyncio.TimerHandle | None = None
        self._surplus_s = min(SURPLUS_S, lease_s / 3)
        self._hops: set[asyncio.Task[None]] = set()
        self._refiller: asyncio.Handle | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._retry = asyncio.Event()
        self._delay_s = RETRY_FIRST_S
        self._complaint = ""
        self._mended_at = float("-inf")
        self._closed = False

    @property
    def window(self) -> int:
        """The current window."""
        return self._window

    def set_window(self, window: int) -> None:
        """Change the window.

        What a poll brings that no longer fits waits here for a place. Only if none comes free in
        `SURPLUS_S`, or the window is 0, is it given back, since that counts as a delivery.
        """
        if window < 0:
            raise ValueError(f"a window is 0 or more, not {window}")
        self._window = window
        if window == 0:
            self._return_surplus()
        self._show_surplus()
        self._refill()

    async def close(self) -> None:
        """Take no more messages; see `Consumer.close`.

        A poll that waits at SQS cannot be called back: what it brings later is given back then.
        """
        if self._closed:
            return
        self._closed = True
        self._return_surplus()
        for handle in (self._refiller, self._recovery):
            if handle is not None:
                handle.cancel()
        if self._recovery is not None:
            await asyncio.gather(self._recovery, return_exceptions=True)
        self._on_close(self)

    def drop(self) -> None:
        """Vanish without a word: for tests of crashes, and for polls that nobody waits for."""
        self._closed = True
        for handle in (self._refiller, self._recovery, self._surplus_timer):
            if handle is not None:
                handle.cancel()
        for task in (*self.polls, *self._hops):
            task.cancel()

    def reconnected(self) -> None:
        """Ask anew: polls from before the outage may never come back."""
        for poll in self.polls.values():
            if poll.began <= self._link.down_at:
                self._outstanding -= poll.asked
                poll.asked = 0
        self._delay_s = RETRY_FIRST_S
        self._retry.set()
        self._refill()

    def settled(self) -> None:
        """One delivery was settled: its place is free."""
        self._unsettled -= 1
        self._show_surplus()
        if not self._closed and self._refiller is None:
            self._refiller = self._loop.call_soon(self._look)

    @property
    def _free(self) -> int:
        taken = self._unsettled + self._outstanding + len(self._surplus) + len(self._hops)
        return self._window - taken

    def _look(self) -> None:
        """Ask for free places if they are worth a request, or else soon."""
        self._refiller = None
        free = self._free
        if free * 2 >= self._window or free >= self._batch_max:
            self._refill()
        elif free > 0 and not self._closed:
            self._refiller = self._loop.call_later(REFILL_S, self._refill)

    def _refill(self) -> None:
        if self._refiller is not None:
            self._refiller.cancel()
            self._refiller = None
        if self._closed or self._recovery is not None:
            return
        under_way = sum(1 for poll in self.polls.values() if poll.asked)
        while (free := self._free) > 0 and under_way < self._side_by_side:
            self._start_poll(min(free, self._batch_max))
            under_way += 1

    def _start_poll(self, asked: int) -> None:
        poll = _Poll(asked, self.now())
        self._outstanding += asked
        task = self._loop.create_task(self._run(poll))
        self.polls[task] = poll
        task.add_done_callback(self._poll_ended)

    def _poll_ended(self, task: asyncio.Task[None]) -> None:
        poll = self.polls.pop(task)
        self._outstanding -= poll.asked
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a poll of queue %s failed", self.queue, exc_info=error)
        self._refill()

    async def _run(self, poll: _Poll) -> None:
        asked = poll.asked
        try:
            messages = await self._receive(poll)
        except TransportError as error:
            self._stumble(error)
            return
        self._delay_s = RETRY_FIRST_S
        if self._complaint:
            log.warning("taking messages from queue %s again", self.queue)
            self._complaint = ""
        if len(messages) == asked == self._batch_max:
            self._side_by_side = min(self._side_by_side + 1, POLLS_MAX)
        elif not messages:
            self._side_by_side = max(1, self._side_by_side // 2)
        self._outstanding -= poll.asked
        poll.asked = 0
        # Handed out no later than the poll could wait: an answer that was held up on the way
        # brings leases that are partly used up.
        begun = min(self.now(), poll.began + self._poll_s + LATE_S)
        for message in messages:
            self._take(message, begun)

    async def _receive(self, poll: _Poll) -> list[dict[str, Any]]:
        url = await self._url_of(self.queue)
        poll.began = self.now()
        answer = await self._link.call(
            "receive_message",
            queue=self.queue,
            within_s=self._poll_s + self._link.timeout_s,
            QueueUrl=url,
            MaxNumberOfMessages=poll.asked or 1,
            WaitTimeSeconds=self._poll_s,
            VisibilityTimeout=self.lease_s,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
            MessageAttributeNames=ATTRIBUTES,
        )
        found: list[dict[str, Any]] = answer.get("Messages", [])
        return found

    def _take(self, message: dict[str, Any], begun: float) -> None:
        body = decode(message["Body"], attribute(message, ENCODING))
        count = int(message.get("Attributes", {}).get("ApproximateReceiveCount", 1))
        delivery = SqsDelivery(self, body, count, message["ReceiptHandle"], begun)
        if self._closed:
            self._give_back(delivery)
        elif not delivery.held:
            return  # by now it is somebody else's
        elif (moment := due(message)) is not None and moment > self._clock.now():
            task = self._loop.create_task(self._hop(delivery, message, moment))
            self._hops.add(task)
            task.add_done_callback(self._hop_ended)
        elif self._unsettled < self._window and not self._surplus:
            self._show(delivery)
        elif self._window == 0:
            self._give_back(delivery)
        else:
            if self._surplus_timer is None:
                self._surplus_timer = self._loop.call_later(self._surplus_s, self._return_surplus)
            self._surplus.append(delivery)

    async def _hop(self, delivery: SqsDelivery, message: dict[str, Any], moment: datetime) -> None:
        """Send on what came before its time; without a confirm it comes again after its lease."""
        with contextlib.suppress(TransportError):
            await self._send_on(message, moment)
            self.settler.add(Change(delivery.handle, None, delivery.until))

    def _hop_ended(self, task: asyncio.Task[None]) -> None:
        self._hops.discard(task)
        self._refill()

    def _show(self, delivery: SqsDelivery) -> None:
        self._unsettled += 1
        try:
            self._on_delivery(delivery)
        except Exception:
            log.exception("the receiver of queue %s failed; the message goes back", self.queue)
            delivery.requeue()

    def _show_surplus(self) -> None:
        # A receiver may settle at once, and so come here again: not deeper, the loop goes on.
        if not self._surplus or self._showing_surplus or self._closed:
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
            self._give_back(self._surplus.popleft())
        self._refill()

    def _give_back(self, delivery: SqsDelivery) -> None:
        self.settler.add(Change(delivery.handle, 0, delivery.until))

    def _stumble(self, error: TransportError) -> None:
        if self._recovery is None and not self._closed:
            self._recovery = self._loop.create_task(self._recover(error))

    async def _recover(self, error: TransportError) -> None:
        """Wait, and make the queue if it is gone; then polls may go on."""
        self._retry.clear()
        try:
            if isinstance(error, QueueMissing):
                await self._mend()
                return
            # An outage is told by the link.
            if not isinstance(error, TransportUnavailable):
                self._complain(str(error))
            delay_s, self._delay_s = self._delay_s, min(self._delay_s * 2, RETRY_MAX_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._retry.wait()
        finally:
            self._recovery = None
            self._loop.call_soon(self._refill)

    async def _mend(self) -> None:
        delay_s, told = RETRY_FIRST_S, False
        await asyncio.sleep(max(0.0, self._mended_at + MEND_AGAIN_S - self.now()))
        self._mended_at = self.now()
        while True:
            try:
                made = await self._repair()
            except TransportError as error:
                if not told and self._link.trouble is None:
                    told = True
                    log.warning(
                        "queue %s was deleted under its consumer; making it again as soon as "
                        "that can be (%s)",
                        self.queue,
                        error,
                    )
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_MAX_S)
            else:
                if told:
                    log.warning("queue %s is there again", self.queue)
                elif made:
                    log.warning(
                        "queue %s was deleted under its consumer; made it again", self.queue
                    )
                return

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            self._complaint = text
            log.warning("cannot take messages from queue %s: %s; trying on", self.queue, text)
