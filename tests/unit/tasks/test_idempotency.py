"""Idempotency keys and begin times: how they are read, and what the service makes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import Raw
from tests.support.task_service import ListMesh, StandingClock

from asya.errors import QueueMissing, TransportUnavailable
from asya.tasks.idempotency import IdempotencyKey
from asya.tasks.mesh import Idempotency
from asya.tasks.refusals import Kind, Refusal
from asya.tasks.service import TaskService
from asya.tasks.store.base import Query

PAYLOAD = Raw(b'{"q": 1.0}')
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def key(policy: Any = "return-existing", life_s: float | None = 3600.0) -> IdempotencyKey:
    return IdempotencyKey("route:a", "order-17", Idempotency(policy, life_s))


async def refusal(awaitable: asyncio.Task[Any] | Coroutine[Any, Any, Any]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await awaitable
    return caught.value


def name_of(error: Refusal) -> str:
    return str(error.kind)


async def test_two_hundred_requests_with_one_key_are_one_task(
    service: TaskService, mesh: ListMesh
) -> None:
    taken = await asyncio.gather(*(service.admit(["a"], PAYLOAD, key=key()) for _ in range(200)))
    assert len({each.row.id for each in taken}) == 1
    assert [each.replayed for each in taken].count(False) == 1
    assert [envelope.id for envelope in mesh.published] == [taken[0].row.id]


async def test_a_second_request_waits_until_the_first_one_is_sure(
    service: TaskService, mesh: ListMesh
) -> None:
    # given a first request whose publish hangs, and a second one with its key
    mesh.gate = asyncio.Event()
    first = asyncio.create_task(service.admit(["a"], PAYLOAD, key=key()))
    await mesh.arrived.wait()
    second = asyncio.create_task(service.admit(["a"], PAYLOAD, key=key()))
    await asyncio.sleep(0)
    # when the queue of the first turns out to be missing, then neither is told of a task
    mesh.failure = QueueMissing("a")
    mesh.gate.set()
    assert name_of(await refusal(first)) == name_of(await refusal(second)) == "unknown-actor"
    assert await service.page(Query()) == []


async def test_a_key_survives_a_restart(make_service: Callable[..., Any], mesh: ListMesh) -> None:
    ids = set()
    for _ in range(3):
        service = make_service()
        await service.start()
        ids.add((await service.admit(["a"], PAYLOAD, key=key())).row.id)
        await service.close()
    assert len(ids) == 1


async def test_reject_names_the_task_that_holds_the_key(service: TaskService) -> None:
    first = (await service.admit(["a"], PAYLOAD, key=key())).row
    error = await refusal(service.admit(["a"], PAYLOAD, key=key("reject")))
    assert error.kind is Kind.KEY_TAKEN
    assert error.id == first.id


async def test_the_same_key_with_another_payload_is_refused(service: TaskService) -> None:
    first = (await service.admit(["a"], PAYLOAD, key=key())).row
    error = await refusal(service.admit(["a"], Raw(b"2"), key=key()))
    assert error.kind is Kind.KEY_REUSED
    assert error.id == first.id


async def test_replace_cancels_the_old_one_everywhere(service: TaskService, mesh: ListMesh) -> None:
    first = (await service.admit(["a"], PAYLOAD, key=key())).row
    with service.ending(first.id) as ending:
        second = await service.admit(["a"], Raw(b"2"), key=key("replace"))
        assert await ending.within(30)
    assert not second.replayed
    assert mesh.canceled[0] == {first.id}
    assert (await service.get(first.id)).row.status == "canceled"
    assert (await service.get(second.row.id)).row.status == "pending"


async def test_an_active_key_is_free_after_the_end(
    service: TaskService, clock: StandingClock
) -> None:
    first = (await service.admit(["a"], PAYLOAD, key=key(life_s=None))).row
    clock.move(10**7)
    assert (await service.admit(["a"], PAYLOAD, key=key(life_s=None))).row.id == first.id
    await service.cancel(first.id)
    assert (await service.admit(["a"], PAYLOAD, key=key(life_s=None))).row.id != first.id


async def test_a_key_outlives_a_broker_that_gave_no_answer(
    service: TaskService, mesh: ListMesh
) -> None:
    # given a broker that takes the envelope and does not say so
    mesh.failure, mesh.keeps_on_failure = TransportUnavailable("no answer"), True
    error = await refusal(service.admit(["a"], PAYLOAD, key=key()))
    assert name_of(error) == "unavailable"
    # when the client asks again, then it is that task
    mesh.failure = None
    again = await service.admit(["a"], PAYLOAD, key=key())
    assert (again.row.id, again.replayed) == (error.id, True)
    assert len(mesh.published) == 1


async def test_an_envelope_for_later_is_pending_with_its_time(
    service: TaskService, mesh: ListMesh, clock: StandingClock
) -> None:
    later = clock.now() + timedelta(hours=1)
    row = (await service.admit(["a"], PAYLOAD, not_before=later, timeout_s=30)).row
    assert (row.status, row.not_before) == ("pending", "2026-01-01T01:00:00.000Z")
    # the time limit begins when it may begin, and so does the time in the queue
    assert row.deadline_at == "2026-01-01T01:00:30.000Z"
    (envelope,) = mesh.published
    assert envelope.status.created_at == "2026-01-01T00:00:00.000Z"
    assert envelope.status.updated_at == "2026-01-01T01:00:00.000Z"
    assert mesh.times == [later]


async def test_a_time_that_has_passed_is_now(
    service: TaskService, mesh: ListMesh, clock: StandingClock
) -> None:
    row = (
        await service.admit(
            ["a"], PAYLOAD, not_before=clock.now() - timedelta(hours=1), timeout_s=30
        )
    ).row
    assert (row.not_before, row.deadline_at) == (None, "2026-01-01T00:00:30.000Z")
    assert mesh.times == [None]
