"""What is too big for messages, from admission to the answer with the result."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import Raw

from asya.blobs.base import CHUNK_BYTES
from asya.blobs.claims import CHECKED_IN, Claims, read_reference
from asya.blobs.memory import MemoryBlobs
from asya.envelope import BLOB_HEADER, Route, raw_json
from asya.events import Finished
from asya.gateway.http.answers import envelope_response
from asya.gateway.http.body import parse, parse_as
from asya.gateway.http.problems import HttpProblem
from asya.gateway.http.requests import EnvelopeRequest
from asya.tasks.refusals import Kind, Refusal
from asya.tasks.service import ServiceLimits, TaskService
from asya.tasks.store.sqlite.tasks import SqliteStore

BIG = raw_json("x" * 10_000)
LARGE = 1024 * 1024


@pytest.fixture
def blobs():
    return MemoryBlobs()


@pytest.fixture
async def service(tmp_path, mesh, clock, blobs):
    store = SqliteStore(tmp_path / "tasks.db")
    limits = ServiceLimits(payload_max_bytes=10 * CHUNK_BYTES)
    service = TaskService(store, mesh, clock, limits, claims=Claims(blobs, 5_000))
    await service.start()
    yield service
    await service.close()


async def body_of(response):
    if hasattr(response, "body_iterator"):
        return b"".join([piece async for piece in response.body_iterator])
    return response.body


class TestAdmission:
    async def test_the_message_carries_the_reference(self, service, mesh, blobs):
        await service.admit(["a", "b"], BIG)
        (sent,) = mesh.published
        ref = read_reference(sent.headers[BLOB_HEADER])
        assert bytes(sent.payload) == b"null"
        assert await blobs.get(ref) == bytes(BIG)

    async def test_a_small_one_does_not(self, service, mesh, blobs):
        await service.admit(["a"], raw_json("small"))
        assert (BLOB_HEADER in mesh.published[0].headers, blobs.written) == (False, 0)

    async def test_the_same_id_and_payload_is_the_same_task(self, service, mesh, blobs):
        first = (await service.admit(["a"], BIG, id="one")).row
        again = (await service.admit(["a"], BIG, id="one")).row
        assert (first.key, blobs.written, len(mesh.published)) == (again.key, 1, 1)

    async def test_the_same_id_with_another_big_payload_is_refused(self, service):
        await service.admit(["a"], BIG, id="one")
        with pytest.raises(Refusal) as refused:
            await service.admit(["a"], raw_json("y" * 10_000), id="one")
        assert refused.value.kind is Kind.ID_CONFLICT

    async def test_an_outage_refuses_big_payloads_and_leaves_nothing(self, service, mesh, blobs):
        blobs.outage = "the disk is full"
        with pytest.raises(Refusal) as refused:
            await service.admit(["a"], BIG, id="one")
        assert (refused.value.kind, mesh.published) == (Kind.BLOBS_UNAVAILABLE, [])
        assert "the disk is full" in refused.value.text
        with pytest.raises(Refusal):
            await service.get("one")
        await service.admit(["a"], raw_json("small"))

    async def test_a_client_cannot_name_a_blob_itself(self, service):
        with pytest.raises(Refusal, match="belongs to the system"):
            await service.admit(["a"], Raw(b"null"), headers={BLOB_HEADER: {}})


class TestResults:
    async def ended(self, service, payload):
        row = (await service.admit(["a"], raw_json(1))).row
        header = await service._claims.claim(payload, 0)
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
    async def test_the_answer_has_the_whole_result(self, service, blobs, size):
        payload = raw_json({"text": "ü" * size, "number": 1})
        response = await envelope_response(await self.ended(service, payload), blobs)
        body = await body_of(response)
        assert int(response.headers["content-length"]) == len(body)
        assert msgspec.json.decode(body)["result"] == {"text": "ü" * size, "number": 1}
        assert bytes(payload) in body

    async def test_a_result_that_is_null_is_null(self, service, blobs):
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

    async def test_one_that_is_gone_says_so(self, service, blobs):
        detail = await self.ended(service, BIG)
        blobs.blobs.clear()
        with pytest.raises(HttpProblem) as gone:
            await envelope_response(detail, blobs)
        assert gone.value.name == "result-gone"

    async def test_one_that_cannot_be_had_now_says_when_to_ask_again(self, service, blobs):
        detail = await self.ended(service, BIG)
        blobs.outage = "away"
        with pytest.raises(Refusal) as away:
            await envelope_response(detail, blobs)
        assert (away.value.kind, away.value.retry_after_s) == (Kind.BLOBS_UNAVAILABLE, 1)


class TestBodies:
    @pytest.mark.parametrize("size", [0, LARGE])
    def test_a_text_is_only_looked_through_where_its_values_are_not_wanted(self, size):
        data = b'{"text":"' + b"x" * size + b'"}'
        values, raw = parse(data, values=False)
        assert (values, bytes(raw)) == (None, data)
        assert parse(data)[0] == {"text": "x" * size}

    @pytest.mark.parametrize("size", [0, LARGE])
    def test_a_number_that_python_has_not_is_json(self, size):
        payload = b'{"text":"' + b"x" * size + b'","v":[1,-1e400,' + b"9" * 5000 + b"]}"
        assert bytes(parse(payload, values=False)[1]) == payload
        asked = parse_as(EnvelopeRequest, b'{"route":["a"],"payload":' + payload + b"}")
        assert bytes(asked.payload) == payload

    @pytest.mark.parametrize(
        ("data", "path"),
        [
            (b'{"a":[1,2.5],"v":{"w x":[0,1e400]}}', "$.v['w x'][1]"),
            (b"[[" + b"9" * 5000 + b"],-1e999]", "$[0][0]"),
            (b"1e400", "$"),
        ],
    )
    def test_a_number_that_no_schema_fits_is_named(self, data, path):
        with pytest.raises(Refusal) as refused:
            parse(data)
        assert refused.value.kind is Kind.INVALID_PAYLOAD
        assert [fault.path for fault in refused.value.faults] == [path]

    @pytest.mark.parametrize("end", [b"", b",}", b'\xff"}', b'\\x"}', b'"} 1'])
    def test_what_is_no_json_is_refused_however_large(self, end):
        for size in (1, LARGE):
            with pytest.raises(HttpProblem) as refused:
                parse(b'{"text":"' + b"x" * size + end, values=False)
            assert refused.value.name == "not-json"
