"""Answers with an envelope, whose result may be in the blob store.

A result up to the threshold (`blobThreshold`) stands in the task store. For a larger one the task's
headers keep the reference, and the answer's bytes are streamed from the blob store: memory does not
grow with results.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator

import msgspec
from msgspec import Raw
from starlette.responses import Response, StreamingResponse

from asya.blobs.base import BlobRef, BlobStore
from asya.blobs.claims import read_reference
from asya.envelope import BLOB_HEADER
from asya.errors import BlobMissing, BlobUnavailable
from asya.gateway.http.present import envelope_view
from asya.gateway.http.problems import HttpProblem
from asya.gateway.http.respond import json_response
from asya.tasks.refusals import Kind, Refusal
from asya.tasks.store.base import Detail

_NAME = BLOB_HEADER.encode()
_encode = msgspec.json.Encoder().encode
_decode_headers = msgspec.json.Decoder(dict[str, Raw]).decode


def result_reference(detail: Detail) -> BlobRef | None:
    """Where the result is, or None where it stands in the task store, or there is none.

    Raises:
        BlobMissing: The reference cannot be read.
    """
    if detail.result != b"null" or _NAME not in detail.row.headers:
        return None
    raw = _decode_headers(detail.row.headers).get(BLOB_HEADER)
    return None if raw is None else read_reference(raw)


async def envelope_response(
    detail: Detail, blobs: BlobStore, headers: dict[str, str] | None = None
) -> Response:
    """The envelope with its whole result.

    Raises:
        HttpProblem: The blob store does not have the result any more.
        Refusal: The blob store does not answer.
    """
    view = envelope_view(detail)
    try:
        ref = result_reference(detail)
        if ref is None:
            return json_response(view, 200, headers)
        pieces = blobs.stream(ref)
        first = await anext(pieces)
    except BlobMissing as error:
        raise HttpProblem("result-gone", str(error), id=view.id) from error
    except BlobUnavailable as error:
        raise Refusal(Kind.BLOBS_UNAVAILABLE, str(error), id=view.id, retry_after_s=1) from error
    mark = secrets.token_hex(16)
    view.result = Raw(f'"{mark}"'.encode())
    head, tail = _encode(view).split(bytes(view.result))
    size = len(head) + ref.size + len(tail)
    return StreamingResponse(
        _joined(head, first, pieces, tail),
        headers={"Content-Length": str(size), **(headers or {})},
        media_type="application/json",
    )


async def _joined(
    head: bytes, first: bytes, pieces: AsyncIterator[bytes], tail: bytes
) -> AsyncIterator[bytes]:
    """An error on the way breaks the connection: the client sees an answer that is not whole."""
    async with contextlib.AsyncExitStack() as stack:
        close = getattr(pieces, "aclose", None)
        if close is not None:
            stack.push_async_callback(close)
        yield head + first
        async for piece in pieces:
            yield piece
        yield tail
