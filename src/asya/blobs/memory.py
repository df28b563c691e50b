"""Blobs in memory, for tests: the same promises as the others, with a clock that is passed in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from asya.blobs.base import CHUNK_BYTES, BlobRef, BlobStore, Swept, corrupt, digest_of, missing
from asya.clock import Clock, SystemClock
from asya.errors import BlobUnavailable


class MemoryBlobs(BlobStore):
    """Keeps blobs until the process ends.

    Attributes:
        blobs: Bytes by digest; a test may damage or remove them.
        written: Blobs written so far; one that was there already is not written.
        outage: While it is set, every call raises `BlobUnavailable` with this text.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.name = "memory"
        self.blobs: dict[str, bytes] = {}
        self.written = 0
        self.outage: str | None = None
        self._times: dict[str, datetime] = {}
        self._clock = clock or SystemClock()
        self._round: list[str] = []

    async def open(self) -> None:
        """Nothing to make."""

    async def close(self) -> None:
        """Nothing is held open."""

    async def put(self, body: bytes | memoryview) -> BlobRef:
        """See `BlobStore`."""
        self._check()
        digest = digest_of(body)
        if len(self.blobs.get(digest, b"")) != len(body) or digest not in self.blobs:
            self.blobs[digest] = bytes(body)
            self.written += 1
        self._times[digest] = self._clock.now()
        return BlobRef(digest, len(body), self.name)

    async def get(self, ref: BlobRef) -> bytes:
        """See `BlobStore`."""
        await self.touch(ref)
        body = self.blobs[ref.sha256]
        if len(body) != ref.size or digest_of(body) != ref.sha256:
            raise corrupt(ref, self, f"it has {len(body)} bytes with the SHA-256 {digest_of(body)}")
        return body

    async def stream(self, ref: BlobRef) -> AsyncIterator[bytes]:
        """See `BlobStore`."""
        body = await self.get(ref)
        for start in range(0, len(body), CHUNK_BYTES):
            yield body[start : start + CHUNK_BYTES]

    async def touch(self, ref: BlobRef) -> None:
        """See `BlobStore`."""
        self._check()
        if ref.sha256 not in self.blobs:
            raise missing(ref, self)
        self._times[ref.sha256] = self._clock.now()

    async def sweep(self, before: datetime, limit: int) -> Swept:
        """See `BlobStore`."""
        self._check()
        if not self._round:
            self._round = sorted(self.blobs)
        step, self._round = self._round[:limit], self._round[limit:]
        old = [digest for digest in step if self._times[digest] < before]
        for digest in old:
            del self.blobs[digest], self._times[digest]
        return Swept(len(old), not self._round)

    def _check(self) -> None:
        if self.outage is not None:
            raise BlobUnavailable(self.outage)
