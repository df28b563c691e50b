"""What is too big for messages, at admission."""

from __future__ import annotations

import pytest
from msgspec import Raw
from tests.support.task_service import ListMesh

from asya.blobs.claims import read_reference
from asya.blobs.memory import MemoryBlobs
from asya.envelope import BLOB_HEADER, raw_json
from asya.tasks.refusals import Kind, Refusal
from asya.tasks.service import TaskService

BIG = raw_json("x" * 10_000)
LARGE = 1024 * 1024


@pytest.fixture
def service(claiming_service: TaskService) -> TaskService:
    return claiming_service


class TestAdmission:
    async def test_the_message_carries_the_reference(
        self, service: TaskService, mesh: ListMesh, blobs: MemoryBlobs
    ) -> None:
        await service.admit(["a", "b"], BIG)
        (sent,) = mesh.published
        ref = read_reference(sent.headers[BLOB_HEADER])
        assert bytes(sent.payload) == b"null"
        assert await blobs.get(ref) == bytes(BIG)

    async def test_a_small_one_does_not(
        self, service: TaskService, mesh: ListMesh, blobs: MemoryBlobs
    ) -> None:
        await service.admit(["a"], raw_json("small"))
        assert (BLOB_HEADER in mesh.published[0].headers, blobs.written) == (False, 0)

    async def test_the_same_id_and_payload_is_the_same_task(
        self, service: TaskService, mesh: ListMesh, blobs: MemoryBlobs
    ) -> None:
        first = (await service.admit(["a"], BIG, id="one")).row
        again = (await service.admit(["a"], BIG, id="one")).row
        assert (first.key, blobs.written, len(mesh.published)) == (again.key, 1, 1)

    async def test_the_same_id_with_another_big_payload_is_refused(
        self, service: TaskService
    ) -> None:
        await service.admit(["a"], BIG, id="one")
        with pytest.raises(Refusal) as refused:
            await service.admit(["a"], raw_json("y" * 10_000), id="one")
        assert refused.value.kind is Kind.ID_CONFLICT

    async def test_an_outage_refuses_big_payloads_and_leaves_nothing(
        self, service: TaskService, mesh: ListMesh, blobs: MemoryBlobs
    ) -> None:
        blobs.outage = "the disk is full"
        with pytest.raises(Refusal) as refused:
            await service.admit(["a"], BIG, id="one")
        assert (refused.value.kind, mesh.published) == (Kind.BLOBS_UNAVAILABLE, [])
        assert "the disk is full" in refused.value.text
        with pytest.raises(Refusal):
            await service.get("one")
        await service.admit(["a"], raw_json("small"))

    async def test_a_client_cannot_name_a_blob_itself(self, service: TaskService) -> None:
        with pytest.raises(Refusal, match="belongs to the system"):
            await service.admit(["a"], Raw(b"null"), headers={BLOB_HEADER: {}})
