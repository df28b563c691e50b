"""Consuming one SQS queue by long polls.

Polls ask for no more than there are free places, ten at most, so a window is never overrun. One
poll is under way while the queue is short; a poll that comes back full is a sign of a backlog and
lets more run side by side. A poll is never broken off while anybody could still read its answer,
since what SQS put into it would be invisible until its lease ends. A consumer that is closed lets
its last polls come back, and gives what they bring to the others.

Called by `asya.transports.sqs.transport`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from asya.clock import Clock
from asya.errors import QueueMissing, TransportError, TransportUnavailable
from asya.transports.backoff import Backoff
from asya.transports.base import Consumer, Delivery
from asya.transports.intake import OVERFLOW_S, Intake, Limits
from asya.transports.leases import LeasedDelivery
from asya.transports.sqs.acks import Acks, Change
from asya.transports.sqs.connection import Connection, log
from asya.transports.sqs.messages import ATTRIBUTES, ENCODING, attribute, decode, due

POLLS_MAX: Final = 8
"""Long polls of one consumer that run side by side."""
REFILL_S: Final = 0.005
HOLD_MAX_S: Final = 12 * 3600
"""However often it is extended, SQS takes a message back after this time."""
LATE_S: Final = 1.0
"""How much longer than it may wait a poll may take without being late, in seconds."""
RETRY_FIRST_S: Final = 0.1
RETRY_MAX_S: Final = 5.0
REPAIR_AGAIN_S: Final = 1.0
"""SQS may name a queue that it no longer has for up to a minute: ask calmly."""


class Owner(Protocol):
    """The transport, as its consumers need it."""

    clock: Clock

    async def url(self, queue: str) -> str:
        """The queue's URL."""
        ...

    async def send_on(self, queue: str, message: dict[str, Any], moment: datetime) -> None:
        """Publish a message that came before its time again; returns when confirmed."""
        ...

    async def repair(self, queue: str) -> bool:
        """Make the queue if it is gone; tells whether it was."""
        ...

    def forget(self, consumer: PollConsumer) -> None:
        """It is closed."""
        ...


@dataclass(frozen=True, slots=True)
class PollOptions:
    """How a queue is polled.

    Attributes:
        lease_s: What SQS is asked for, in whole seconds.
        poll_s: How long a poll waits for messages, in whole seconds.
        batch_max: How many messages a poll may bring.
    """

    lease_s: int
    poll_s: int
    batch_max: int

    @property
    def margin_s(self) -> float:
        """How much earlier than at SQS a lease ends here, in seconds."""
        return min(2.0, self.lease_s / 10)


class SqsDelivery(LeasedDelivery["PollConsumer"]):
    """A message that SQS leased to us."""

    __slots__ = ("_extending", "_given_back", "handle", "last")

    def __init__(
        self, consumer: PollConsumer, body: bytes, count: int, handle: str, begun: float
    ) -> None:
        options = consumer.options
        super().__init__(consumer, body, count, begun + options.lease_s - options.margin_s)
        self.handle = handle
        self.last = begun + HOLD_MAX_S - options.margin_s
        self._extending = False
        self._given_back: Change | None = None

    def extend(self) -> None:
        """Begin the lease anew; it counts from when SQS has said so."""
        if self._extending or not self.held:
            return
        consumer = self._holder
        began = consumer.now()
        lease_s = min(consumer.options.lease_s, int(self.last - began))
        if lease_s < 1:
            return
        self._extending = True

        def done(well: bool) -> None:
            self._extending = False
            if well:
                self.until = min(began + lease_s - consumer.options.margin_s, self.last)
            elif not self._settled:
                self.until = min(self.until, consumer.now())
            if self._given_back is not None:
                consumer.acks.add(self._given_back)
                self._given_back = None

        consumer.acks.add(Change(self.handle, lease_s, self.until, done))

    def _send_ack(self) -> None:
        self._holder.acks.add(Change(self.handle, None, self.until))

    def _send_nack(self) -> None:
        change = Change(self.handle, 0, self.until)
        if self._extending:
            # An extension that arrives after it would hide the message again.
            self._given_back = change
        else:
            self._holder.acks.add(change)


@dataclass(slots=True, eq=False)
class _Poll:
    asked: int
    began: float


class _Pause:
    """The wait before polls go on after an error."""

    __slots__ = ("delays", "over", "repaired_at")

    def __init__(self) -> None:
        self.delays = Backoff(RETRY_FIRST_S, RETRY_MAX_S)
        self.over = asyncio.Event()
        self.repaired_at = float("-inf")


class PollConsumer(Consumer):
    """Runs until `close`, over every outage and loss of the queue.

    Attributes:
        queue: Its name.
        options: How it is polled.
        now: The event loop's clock.
        acks: Where settlements go.
        polls: The tasks that may still bring messages.
    """

    def __init__(
        self,
        connection: Connection,
        owner: Owner,
        acks: Acks,
        *,
        queue: str,
        on_delivery: Callable[[Delivery], None],
        window: int,
        options: PollOptions,
    ) -> None:
        """Prepare; `start` begins."""
        self.queue = queue
        self.options = options
        self.acks = acks
        self.now = asyncio.get_running_loop().time
        self.polls: dict[asyncio.Task[None], _Poll] = {}
        self._connection = connection
        self._owner = owner
        self._intake: Intake[SqsDelivery] = Intake(
            queue,
            log,
            window=window,
            limits=Limits(REFILL_S, min(OVERFLOW_S, options.lease_s / 3), options.batch_max),
            on_delivery=on_delivery,
            give_back=SqsDelivery.give_back,
            ask=self._poll_soon,
        )
        self._side_by_side = 1
        self._hops: set[asyncio.Task[None]] = set()
        self._poller: asyncio.Handle | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._pause = _Pause()
        self._closed = False

    @property
    def window(self) -> int:
        """The current window."""
        return self._intake.prefetch.window

    def set_window(self, window: int) -> None:
        """Change the window.

        What a poll brings that no longer fits waits here for a place. Only if none comes free in
        `OVERFLOW_S`, or the window is 0, is it given back, since that counts as a delivery.
        """
        self._intake.set_window(window)
        if window == 0:
            self._intake.return_overflow()
        self._poll()

    def start(self) -> None:
        """Begin to poll."""
        self._intake.paused = False
        self._poll()

    async def close(self) -> None:
        """Receive no more messages; see `Consumer.close`.

        A poll that waits at SQS cannot be called back: what it brings later is given back then.
        """
        if self._closed:
            return
        self._closed = True
        self._intake.pause()
        self._intake.return_overflow()
        for handle in (self._poller, self._recovery):
            if handle is not None:
                handle.cancel()
        if self._recovery is not None:
            await asyncio.gather(self._recovery, return_exceptions=True)
        self._owner.forget(self)

    def drop(self) -> None:
        """Vanish without a word: for tests of crashes, and for polls that nobody waits for."""
        self._closed = True
        self._intake.pause()
        self._intake.lose()
        for handle in (self._poller, self._recovery):
            if handle is not None:
                handle.cancel()
        for task in (*self.polls, *self._hops):
            task.cancel()

    def reconnected(self) -> None:
        """Ask anew: polls from before the outage may never come back."""
        for poll in self.polls.values():
            if poll.began <= self._connection.outage.lost_at:
                self._intake.prefetch.requested -= poll.asked
                poll.asked = 0
        self._pause.delays.reset()
        self._pause.over.set()
        self._poll()

    def settled(self, delivery: SqsDelivery) -> None:
        """One delivery was settled: its place is free."""
        self._intake.settled()

    def _poll_soon(self, free: int) -> None:
        """At the end of this turn of the loop: what else it frees goes into the same poll."""
        if self._poller is None:
            self._poller = asyncio.get_running_loop().call_soon(self._poll)

    def _poll(self) -> None:
        if self._poller is not None:
            self._poller.cancel()
            self._poller = None
        if self._intake.paused or self._recovery is not None:
            return
        under_way = sum(1 for poll in self.polls.values() if poll.asked)
        while (free := self._intake.prefetch.free) > 0 and under_way < self._side_by_side:
            self._start_poll(min(free, self.options.batch_max))
            under_way += 1

    def _start_poll(self, asked: int) -> None:
        poll = _Poll(asked, self.now())
        self._intake.prefetch.requested += asked
        task = asyncio.get_running_loop().create_task(self._run(poll))
        self.polls[task] = poll
        task.add_done_callback(self._poll_ended)

    def _poll_ended(self, task: asyncio.Task[None]) -> None:
        poll = self.polls.pop(task)
        self._intake.prefetch.requested -= poll.asked
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a poll of queue %s failed", self.queue, exc_info=error)
        self._poll()

    async def _run(self, poll: _Poll) -> None:
        asked = poll.asked
        try:
            messages = await self._receive(poll)
        except TransportError as error:
            if self._recovery is None and not self._closed:
                self._recovery = asyncio.get_running_loop().create_task(self._recover(error))
            return
        self._pause.delays.reset()
        self._intake.recovered()
        if len(messages) == asked == self.options.batch_max:
            self._side_by_side = min(self._side_by_side + 1, POLLS_MAX)
        elif not messages:
            self._side_by_side = max(1, self._side_by_side // 2)
        self._intake.prefetch.requested -= poll.asked
        poll.asked = 0
        # Handed out no later than the poll could wait: an answer that was held up on the way
        # brings leases that are partly used up.
        begun = min(self.now(), poll.began + self.options.poll_s + LATE_S)
        for message in messages:
            self._take_in(message, begun)

    async def _receive(self, poll: _Poll) -> list[dict[str, Any]]:
        options = self.options
        url = await self._owner.url(self.queue)
        poll.began = self.now()
        answer = await self._connection.call(
            "receive_message",
            queue=self.queue,
            within_s=options.poll_s + self._connection.timeout_s,
            QueueUrl=url,
            MaxNumberOfMessages=poll.asked or 1,
            WaitTimeSeconds=options.poll_s,
            VisibilityTimeout=options.lease_s,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
            MessageAttributeNames=ATTRIBUTES,
        )
        found: list[dict[str, Any]] = answer.get("Messages", [])
        return found

    def _take_in(self, message: dict[str, Any], begun: float) -> None:
        body = decode(message["Body"], attribute(message, ENCODING))
        count = int(message.get("Attributes", {}).get("ApproximateReceiveCount", 1))
        delivery = SqsDelivery(self, body, count, message["ReceiptHandle"], begun)
        if self._closed:
            delivery.give_back()
        elif not delivery.held:
            return  # by now it is somebody else's
        elif (moment := due(message)) is not None and moment > self._owner.clock.now():
            self._hop_on(delivery, message, moment)
        elif self.window == 0 and not self._intake.prefetch.has_room:
            delivery.give_back()
        else:
            self._intake.receive(delivery)

    def _hop_on(self, delivery: SqsDelivery, message: dict[str, Any], moment: datetime) -> None:
        # It needs no place of the receiver, but a request must not bring many of them at a time.
        self._intake.prefetch.requested += 1
        task = asyncio.get_running_loop().create_task(self._hop(delivery, message, moment))
        self._hops.add(task)
        task.add_done_callback(self._hop_ended)

    async def _hop(self, delivery: SqsDelivery, message: dict[str, Any], moment: datetime) -> None:
        """Send on what came before its time; without a confirm it comes again after its lease."""
        with contextlib.suppress(TransportError):
            await self._owner.send_on(self.queue, message, moment)
            self.acks.add(Change(delivery.handle, None, delivery.until))

    def _hop_ended(self, task: asyncio.Task[None]) -> None:
        self._hops.discard(task)
        self._intake.prefetch.requested -= 1
        self._poll()

    async def _recover(self, error: TransportError) -> None:
        """Wait, and make the queue if it is gone; then polls may go on."""
        pause = self._pause
        pause.over.clear()
        try:
            if isinstance(error, QueueMissing):
                await self._repair()
                return
            # An outage is told by the connection.
            if not isinstance(error, TransportUnavailable):
                self._intake.warn(str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause.delays.next()):
                    await pause.over.wait()
        finally:
            self._recovery = None
            if not self._closed:
                self._poll_soon(0)

    async def _repair(self) -> None:
        delays, told = Backoff(RETRY_FIRST_S, RETRY_MAX_S), False
        await asyncio.sleep(max(0.0, self._pause.repaired_at + REPAIR_AGAIN_S - self.now()))
        self._pause.repaired_at = self.now()
        while True:
            try:
                made = await self._owner.repair(self.queue)
            except TransportError as error:
                if not told and self._connection.trouble is None:
                    told = True
                    log.warning(
                        "queue %s was deleted while being consumed; recreating it as soon as "
                        "SQS allows it (%s)",
                        self.queue,
                        error,
                    )
                await asyncio.sleep(delays.next())
            else:
                if told:
                    log.warning("queue %s exists again", self.queue)
                elif made:
                    log.warning(
                        "queue %s was deleted while being consumed; recreated it", self.queue
                    )
                return
