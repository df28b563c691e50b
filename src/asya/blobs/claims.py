"""The claim check: a payload over the threshold goes to the blob store, the message refers to it.

On the wire such an envelope has the payload `null` and the header `x-asya-blob` with a `BlobRef`;
everything else is as ever. As long as nobody needs the payload the two travel on as they are: over
retries, give-backs, fan-out of an unchanged payload, and dead letters. Sidecars and the gateway
check in what they publish; only a sidecar that calls a handler, and the gateway that answers with a
result, restore.
"""

from __future__ import annotations

import sys
from typing import Final

import msgspec
from msgspec import Raw

from asya.blobs.base import BlobRef, BlobStore
from asya.blobs.memory import MemoryBlobs
from asya.envelope import BLOB_HEADER, Envelope, raw_json
from asya.errors import BlobMissing

ENVELOPE_BYTES: Final = 64 * 1024
"""Room beside the payload for route, headers, status and a traceback, where a transport's limit is
what decides. What needs more is checked in when the broker has refused it."""

SMALL_BYTES: Final = 4 * 1024
"""A payload under this is never checked in: it is not what makes a message too large."""

CHECKED_IN: Final = Raw(b"null")
"""What stands in a payload's place."""

_decode_ref = msgspec.json.Decoder(BlobRef).decode


class Claims:
    """Checks payloads in, and finds them again.

    Args:
        store: Where to.
        threshold_bytes: Larger payloads do not travel in messages.
        message_max_bytes: Of the transport: the threshold is never over what it takes.
    """

    def __init__(
        self, store: BlobStore, threshold_bytes: int, *, message_max_bytes: int = sys.maxsize
    ) -> None:
        self.store = store
        self.threshold_bytes = max(
            SMALL_BYTES, min(threshold_bytes, message_max_bytes - ENVELOPE_BYTES)
        )

    async def check_in(self, envelope: Envelope, *, least_bytes: int | None = None) -> bool:
        """Put a payload over the threshold into the store, and the reference in its place.

        Args:
            envelope: Changed in place; one whose payload is in the store already stays as it is.
            least_bytes: Instead of the threshold.

        Returns:
            Whether this call put one there.

        Raises:
            BlobUnavailable: Not stored. Try again.
        """
        least = self.threshold_bytes if least_bytes is None else least_bytes
        header = await self.claim(envelope.payload, least)
        if header is None:
            return False
        envelope.payload = CHECKED_IN
        envelope.headers[BLOB_HEADER] = header
        return True

    async def claim(self, payload: Raw, least_bytes: int) -> Raw | None:
        """Put a payload over `least_bytes` into the store; gives the header that stands for it.

        Raises:
            BlobUnavailable: Not stored. Try again.
        """
        if len(payload) <= least_bytes:
            return None
        return raw_json(await self.store.put(memoryview(payload)))

    async def restore(self, envelope: Envelope) -> Envelope:
        """The envelope with its own payload, as if it had never been checked in.

        Raises:
            BlobMissing: The payload is not there any more.
            BlobUnavailable: It cannot be had now.
        """
        ref = reference(envelope)
        if ref is None:
            return envelope
        payload = Raw(await self.store.get(ref))
        whole = envelope.copy()
        del whole.headers[BLOB_HEADER]
        whole.payload = payload
        return whole


def no_claims() -> Claims:
    """Checks nothing in: for parts that have no blob store."""
    return Claims(MemoryBlobs(), sys.maxsize)


def reference(envelope: Envelope) -> BlobRef | None:
    """What the envelope's payload is called in the store, or None where it came along.

    Raises:
        BlobMissing: The header is no reference.
    """
    raw = envelope.headers.get(BLOB_HEADER)
    return None if raw is None else read_reference(raw)


def read_reference(raw: bytes | Raw) -> BlobRef:
    """A reference from the header's JSON.

    Raises:
        BlobMissing: It is none.
    """
    try:
        return _decode_ref(raw)
    except msgspec.DecodeError as error:
        raise BlobMissing(f"the header {BLOB_HEADER} is no reference to a blob: {error}") from error
