"""Entries that go to SQS ten at a time: messages, deletions, changes of visibility.

A `Batcher` waits for nothing: what was added in one turn of the event loop goes together in the
next. While `PARTIAL_MAX` requests are under way what comes gathers to larger batches, since the
price of a request is the same, in money and in time, for one entry and for ten.

Called by the acks and the publisher.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Generic, Protocol, TypeVar

from asya.transports.sqs.messages import BATCH_MAX, REQUEST_MAX_BYTES

PARTIAL_MAX: Final = 2
"""Requests of less than ten entries that may be under way for one queue."""
REQUESTS_MAX: Final = 8
"""Requests that may be under way for one queue."""


class Weighed(Protocol):
    """What can be put into a batch."""

    @property
    def weight(self) -> int:
        """What it counts of `REQUEST_MAX_BYTES`."""
        ...


T = TypeVar("T", bound=Weighed)


class Batcher(Generic[T]):
    """Gathers entries, and gives them to `work` in batches, in the order they were added."""

    def __init__(
        self,
        work: Callable[[list[T]], Awaitable[None]],
        *,
        requests_max: int = REQUESTS_MAX,
        partial_max: int = PARTIAL_MAX,
    ) -> None:
        """Prepare; `work` must not raise. With 1 and 1 batches keep their order as well."""
        self._work = work
        self._requests_max = requests_max
        self._partial_max = partial_max
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[T] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._planned = False
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, entry: T) -> None:
        """Let an entry go with the next batch."""
        self._waiting.append(entry)
        self._idle.clear()
        if not self._planned:
            self._planned = True
            self._loop.call_soon(self._go)

    async def drained(self) -> None:
        """Return when everything that was added is dealt with."""
        await self._idle.wait()

    def cancel(self) -> list[T]:
        """Break off what is under way, and forget what waits: returns that."""
        waiting = list(self._waiting)
        self._waiting.clear()
        for task in self._tasks:
            task.cancel()
        if not self._tasks:
            self._idle.set()
        return waiting

    def _go(self) -> None:
        self._planned = False
        while self._waiting:
            count = self._fitting()
            full = count == BATCH_MAX or count < len(self._waiting)
            if len(self._tasks) >= (self._requests_max if full else self._partial_max):
                return
            batch = [self._waiting.popleft() for _ in range(count)]
            task = self._loop.create_task(self._run(batch))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _fitting(self) -> int:
        weight = count = 0
        for entry in self._waiting:
            weight += entry.weight
            if count == BATCH_MAX or (count and weight > REQUEST_MAX_BYTES):
                break
            count += 1
        return count

    async def _run(self, batch: list[T]) -> None:
        await self._work(batch)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            context = {"message": "a batch for SQS failed", "exception": error}
            self._loop.call_exception_handler(context)
        self._go()
        if not self._tasks and not self._waiting:
            self._idle.set()
