"""The task service: what is stored when, and what a client is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from msgspec import Raw
from tests.support.task_service import ListMesh

from asya.envelope import FLOW_HEADER, Route
from asya.errors import MessageTooLarge, QueueMissing, StoreError, TransportUnavailable
from asya.events import DeadLetter, Finished, Flown, Forked, HopEnded, HopStarted
from asya.tasks import service as service_module
from asya.tasks.refusals import Refusal
from asya.tasks.rules import Recorded
from asya.tasks.service import TaskService
from asya.tasks.store.base import Query

PAYLOAD = Raw(b'{"q": 1.0}')


def hop_started(id_: str, n: int = 0, actor: str = "a", root: None = None) -> HopStarted:
    route = Route([], actor, ["b"])
    at = "2026-01-01T00:00:01.000Z"
    return HopStarted(id_, n, actor, 1, at, root or id_, route, at, 7)


def end_of(id_: str, phase: str = "succeeded", **fields: Any) -> Finished:
    at = "2026-01-01T00:00:09.000Z"
    return Finished(id_, phase, at, 2, id_, Route(["a"], "x-sink", []), at, **fields)


async def refusal(awaitable: Coroutine[Any, Any, Any]) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await awaitable
    return caught.value


def name_of(error: object) -> str:
    assert isinstance(error, Refusal)
    return str(error.kind)


async def test_an_admitted_envelope_is_stored_and_published(
    service: TaskService, mesh: ListMesh
) -> None:
    row = (
        await service.admit(
            ["a", "b"], PAYLOAD, headers={"priority": Raw(b" 1.50")}, timeout_s=30, flow="search"
        )
    ).row
    (envelope,) = mesh.published
    assert (envelope.id, envelope.route.curr, envelope.route.next) == (row.id, "a", ["b"])
    assert bytes(envelope.payload) == b'{"q": 1.0}'
    assert bytes(envelope.headers["priority"]).strip() == b"1.50"
    assert envelope.header(FLOW_HEADER) == "search"
    assert envelope.status.deadline_at == "2026-01-01T00:00:30.000Z"
    detail = await service.get(row.id)
    assert (detail.row.status, detail.row.flow) == ("pending", "search")


@pytest.mark.parametrize(
    ("asked", "name", "said"),
    [
        ({"actors": []}, "invalid", "at least one actor"),
        ({"actors": ["Not A Name"]}, "invalid", "no actor name"),
        ({"actors": ["a", "x-sink"]}, "invalid", "x-sink may not stand in a route"),
        ({"actors": ["a", "rerankr"]}, "unknown-actor", "did you mean 'reranker'"),
        ({"actors": ["a", "x-reranker"]}, "unknown-actor", "are the system's"),
        ({"id": "with/slash"}, "invalid", "A-Z"),
        ({"id": "x" * 129}, "invalid", "A-Z"),
        ({"headers": {"X-Asya-Root": Raw(b"1")}}, "invalid", "belongs to the system"),
        ({"payload": Raw(b'"' + b"x" * 5_000_000 + b'"')}, "too-large", "5000002 bytes"),
    ],
)
async def test_what_cannot_run_is_refused_and_leaves_nothing(
    service: TaskService, mesh: ListMesh, asked: dict[str, Any], name: str, said: str
) -> None:
    error = await refusal(service.admit(**({"actors": ["a"], "payload": PAYLOAD} | asked)))
    assert (name_of(error), said in error.text) == (name, True)
    assert mesh.published == []
    assert await service.page(Query()) == []


async def test_the_same_id_again_is_the_same_task(service: TaskService, mesh: ListMesh) -> None:
    first = (await service.admit(["a"], PAYLOAD, id="mine")).row
    second = (await service.admit(["a"], PAYLOAD, id="mine")).row
    assert first.key == second.key
    assert len(mesh.published) == 1
    for route, payload in ((["b"], PAYLOAD), (["a"], Raw(b"2"))):
        assert name_of(await refusal(service.admit(route, payload, id="mine"))) == "id-conflict"


async def test_two_requests_with_one_id_share_its_fate(
    service: TaskService, mesh: ListMesh
) -> None:
    """Given an admission under way, when its id comes again, then the second waits for the first."""
    mesh.gate, mesh.failure = asyncio.Event(), TransportUnavailable("no broker")
    first = asyncio.create_task(service.admit(["a"], PAYLOAD, id="mine"))
    await mesh.arrived.wait()
    second = asyncio.create_task(service.admit(["a"], PAYLOAD, id="mine"))
    mesh.gate.set()
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert [name_of(outcome) for outcome in outcomes] == ["unavailable"] * 2
    assert await service.page(Query()) == []


@pytest.mark.parametrize(
    ("failure", "name"),
    [
        (TransportUnavailable("no answer"), "unavailable"),
        (MessageTooLarge("9 MB"), "too-large"),
        (QueueMissing("gone"), "unknown-actor"),
    ],
)
async def test_what_was_not_published_is_taken_back(
    service: TaskService,
    mesh: ListMesh,
    failure: MessageTooLarge | QueueMissing | TransportUnavailable,
    name: str,
) -> None:
    mesh.failure = failure
    error = await refusal(service.admit(["a"], PAYLOAD, id="mine"))
    assert (name_of(error), error.id) == (name, "mine")
    assert await service.page(Query()) == []
    mesh.failure = None
    await service.admit(["a"], PAYLOAD, id="mine")
    assert len(mesh.published) == 1


async def test_a_lost_confirmation_makes_no_second_run(
    service: TaskService, mesh: ListMesh
) -> None:
    """Given a publish that went through and was not confirmed, when the client sends again, then
    the broker sees the same `dedup_id`, and an end that came in between is kept."""
    mesh.failure, mesh.keeps_on_failure = TransportUnavailable("no answer"), True
    await refusal(service.admit(["a"], PAYLOAD, id="mine"))
    await service.finish(end_of("mine", result=Raw(b"1")))
    mesh.failure = None
    row = (await service.admit(["a"], PAYLOAD, id="mine")).row
    assert row.status == "succeeded"
    assert len(mesh.published) == 1


async def test_an_answered_task_is_not_taken_back(service: TaskService, mesh: ListMesh) -> None:
    """Given an accepted task whose mark waits still, when its id comes again and the broker is
    gone, then the task stays."""
    await service.admit(["a"], PAYLOAD, id="mine")
    mesh.failure = TransportUnavailable("no answer")
    await refusal(service.admit(["a"], PAYLOAD, id="mine"))
    assert (await service.get("mine")).row.status == "pending"


async def test_a_mesh_in_trouble_takes_nothing(service: TaskService, mesh: ListMesh) -> None:
    mesh.trouble = "the broker's disk is full"
    error = await refusal(service.admit(["a"], PAYLOAD))
    assert name_of(error) == "unavailable"
    assert error.text == "the broker's disk is full"
    assert error.retry_after_s


async def test_a_full_queue_is_refused_and_seldom_asked(
    service: TaskService, mesh: ListMesh
) -> None:
    """Given room for three, when more come, then they are refused after one question."""
    mesh.depths["a"] = 7
    for _ in range(3):
        await service.admit(["a"], PAYLOAD)
    error = await refusal(service.admit(["a"], PAYLOAD))
    assert name_of(error) == "queue-full"
    assert error.retry_after_s
    assert mesh.asked == 1
    await service.admit(["b", "a"], PAYLOAD)


async def test_events_reach_the_store_in_one_batch(service: TaskService) -> None:
    row = (await service.admit(["a", "b"], PAYLOAD)).row
    with service.watch(row.id) as watch:
        service.emit(hop_started(row.id))
        assert await watch.woken(5)
    detail = await service.get(row.id)
    assert (detail.row.status, [event.kind for event in detail.events]) == (
        "running",
        ["status", "status", "started"],
    )


async def test_events_that_do_not_fit_are_dropped_and_counted(
    service: TaskService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asya.tasks.recorder.PENDING_MAX", 5)
    for number in range(8):
        service.emit(hop_started(f"t{number}"))
    assert service.events_dropped == 3
    assert await service.finish(end_of("t7"))


async def test_an_end_takes_its_events_along(service: TaskService) -> None:
    """Given events that were not written yet, when the end comes, then they stand before it."""
    row = (await service.admit(["a"], PAYLOAD)).row
    service.emit(hop_started(row.id))
    at = "2026-01-01T00:00:02.000Z"
    service.emit(HopEnded(row.id, 0, "a", 1, at, "succeeded", Route(["a"], "x-sink", [])))
    assert await service.finish(end_of(row.id, result=Raw(b"1")))
    kinds = [event.kind for event in (await service.get(row.id)).events]
    assert kinds == ["status", "status", "started", "ended", "status"]


async def test_an_end_that_the_store_refuses_can_be_told_again(
    service: TaskService, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = (await service.admit(["a"], PAYLOAD)).row
    service.emit(hop_started(row.id))
    with monkeypatch.context() as patch:

        async def refuse(end: Finished, notes: list[Recorded]) -> None:
            raise StoreError("disk full")

        patch.setattr(service._store.events, "complete", refuse)
        with pytest.raises(StoreError):
            await service.finish(end_of(row.id))
    assert await service.finish(end_of(row.id))
    kinds = [event.kind for event in (await service.get(row.id)).events]
    assert "started" in kinds


async def test_flown_events_go_to_watchers_of_the_envelope_and_its_root(
    service: TaskService,
) -> None:
    with service.watch("child") as own, service.watch("root") as above, service.watch("x") as other:
        service.emit(Flown("child", "root", "a", 1, "2026-01-01T00:00:00.000Z", Raw(b'{"t":1}')))
        assert [len(watch.take_flown()) for watch in (own, above, other)] == [1, 1, 0]


async def test_a_slow_watcher_gets_the_newest_flown_events(service: TaskService) -> None:
    with service.watch("t") as watch:
        for number in range(300):
            service.emit(Flown("t", "t", "a", number, "", Raw(b"{}")))
        taken = watch.take_flown()
    assert (len(taken), taken[0].seq, taken[-1].seq, watch.dropped) == (256, 44, 299, 44)


async def test_waiting_ends_with_the_end(service: TaskService) -> None:
    row = (await service.admit(["a"], PAYLOAD)).row
    waiting = asyncio.create_task(service.wait(row.id, 30))
    while not service.waiting:
        await asyncio.sleep(0)
    await service.finish(end_of(row.id, result=Raw(b"42")))
    detail = await asyncio.wait_for(waiting, 30)
    assert (detail.row.status, detail.result) == ("succeeded", b"42")
    assert service.waiting == 0


async def test_waiting_ends_when_its_time_is_over(service: TaskService) -> None:
    row = (await service.admit(["a"], PAYLOAD)).row
    detail = await service.wait(row.id, 0.01)
    assert detail.row.status == "pending"
    assert service.waiting == 0


async def test_too_many_waiters_are_answered_at_once(
    service: TaskService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "WAITERS_MAX", 0)
    row = (await service.admit(["a"], PAYLOAD)).row
    detail = await asyncio.wait_for(service.wait(row.id, 600), 30)
    assert detail.row.status == "pending"


async def test_a_close_answers_those_who_wait_and_keeps_events(
    make_service: Callable[..., Any],
) -> None:
    service = make_service()
    await service.start()
    row = (await service.admit(["a"], PAYLOAD)).row
    waiting = asyncio.create_task(service.wait(row.id, 600))
    while not service.waiting:
        await asyncio.sleep(0)
    service.emit(hop_started(row.id))
    service.release()
    detail = await asyncio.wait_for(waiting, 30)
    assert not detail.row.ended
    assert name_of(await refusal(service.admit(["a"], PAYLOAD))) == "unavailable"
    await service.close()
    await service.close()

    again = make_service()
    await again.start()
    assert (await again.get(row.id)).row.status == "running"
    await again.close()


async def test_a_cancel_reaches_children_and_the_mesh(
    service: TaskService, mesh: ListMesh, make_service: Callable[..., Any]
) -> None:
    row = (await service.admit(["a"], PAYLOAD, id="root")).row
    at = "2026-01-01T00:00:02.000Z"
    service.emit(Forked("child", "root", "root", Route(["a"], "b", []), at))
    await service.cancel("root")
    await service.cancel("root")
    assert mesh.canceled == [{"root", "child"}]
    assert not await service.finish(end_of("child", result=Raw(b"1")))
    assert (await service.get("child")).row.status == "canceled"
    assert (await service.get(row.id)).row.status == "canceled"
    assert await service.canceled_recently() == ["root"]
    assert name_of(await refusal(service.cancel("unknown"))) == "unknown-envelope"


async def test_a_cancel_of_many_children_goes_on_to_the_end(
    service: TaskService, mesh: ListMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "CANCEL_STEP", 3)
    await service.admit(["a"], PAYLOAD, id="root")
    for number in range(10):
        service.emit(Forked(f"c{number}", "root", "root", Route([], "b", []), "2026-01-01"))
    await service.cancel("root")
    assert len(set().union(*mesh.canceled)) == 11
    assert {row.status for row in await service.page(Query(limit=50))} == {"canceled"}


async def test_dead_letters_are_kept(service: TaskService) -> None:
    await service.dead_letter(DeadLetter("t", "2026-01-01T00:00:00.000Z", "ParseError", "a", b"{"))
    letter = await service._store.dead_letters.get("t")
    assert letter is not None
    assert (letter.id, letter.body) == ("t", b"{")
