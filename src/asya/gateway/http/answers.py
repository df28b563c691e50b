"""Answers with an envelope: accepted, as it is, or as it ended.

A result up to the threshold (`blobThreshold`) stands in the task store. For a larger one the task's
headers keep the reference, and the answer's bytes are streamed from the blob store: memory does not
grow with results.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Final, cast

import msgspec
from msgspec import Raw
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive

from asya.blobs.base import BlobRef, BlobStore
from asya.blobs.claims import read_reference
from asya.envelope import BLOB_HEADER
from asya.errors import BlobMissing, BlobUnavailable
from asya.gateway.http import views
from asya.gateway.http.headers import REPLAYED_HEADER
from asya.gateway.http.present import envelope_view
from asya.gateway.http.problems import HttpProblem
from asya.gateway.http.respond import json_response
from asya.tasks.admission import Admission
from asya.tasks.refusals import RETRY_AFTER_S, Kind, Refusal
from asya.tasks.rules import TaskRow
from asya.tasks.service import Ending, TaskService
from asya.tasks.store.base import Detail

_NAME: Final = BLOB_HEADER.encode()
_encode = msgspec.json.Encoder().encode
_decode_headers = msgspec.json.Decoder(dict[str, Raw]).decode


def accepted(row: TaskRow, headers: Mapping[str, str] | None = None) -> Response:
    """202: the envelope is stored, and in its first queue or on its way there."""
    url = f"/v1/envelopes/{row.id}"
    view = views.Accepted(row.id, cast("views.TaskStatus", row.status), url, f"{url}/events")
    return json_response(view, 202, {"Location": url, **(headers or {})})


async def admitted(
    service: TaskService,
    receive: Receive,
    admission: Admission,
    id: str,
    ending: Ending,
    wait_s: float,
) -> Response:
    """The answer to an admission: the envelope if it ends within `wait_s`, else 202.

    Args:
        service: For the task as it is at the end.
        receive: Of the request, to notice that the client is gone.
        admission: What the service made of the request.
        id: The id that was asked for. The admission may be of another task that holds the key.
        ending: The end of the envelope `id`.
        wait_s: Seconds that the client wants to wait.
    """
    row = admission.row
    headers = {REPLAYED_HEADER: "true"} if admission.replayed else {}
    with contextlib.ExitStack() as stack:
        if row.id != id and wait_s > 0:
            # The order matters: an end that comes between the two is seen by one of them.
            ending = stack.enter_context(service.ending(row.id))
            row = (await service.get(row.id)).row
        if not row.ended and wait_s > 0:
            gone = asyncio.create_task(_give_up_when_gone(receive, ending))
            try:
                await ending.within(wait_s)
            finally:
                gone.cancel()
    if row.ended or wait_s > 0:
        detail = await service.get(row.id)
        if detail.row.ended:
            return await envelope_response(detail, service.blobs, headers)
        row = detail.row
    return accepted(row, headers)


async def _give_up_when_gone(receive: Receive, ending: Ending) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    ending.give_up()


def result_reference(detail: Detail) -> BlobRef | None:
    """Where the result is, or None if it stands in the task store, or there is none.

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
        raise Refusal(
            Kind.BLOBS_UNAVAILABLE, str(error), id=view.id, retry_after_s=RETRY_AFTER_S
        ) from error
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
