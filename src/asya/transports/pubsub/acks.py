"""Acks, returns and extensions of messages that were pulled from one subscription.

Rules of this file: those of one turn of the loop go together, one request of each kind at a time;
what comes meanwhile goes with the next. One that failed is sent again while the lease lasts, and
then dropped: the message is somebody else's, and Pub/Sub accepts a late one without an error.

Called by `asya.transports.pubsub.consumer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from asya.errors import TransportError, TransportUnavailable
from asya.transports.backoff import Backoff
from asya.transports.pubsub.connection import Connection, chunks

log = logging.getLogger("asya.transports.pubsub")

IDS_MAX: Final = 1000
"""Of one request; Pub/Sub takes 512 KiB of them, and one has about 200 bytes."""
AGAIN_FIRST_S: Final = 0.05
AGAIN_MAX_S: Final = 1.0
ACK: Final = -1
"""The key of what is done; other keys are seconds until the lease ends, 0 for now."""

_Ack = tuple[str, float]


class Acks:
    """Tells Pub/Sub what becomes of messages."""

    def __init__(self, connection: Connection, subscription: str) -> None:
        self._connection = connection
        self._subscription = subscription
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, list[_Ack]] = {}
        self._flusher: asyncio.Task[None] | None = None

    def ack(self, ack_id: str, void_at: float) -> None:
        """It is done; not worth telling once the loop's time has passed `void_at`."""
        self._add(ACK, ack_id, void_at)

    def hold(self, ack_id: str, seconds: int, void_at: float) -> None:
        """Its lease ends in so many seconds from now; 0 gives it back."""
        self._add(seconds, ack_id, void_at)

    async def drain(self, timeout_s: float) -> None:
        """Return when everything was told, or after this time."""
        if self._flusher is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await asyncio.shield(self._flusher)

    def stop(self) -> None:
        """Tell nothing more."""
        if self._flusher is not None:
            self._flusher.cancel()

    async def lease(self, ack_ids: list[str], seconds: int) -> None:
        """Set the lease of what has just come, before anybody sees it.

        Raises:
            TransportError: As `Connection.call`; what was not told has the subscription's own lease.
        """
        await self._modify(ack_ids, seconds)

    def _add(self, key: int, ack_id: str, void_at: float) -> None:
        self._waiting.setdefault(key, []).append((ack_id, void_at))
        if self._flusher is None:
            # a task begins in the loop's next turn: what else this turn settles goes along
            self._flusher = self._loop.create_task(self._flush())

    async def _flush(self) -> None:
        delays = Backoff(AGAIN_FIRST_S, AGAIN_MAX_S)
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, {}
                tell = [self._tell(key, acks) for key, acks in waiting.items()]
                if all(await asyncio.gather(*tell)):
                    delays.reset()
                else:
                    await asyncio.sleep(delays.next())
        finally:
            self._flusher = None

    async def _tell(self, key: int, acks: list[_Ack]) -> bool:
        """Tell acks of one kind; False where some wait for another time."""
        told = True
        for some in chunks(acks, IDS_MAX):
            now = self._loop.time()
            current = [one for one in some if one[1] > now]
            ack_ids = [ack_id for ack_id, _ in current]
            try:
                if not ack_ids:
                    continue
                if key == ACK:
                    await self._acknowledge(ack_ids)
                else:
                    await self._modify(ack_ids, key)
            except TransportUnavailable:
                self._waiting.setdefault(key, []).extend(current)
                told = False
            except TransportError as error:
                log.debug("%d acks are void: %s", len(ack_ids), error)
        return told

    async def _acknowledge(self, ack_ids: list[str]) -> None:
        name = self._subscription
        request = self._connection.request("Acknowledge", subscription=name, ack_ids=ack_ids)
        await self._connection.call("Acknowledge", request, name)

    async def _modify(self, ack_ids: list[str], seconds: int) -> None:
        name = self._subscription
        for some in chunks(ack_ids, IDS_MAX):
            request = self._connection.request(
                "ModifyAckDeadline", subscription=name, ack_ids=some, ack_deadline_seconds=seconds
            )
            await self._connection.call("ModifyAckDeadline", request, name)
