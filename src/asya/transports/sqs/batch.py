"""Entries that go to SQS ten at a time: messages, deletions, changes of visibility.

A `Batcher` waits for nothing: what was added in one turn of the event loop goes together in the
next. While `PARTIAL_MAX` requests are under way what comes gathers to larger batches, since the
price of a request is the same, in money and in time, for one entry and for ten. A `Settler` keeps
the settlements of one queue's deliveries, and tries on while their leases last.

Called by `asya.transports.sqs.transport` and `sqs_take`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from asya.errors import QueueMissing, TransportError
from asya.transports.sqs.connection import Link
from asya.transports.sqs.messages import BATCH_MAX, REQUEST_MAX_BYTES

PARTIAL_MAX = 2
"""Requests of less than ten entries that may be under way for one queue."""
REQUESTS_MAX = 8
"""Requests that may be under way for one queue."""
RETRY_FIRST_S = 0.1
RETRY_MAX_S = 2.0


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


@dataclass(slots=True, eq=False)
class Change:
    """What is to become of a message that we hold.

    Attributes:
        handle: The receipt that SQS gave.
        visible_s: In how many seconds others may have it; None to delete it.
        void_at: From when on it is no longer ours to change, on the loop's clock.
        done: Called with whether SQS did it.
    """

    handle: str
    visible_s: int | None
    void_at: float
    done: Callable[[bool], None] | None = None
    weight: int = 1
    delay_s: float = RETRY_FIRST_S

    def finish(self, *, well: bool) -> None:
        """Tell what became of it, once."""
        done, self.done = self.done, None
        if done is not None:
            done(well)


class Settler:
    """Settles deliveries of one queue; what fails is tried again until it is void."""

    def __init__(self, link: Link, queue: str, url_of: Callable[[str], Awaitable[str]]) -> None:
        self._link = link
        self._queue = queue
        self._url_of = url_of
        self._loop = asyncio.get_running_loop()
        self._deletions: Batcher[Change] = Batcher(self._delete)
        self._changes: Batcher[Change] = Batcher(self._change)
        self._again: dict[Change, asyncio.TimerHandle] = {}

    def add(self, change: Change) -> None:
        """Let a change go with the next batch."""
        (self._deletions if change.visible_s is None else self._changes).add(change)

    async def drained(self) -> None:
        """Return when nothing is left to be told; what failed is tried once more, now."""
        while True:
            for change, timer in list(self._again.items()):
                timer.cancel()
                del self._again[change]
                self.add(change)
            await asyncio.gather(self._deletions.drained(), self._changes.drained())
            if not self._again:
                return
            await asyncio.sleep(RETRY_FIRST_S)

    def cancel(self) -> None:
        """Give up at once."""
        for timer in self._again.values():
            timer.cancel()
        self._again.clear()
        self._deletions.cancel()
        self._changes.cancel()

    async def _delete(self, batch: list[Change]) -> None:
        await self._settle("delete_message_batch", batch)

    async def _change(self, batch: list[Change]) -> None:
        await self._settle("change_message_visibility_batch", batch)

    async def _settle(self, operation: str, batch: list[Change]) -> None:
        now = self._loop.time()
        void = [change for change in batch if change.void_at <= now]
        live = [change for change in batch if change.void_at > now]
        _finish(void, well=False)
        if not live:
            return
        entries = [_entry(str(index), change) for index, change in enumerate(live)]
        try:
            url = await self._url_of(self._queue)
            answer = await self._link.call(
                operation, queue=self._queue, QueueUrl=url, Entries=entries
            )
        except QueueMissing:
            _finish(live, well=False)
        except TransportError:
            # Also when it is refused: permissions that are taken away may be given back in time.
            self._try_again(live)
        else:
            self._sort(live, answer)

    def _sort(self, live: Sequence[Change], answer: dict[str, Any]) -> None:
        well = {done["Id"] for done in answer.get("Successful", [])}
        refused = {one["Id"] for one in answer.get("Failed", []) if one.get("SenderFault")}
        again = []
        for index, change in enumerate(live):
            if str(index) in well:
                change.finish(well=True)
            elif str(index) in refused:
                change.finish(well=False)
            else:
                again.append(change)
        self._try_again(again)

    def _try_again(self, changes: Sequence[Change]) -> None:
        for change in changes:
            timer = self._loop.call_later(change.delay_s, self._add_again, change)
            self._again[change] = timer
            change.delay_s = min(change.delay_s * 2, RETRY_MAX_S)

    def _add_again(self, change: Change) -> None:
        self._again.pop(change, None)
        self.add(change)


def _entry(number: str, change: Change) -> dict[str, Any]:
    entry: dict[str, Any] = {"Id": number, "ReceiptHandle": change.handle}
    if change.visible_s is not None:
        entry["VisibilityTimeout"] = change.visible_s
    return entry


def _finish(changes: Sequence[Change], *, well: bool) -> None:
    for change in changes:
        change.finish(well=well)
