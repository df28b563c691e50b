"""Answers with an envelope: who waits for it, and results that are in the blob store."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from msgspec import Raw
from starlette.responses import Response, StreamingResponse
from tests.support.gateway import Gateway

from asya.blobs.base import CHUNK_BYTES
from asya.blobs.claims import CHECKED_IN
from asya.blobs.memory import MemoryBlobs
from asya.envelope import BLOB_HEADER, Route, raw_json
from asya.events import Finished
from asya.gateway.http.answers import envelope_response
from asya.gateway.http.problems import HttpProblem
from asya.tasks.refusals import Kind, Refusal
from asya.tasks.service import TaskService
from asya.tasks.store.base import Detail

BIG = raw_json("x" * 10_000)


async def test_waiting_is_over_in_time(gateway: Gateway) -> None:
    body = {"route": ["hold"], "payload": 1, "id": "held"}
    answer = await gateway.client.post("/v1/envelopes?wait=50ms", json=body)
    assert (answer.status_code, answer.json()["id"]) == (202, "held")
    assert gateway.service.waiting == 0


async def test_a_client_that_goes_away_frees_its_place(gateway: Gateway) -> None:
    body = {"route": ["hold"], "payload": 1}
    call = asyncio.create_task(gateway.client.post("/v1/envelopes?wait=600", json=body))
    await gateway.mesh.holds.wait()
    while not gateway.service.waiting:
        await asyncio.sleep(0.001)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    async with asyncio.timeout(30):
        while gateway.service.waiting:
            await asyncio.sleep(0.001)


@pytest.fixture
def service(claiming_service: TaskService) -> TaskService:
    return claiming_service


async def body_of(response: Response) -> bytes:
    if isinstance(response, StreamingResponse):
        pieces = [piece async for piece in response.body_iterator]
        return b"".join(piece for piece in pieces if isinstance(piece, bytes))
    return bytes(response.body)


class TestResults:
    async def ended(self, service: TaskService, payload: Raw) -> Detail:
        row = (await service.admit(["a"], raw_json(1))).row
        header = await service._claims.claim(payload, 0)
        assert header is not None
        headers = {BLOB_HEADER: header, "mine": Raw(b"1")}
        end = Finished(
            row.id,
            "succeeded",
            row.created_at,
            1,
            row.id,
            Route(["a"], "x-sink", []),
            row.created_at,
            result=CHECKED_IN,
            headers=headers,
        )
        await service.finish(end)
        return await service.get(row.id)

    @pytest.mark.parametrize("size", [10, CHUNK_BYTES, 3 * CHUNK_BYTES + 5])
    async def test_the_answer_has_the_whole_result(
        self, service: TaskService, blobs: MemoryBlobs, size: int
    ) -> None:
        payload = raw_json({"text": "ü" * size, "number": 1})
        response = await envelope_response(await self.ended(service, payload), blobs)
        body = await body_of(response)
        assert int(response.headers["content-length"]) == len(body)
        assert msgspec.json.decode(body)["result"] == {"text": "ü" * size, "number": 1}
        assert bytes(payload) in body

    async def test_a_result_that_is_null_is_null(
        self, service: TaskService, blobs: MemoryBlobs
    ) -> None:
        row = (await service.admit(["a"], raw_json(1))).row
        end = Finished(
            row.id,
            "succeeded",
            row.created_at,
            1,
            row.id,
            Route(["a"], "x-sink", []),
            row.created_at,
            result=Raw(b"null"),
        )
        await service.finish(end)
        body = await body_of(await envelope_response(await service.get(row.id), blobs))
        assert msgspec.json.decode(body)["result"] is None

    async def test_one_that_is_gone_says_so(self, service: TaskService, blobs: MemoryBlobs) -> None:
        detail = await self.ended(service, BIG)
        blobs.blobs.clear()
        with pytest.raises(HttpProblem) as gone:
            await envelope_response(detail, blobs)
        assert gone.value.name == "result-gone"

    async def test_one_that_cannot_be_had_now_says_when_to_ask_again(
        self, service: TaskService, blobs: MemoryBlobs
    ) -> None:
        detail = await self.ended(service, BIG)
        blobs.outage = "away"
        with pytest.raises(Refusal) as away:
            await envelope_response(detail, blobs)
        assert (away.value.kind, away.value.retry_after_s) == (Kind.BLOBS_UNAVAILABLE, 1)
