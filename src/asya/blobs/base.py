"""The seam for big payloads: a store of blobs, named by what is in them.

A payload over the limit does not travel in messages; it is put here, and the message carries a
`BlobRef` (the claim check). The same bytes are one blob however often they are put, so twenty
branches of a fan-out share one. Blobs go by age, never at an ack: duplicates and dead letters still
need them. One file per kind of store; every one passes `asya.testing.blob_contract`.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from asya.errors import BlobMissing

CHUNK_BYTES: Final = 1024 * 1024
"""How much is read at a time where a blob is streamed."""

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")

Sha256 = Annotated[str, Meta(pattern=rf"^{_DIGEST.pattern}$", description="SHA-256, hex")]
"""The pattern is a check, too: a reference from outside must not name another file."""


class BlobRef(msgspec.Struct, frozen=True):
    """A blob, as the header `x-asya-blob` names it: digest, size in bytes, the store's name."""

    sha256: Sha256
    size: Annotated[int, Meta(ge=0, description="Bytes")]
    store: Annotated[str, Meta(description="Name of the store that it was put into")]


class Swept(msgspec.Struct, frozen=True):
    """What one step of a sweep did: blobs removed, and whether the round is over."""

    removed: int
    done: bool


class BlobStore(ABC):
    """A place for blobs. Safe for one event loop; nothing here blocks it.

    Methods raise `BlobUnavailable` where the store cannot be asked or its disk is full: then
    nothing was changed, and the same call may be made again.

    Attributes:
        name: What references call it. For people: it finds no blob by it.
    """

    name: str

    @abstractmethod
    async def open(self) -> None:
        """Make sure that blobs can be put and got.

        Raises:
            UsageError: They cannot; the text says why and what to do.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of connections. Idempotent."""

    @abstractmethod
    async def put(self, body: bytes | memoryview) -> BlobRef:
        """Keep these bytes; when this returns a death of this process loses nothing.

        Where they are there already, their age begins anew and nothing is written.
        """

    @abstractmethod
    async def get(self, ref: BlobRef) -> bytes:
        """The bytes, known to be those that were put. Their age begins anew.

        Raises:
            BlobMissing: There is no such blob, or its bytes are others than were put.
        """

    @abstractmethod
    def stream(self, ref: BlobRef) -> AsyncIterator[bytes]:
        """The same in pieces of at most `CHUNK_BYTES`, for what need not be in memory as a whole.

        Raises:
            BlobMissing: As `get`; before the first piece where there is no blob of this size,
                after the last one where the bytes are others than were put.
        """

    @abstractmethod
    async def touch(self, ref: BlobRef) -> None:
        """Begin its age anew without reading it.

        Raises:
            BlobMissing: There is no such blob.
        """

    @abstractmethod
    async def sweep(self, before: datetime, limit: int) -> Swept:
        """Look at `limit` blobs or so, and remove those last put, got or touched before a time.

        A step goes on where the last one stopped; the one after `done` begins a new round.
        """


def digest_of(body: bytes | memoryview) -> str:
    """The SHA-256 of bytes. Call it in a thread for big ones; it lets others run."""
    return hashlib.sha256(body).hexdigest()


def missing(ref: BlobRef, store: BlobStore) -> BlobMissing:
    """The error for a blob that is not there."""
    text = f"the blob {ref.sha256} ({ref.size} bytes) is not in the blob store {store.name}"
    if ref.store != store.name:
        text += f"; it was put into {ref.store}: give this mesh the same `blobStore`"
    else:
        text += "; it was removed by hand, or was older than `blobRetention`"
    return BlobMissing(text)


def corrupt(ref: BlobRef, store: BlobStore, found: str) -> BlobMissing:
    """The error for a blob whose bytes are others than were put."""
    return BlobMissing(
        f"the blob {ref.sha256} ({ref.size} bytes) in the blob store {store.name} is damaged: "
        f"{found}; put the bytes back, or remove the blob and send the payload again"
    )
