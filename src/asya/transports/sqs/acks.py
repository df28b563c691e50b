"""What becomes of deliveries of one queue: deleted, or visible again after a time.

What fails is told again while the lease lasts, and then dropped: the message is somebody else's.
Called by `asya.transports.sqs.consumer`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from asya.errors import QueueMissing, TransportError
from asya.transports.backoff import Backoff
from asya.transports.sqs.batch import Batcher
from asya.transports.sqs.connection import Connection

RETRY_FIRST_S: Final = 0.1
RETRY_MAX_S: Final = 2.0


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
    delays: Backoff | None = None

    def close(self, *, well: bool) -> None:
        """Tell what became of it, once."""
        done, self.done = self.done, None
        if done is not None:
            done(well)


class Acks:
    """Settles deliveries of one queue; what fails is tried again until it is void."""

    def __init__(
        self, connection: Connection, queue: str, url_of: Callable[[str], Awaitable[str]]
    ) -> None:
        self._connection = connection
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
        _close(void, well=False)
        if not live:
            return
        entries = [_entry(str(index), change) for index, change in enumerate(live)]
        try:
            url = await self._url_of(self._queue)
            answer = await self._connection.call(
                operation, queue=self._queue, QueueUrl=url, Entries=entries
            )
        except QueueMissing:
            _close(live, well=False)
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
                change.close(well=True)
            elif str(index) in refused:
                change.close(well=False)
            else:
                again.append(change)
        self._try_again(again)

    def _try_again(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.delays is None:
                change.delays = Backoff(RETRY_FIRST_S, RETRY_MAX_S)
            timer = self._loop.call_later(change.delays.next(), self._add_again, change)
            self._again[change] = timer

    def _add_again(self, change: Change) -> None:
        self._again.pop(change, None)
        self.add(change)


def _entry(number: str, change: Change) -> dict[str, Any]:
    entry: dict[str, Any] = {"Id": number, "ReceiptHandle": change.handle}
    if change.visible_s is not None:
        entry["VisibilityTimeout"] = change.visible_s
    return entry


def _close(changes: Sequence[Change], *, well: bool) -> None:
    for change in changes:
        change.close(well=well)
