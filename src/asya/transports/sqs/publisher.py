"""Publishing to SQS: messages of one queue go together, and each has its own outcome.

Called by `asya.transports.sqs.transport`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from asya.errors import MessageTooLarge, QueueMissing, TransportError, TransportUnavailable
from asya.transports.confirms import fail
from asya.transports.sqs.batch import Batcher
from asya.transports.sqs.connection import Connection, Refused


@dataclass(slots=True, eq=False)
class _Outgoing:
    """A message on its way, and who waits for its confirm."""

    entry: dict[str, Any]
    weight: int
    confirmed: asyncio.Future[None]


class Publisher:
    """What is on its way to the queues."""

    def __init__(
        self,
        connection: Connection,
        url_of: Callable[[str], Awaitable[str]],
        on_missing: Callable[[str], object],
        *,
        in_order: bool,
    ) -> None:
        """Prepare.

        Args:
            connection: SQS.
            url_of: Tells a queue's URL.
            on_missing: Told that a queue does not exist.
            in_order: One batch follows the other, for the order within a FIFO group.
        """
        self._connection = connection
        self._url_of = url_of
        self._on_missing = on_missing
        self._limits = {"requests_max": 1, "partial_max": 1} if in_order else {}
        self._batchers: dict[str, Batcher[_Outgoing]] = {}

    async def drained(self) -> None:
        """Return when everything is sent."""
        await asyncio.gather(*(each.drained() for each in self._batchers.values()))

    def close(self) -> None:
        """Send no more; fail what waits."""
        for each in self._batchers.values():
            _fail(each.cancel(), self._closed_error())

    async def send(self, queue: str, weight: int, entry: dict[str, Any]) -> None:
        """Send a message with the next batch; returns when SQS has confirmed it.

        Args:
            queue: Its name.
            weight: What the entry counts of a request's limit, in bytes.
            entry: Of `SendMessageBatch`, without its id.

        Raises:
            QueueMissing: There is no such queue.
            MessageTooLarge: The queue accepts less than SQS does.
            TransportUnavailable: Unconfirmed.
            TransportError: SQS refuses it.
        """
        if self._connection.closed:
            raise self._closed_error()
        confirmed = asyncio.get_running_loop().create_future()
        self._batcher(queue).add(_Outgoing(entry, weight, confirmed))
        try:
            async with asyncio.timeout(self._connection.timeout_s):
                await confirmed
        except TimeoutError as error:
            raise TransportUnavailable(
                f"{self._connection.where} did not confirm within {self._connection.timeout_s:g} s"
            ) from error

    async def _send_batch(self, queue: str, batch: list[_Outgoing]) -> None:
        live = [one for one in batch if not one.confirmed.done()]
        if not live:
            return
        entries = [{"Id": str(number), **one.entry} for number, one in enumerate(live)]
        try:
            url = await self._url_of(queue)
            answer = await self._connection.call(
                "send_message_batch", queue=queue, QueueUrl=url, Entries=entries
            )
        except asyncio.CancelledError:
            _fail(live, self._closed_error())
            raise
        except Refused as error:
            if len(live) > 1:
                # One of them may be what is wrong; the others must not suffer for it.
                for one in live:
                    await self._send_batch(queue, [one])
            else:
                _fail(live, _size_or(error))
        except TransportError as error:
            if isinstance(error, QueueMissing):
                self._on_missing(queue)
            _fail(live, error)
        else:
            self._confirm(queue, live, answer)

    def _confirm(self, queue: str, live: list[_Outgoing], answer: dict[str, Any]) -> None:
        well = {done["Id"] for done in answer.get("Successful", [])}
        failed = {one["Id"]: one for one in answer.get("Failed", [])}
        for number, one in enumerate(live):
            if one.confirmed.done():
                continue
            if str(number) in well:
                one.confirmed.set_result(None)
            elif (fault := failed.get(str(number))) is not None:
                error = self._connection.entry_error(fault, queue)
                one.confirmed.set_exception(
                    _size_or(error) if isinstance(error, Refused) else error
                )
            else:
                text = f"{self._connection.where} said nothing of a message for {queue}"
                one.confirmed.set_exception(TransportUnavailable(text))

    def _batcher(self, queue: str) -> Batcher[_Outgoing]:
        batcher = self._batchers.get(queue)
        if batcher is None:

            async def work(batch: list[_Outgoing]) -> None:
                await self._send_batch(queue, batch)

            batcher = self._batchers[queue] = Batcher(work, **self._limits)
        return batcher

    def _closed_error(self) -> TransportUnavailable:
        return TransportUnavailable(f"the connection to {self._connection.where} was closed")


def _size_or(error: TransportError) -> TransportError:
    """`MessageTooLarge` where that is what SQS meant: a queue may take less than SQS does."""
    text = str(error)
    if "shorter than" in text or "longer than" in text or "BatchRequestTooLong" in text:
        return MessageTooLarge(text)
    return error


def _fail(live: Sequence[_Outgoing], error: TransportError) -> None:
    if isinstance(error, Refused):
        error = TransportError(str(error), code=error.code)
    fail((one.confirmed for one in live), error)
