"""Blobs go by age: the chore that removes old ones, and keeps those of dead letters.

Steps are bounded and pause in between, so that neither the store nor the event loop is busy with
it for long. A dead letter may be sent again as long as it is kept, so its payload is touched well
before its time is over.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime, timedelta
from typing import Final

from asya.blobs.base import BlobStore
from asya.blobs.claims import reference
from asya.clock import Clock
from asya.envelope import BLOB_HEADER, decode
from asya.errors import BlobMissing, EnvelopeError
from asya.tasks.store.base import DeadLetterQuery, DeadLetterStore

SWEEP_EVERY_S: Final = 3600.0
STEP: Final = 500
"""Blobs that one step of a sweep looks at."""

PAUSE_S: Final = 0.05
"""Between two steps."""

PAGE: Final = 100
"""Dead letters read at a time."""

_NAME: Final = BLOB_HEADER.encode()


class BlobRetention:
    """The chore that removes old blobs (see `asya.chores`).

    Args:
        blobs: The store.
        clock: The time of day.
        kept_s: How long a blob is kept that nobody stores or reads, in seconds.
    """

    def __init__(self, blobs: BlobStore, clock: Clock, kept_s: float) -> None:
        self.woken = asyncio.Event()
        self._blobs = blobs
        self._clock = clock
        self._kept_s = kept_s

    async def run_once(self, now: datetime) -> float:
        """Remove what is old; see `asya.chores.Chore`."""
        await self.sweep()
        return SWEEP_EVERY_S

    async def sweep(self) -> int:
        """One round: remove what is old. How many were removed."""
        before = self._clock.now() - timedelta(seconds=self._kept_s)
        removed = 0
        while True:
            swept = await self._blobs.sweep(before, STEP)
            removed += swept.removed
            if swept.done:
                return removed
            await asyncio.sleep(PAUSE_S)


class DeadLetterBlobs:
    """The chore that keeps the blobs of dead letters (see `asya.chores`).

    Args:
        blobs: The store.
        letters: The dead letters.
        kept_s: How long a blob is kept that nobody stores or reads, in seconds.
    """

    def __init__(self, blobs: BlobStore, letters: DeadLetterStore, kept_s: float) -> None:
        self.woken = asyncio.Event()
        self._blobs = blobs
        self._letters = letters
        self._kept_s = kept_s
        self._began: datetime | None = None
        self._after = 0
        self._kept = 0

    async def run_once(self, now: datetime) -> float:
        """Touch the blobs well before their time is over; see `asya.chores.Chore`."""
        self._began = self._began or now
        await self.keep()
        # After an outage, the letters that were read before it may be due again already.
        due_at, self._began = self._began + timedelta(seconds=self._kept_s / 4), None
        return max(0.0, (due_at - now).total_seconds())

    async def keep(self) -> int:
        """Begin the age of all dead letters' payloads anew. How many there are.

        After a failure the next call goes on with the page that failed.
        """
        while True:
            query = DeadLetterQuery(after=self._after, newest_first=False, limit=PAGE)
            page = await self._letters.page(query)
            kept = 0
            for row in page:
                letter = await self._letters.get(row.id)
                kept += letter is not None and await self._keep_one(letter.body)
            self._kept += kept
            if len(page) < PAGE:
                all_kept, self._after, self._kept = self._kept, 0, 0
                return all_kept
            self._after = page[-1].key
            await asyncio.sleep(PAUSE_S)

    async def _keep_one(self, body: bytes) -> bool:
        if _NAME not in body:
            return False
        with contextlib.suppress(BlobMissing, EnvelopeError):
            ref = reference(decode(body))
            if ref is not None:
                await self._blobs.touch(ref)
                return True
        return False
