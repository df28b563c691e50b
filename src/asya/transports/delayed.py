"""Stores messages whose delay exceeds the broker's limit and publishes them when due.

A delay within `Capabilities.delay_max_s` is the broker's. A longer one goes to a
`DelayedMessageStore`, which is durable: the publish is confirmed once the message is stored. When
it is due, the message is published, and removed from the store after the broker's confirm. A crash
between the two publishes it once more with the same `dedup_id`, and never loses it. While a broker
is away its messages stay in the store.

`DelayingTransport` wraps the transport of a whole mesh, so there is one such store, however many
brokers there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Protocol

from asya.chores import ChoreRunner, Leader
from asya.clock import Clock, SystemClock, seconds_until
from asya.crashpoints import crash
from asya.errors import (
    MessageTooLarge,
    QueueMissing,
    StoreError,
    TransportError,
    TransportUnavailable,
)
from asya.transports.base import (
    Capabilities,
    Consumer,
    Delivery,
    Depth,
    Inspection,
    Receipt,
    Transport,
)

log = logging.getLogger(__name__)

SLEEP_MAX_S: Final = 30.0
"""The longest sleep: the machine's clock may be set, or the machine may have slept."""

BATCH: Final = 32
"""Messages that are read, published and taken off at a time; a body may have megabytes."""

RETRY_FIRST_S: Final = 0.1
RETRY_MOST_S: Final = 10.0
"""How soon the messages of a queue are tried again that its broker did not take."""

CLOSE_S: Final = 5.0
"""How long the end of a batch under way is waited for."""

KNOWN_S: Final = 60.0
"""How long a queue that was seen is believed to exist."""


@dataclass(frozen=True)
class ScheduledMessage:
    """A message in the store; `key` names it there."""

    key: int
    queue: str
    body: bytes
    dedup_id: str | None


class DelayedMessageStore(Protocol):
    """Keeps messages until their time. Each method is durable when it returns.

    All raise `StoreError` when it cannot be done; then nothing was changed.
    """

    async def put(self, queue: str, body: bytes, due_at: datetime, dedup_id: str | None) -> bool:
        """Keep a message. False: one with this queue and `dedup_id` is there already."""
        ...

    async def due(
        self, until: datetime, limit: int, without: Collection[str] = ()
    ) -> Sequence[ScheduledMessage]:
        """Those whose time has come, the longest due first; not of the queues `without`."""
        ...

    async def next_due(self, without: Collection[str] = ()) -> datetime | None:
        """The earliest time of all; not of the queues `without`."""
        ...

    async def remove(self, keys: Sequence[int]) -> None:
        """Forget these; unknown ones are none."""
        ...

    async def counts(self) -> dict[str, int]:
        """How many there are, by queue; queues without any are left out."""
        ...

    async def count(self, queue: str) -> int:
        """How many a queue has."""
        ...

    async def clear(self, queue: str) -> None:
        """Forget all of a queue."""
        ...


@dataclass
class _Held:
    """A queue whose broker did not take a message: not before `until_s`, of the loop."""

    delay_s: float
    until_s: float
    told: bool = False


class DelayingTransport(Transport):
    """A transport without a limit of delays.

    `start` it when the store can be used, and `stop` it before that is closed. In between it sends
    what falls due. Publishing a delay that the broker cannot keep needs the store as well.

    Args:
        inner: Connected and closed with this one.
        store: Where messages wait.
        clock: Wall time.
        leader: Whether this one sends what is due: of those that share a store exactly one does.
            Without one it sends.
    """

    def __init__(
        self,
        inner: Transport,
        store: DelayedMessageStore,
        *,
        clock: Clock | None = None,
        leader: Leader | None = None,
    ) -> None:
        self.inner = inner
        self._store = store
        self._clock = clock or SystemClock()
        self._able: dict[Capabilities, Capabilities] = {}
        self.capabilities = self._without_limit(inner.capabilities)
        self._known: dict[str, float] = {}
        self._used: set[str] = set()
        self._held: dict[str, _Held] = {}
        self._sent: set[int] = set()
        self._turn = asyncio.Lock()
        self.woken = asyncio.Event()
        self._chores = ChoreRunner(self._clock, leader)
        self._chores.add(self, "delayed-messages")
        self._wake_at: datetime | None = None

    # -- what it adds -----------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to send what falls due.

        Raises:
            StoreError: The store cannot be read.
        """
        self._used.update(await self._store.counts())
        self._chores.start()

    async def stop(self) -> None:
        """Send no more; what is under way is finished. Idempotent."""
        await self._chores.close(CLOSE_S)

    def capabilities_of(self, queue: str) -> Capabilities:
        """Those of the queue's broker, with any delay."""
        return self._without_limit(self.inner.capabilities_of(queue))

    def publish(
        self,
        queue: str,
        body: bytes,
        *,
        dedup_id: str | None = None,
        not_before: datetime | None = None,
    ) -> Coroutine[Any, Any, Receipt]:
        """Confirmed by the broker, or by the store where the broker cannot wait so long."""
        if not_before is None or self._broker_keeps(queue, not_before):
            # Nothing of ours stands between: this is the way of every hop.
            return self.inner.publish(queue, body, dedup_id=dedup_id, not_before=not_before)
        return self._keep(queue, body, dedup_id, not_before)

    async def _keep(
        self, queue: str, body: bytes, dedup_id: str | None, not_before: datetime
    ) -> Receipt:
        limit = self.inner.capabilities_of(queue).message_max_bytes
        if len(body) > limit:
            raise MessageTooLarge(f"a message of {len(body)} bytes; the limit is {limit}")
        await self._check_exists(queue)
        try:
            kept = await self._store.put(queue, bytes(body), not_before, dedup_id)
        except StoreError as error:
            raise TransportUnavailable(f"a delayed message cannot be stored: {error}") from error
        self._used.add(queue)
        if self._wake_at is None or not_before < self._wake_at:
            self.woken.set()
        return Receipt(duplicate=not kept)

    async def delete(self, queue: str) -> None:
        """Remove the queue and its messages, delayed ones too."""
        async with self._turn:  # none of them is being sent now
            self._known.pop(queue, None)
            self._held.pop(queue, None)
            await self.inner.delete(queue)
            try:
                await self._store.clear(queue)
            except StoreError as error:
                raise TransportUnavailable(
                    f"the delayed messages of {queue} cannot be removed: {error}"
                ) from error

    async def depth(self, queue: str) -> Depth:
        """With those in the store."""
        found = await self.inner.depth(queue)
        if queue not in self._used and self.inner.capabilities_of(queue).delay_max_s is None:
            return found
        try:
            waiting = await self._store.count(queue)
        except StoreError as error:
            raise TransportUnavailable(
                f"the delayed messages of {queue} cannot be counted: {error}"
            ) from error
        return replace(found, delayed=found.delayed + waiting) if waiting else found

    def _without_limit(self, broker: Capabilities) -> Capabilities:
        able = self._able.get(broker)
        if able is None:
            limit_s = broker.delay_max_s
            counts = broker.counts_delayed or limit_s == 0  # then the store has all of them
            able = replace(broker, delay_max_s=None, counts_delayed=counts)
            self._able[broker] = able
        return able

    def _broker_keeps(self, queue: str, not_before: datetime) -> bool:
        limit_s = self.inner.capabilities_of(queue).delay_max_s
        return limit_s is None or seconds_until(not_before, self._clock.now()) <= limit_s

    async def _check_exists(self, queue: str) -> None:
        """Raise `QueueMissing` for a queue that nobody made; a broker that is away cannot tell."""
        now_s = asyncio.get_running_loop().time()
        if self._known.get(queue, 0.0) > now_s:
            return
        with contextlib.suppress(TransportUnavailable):
            await self.inner.depth(queue)
            self._known[queue] = now_s + KNOWN_S

    # -- sending what is due ----------------------------------------------------------------------

    async def run_once(self, now: datetime) -> float:
        """Send one batch of what is due; see `asya.chores.Chore`."""
        async with self._turn:
            return await self._send_due()

    async def _send_due(self) -> float:
        """Send one batch; gives how long nothing is to be done, in seconds."""
        now_s = asyncio.get_running_loop().time()
        waits = {queue: held.until_s for queue, held in self._held.items() if held.until_s > now_s}
        # Set before the store is asked: what is put meanwhile wakes us.
        self._wake_at = None
        messages = await self._store.due(self._clock.now(), BATCH, waits)
        if messages:
            by_queue: dict[str, list[ScheduledMessage]] = defaultdict(list)
            for message in messages:
                by_queue[message.queue].append(message)
            ends = await asyncio.gather(
                *(self._send(*each) for each in by_queue.items()), return_exceptions=True
            )
            if failed := [end for end in ends if end is not None]:
                raise failed[0]
            return 0.0
        next_at = await self._store.next_due(waits)
        until_s = min(waits.values(), default=float("inf")) - now_s
        if next_at is not None:
            until_s = min(until_s, seconds_until(next_at, self._clock.now()))
        if not self.woken.is_set():
            self._wake_at = next_at
        return min(SLEEP_MAX_S, max(0.001, until_s))

    async def _send(self, queue: str, messages: list[ScheduledMessage]) -> None:
        """Publish messages of one queue in their order, and remove what was confirmed."""
        tries = await asyncio.gather(
            *(self._send_one(message) for message in messages if message.key not in self._sent)
        )
        failed = next((error for error in tries if error is not None), None)
        keys = [message.key for message in messages if message.key in self._sent]
        if keys:
            crash("before-unshelve")
            await self._store.remove(keys)
            self._sent.difference_update(keys)
        self._note(queue, failed)

    async def _send_one(self, message: ScheduledMessage) -> TransportError | None:
        try:
            await self.inner.publish(message.queue, message.body, dedup_id=message.dedup_id)
        except TransportError as error:
            return error
        # If the store cannot remove it now, it must not be published again for that.
        self._sent.add(message.key)
        return None

    def _note(self, queue: str, failed: TransportError | None) -> None:
        held = self._held.get(queue)
        if failed is None:
            if held is not None:
                del self._held[queue]
                if held.told:
                    log.warning("%s: delayed messages are sent again", queue)
            return
        delay_s = RETRY_FIRST_S if held is None else min(held.delay_s * 2, RETRY_MOST_S)
        told = held is not None and held.told
        # A broker that is away was told by its own transport.
        if not told and not isinstance(failed, TransportUnavailable):
            log.warning("%s: delayed messages cannot be sent, and are kept: %s", queue, failed)
            told = True
        if isinstance(failed, QueueMissing):
            self._known.pop(queue, None)
        until_s = asyncio.get_running_loop().time() + delay_s
        self._held[queue] = _Held(delay_s, until_s, told)

    # -- the inner one's --------------------------------------------------------------------------

    @property
    def trouble(self) -> str | None:
        """See `Transport.trouble`."""
        return self.inner.trouble

    def trigger(self, queue: str, target: int) -> dict[str, Any]:
        """See `Transport.trigger`."""
        return self.inner.trigger(queue, target)

    async def inspect(self, queues: Sequence[str]) -> Inspection:
        """See `Transport.inspect`."""
        return await self.inner.inspect(queues)

    async def connect(self) -> None:
        """Connect the inner one; `start` comes when the store is open."""
        await self.inner.connect()

    async def close(self) -> None:
        """Stop, and close the inner one."""
        await self.stop()
        await self.inner.close()

    async def ensure(self, queue: str) -> None:
        """See `Transport.ensure`."""
        await self.inner.ensure(queue)

    async def queues(self) -> list[str]:
        """See `Transport.queues`."""
        return await self.inner.queues()

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, window: int = 1
    ) -> Consumer:
        """See `Transport.consume`."""
        return await self.inner.consume(queue, on_delivery, window=window)
