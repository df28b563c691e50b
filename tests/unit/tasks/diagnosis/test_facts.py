"""Facts, the watcher and kept payloads, by way of the task service."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest
from msgspec import Raw
from tests.support.task_service import ListMesh, StandingClock

from asya.clock import to_rfc3339
from asya.envelope import ErrorInfo, Route
from asya.events import Forked, HopEnded, HopSent, HopStarted
from asya.gateway.http.present import envelope_view, event_text
from asya.tasks import recorder
from asya.tasks.diagnosis import facts as insight
from asya.tasks.diagnosis.stuck import SAMPLES_MIN
from asya.tasks.diagnosis.why import why
from asya.tasks.mesh import ActorStatus
from asya.tasks.refusals import Refusal
from asya.tasks.service import TaskService
from asya.tasks.store.base import OpenTask, Query
from asya.transports.base import Depth

PAYLOAD = Raw(b'{"a": 1}')


@pytest.fixture
def tell(service: TaskService, clock: StandingClock) -> Any:
    """Tells the service of hops, at the clock's time."""

    class Tell:
        def started(
            self, id: str, n: int = 0, actor: str = "a", payload: Raw | None = None
        ) -> None:
            now = to_rfc3339(clock.now())
            route = Route([], actor, ["b"])
            event = HopStarted(id, n, actor, 1, now, id, route, now, 11, payload=payload)
            service.emit(event)

        def ended(self, id: str, state: str = "succeeded", n: int = 0, **fields: Any) -> None:
            after = Route(["a"], "b", []) if state == "succeeded" else Route([], "a", ["b"])
            now = to_rfc3339(clock.now())
            service.emit(HopEnded(id, n, "a", 1, now, state, after, **fields))

        def sent(self, id: str) -> None:
            now = to_rfc3339(clock.now())
            service.emit(HopSent(id, 0, "a", 1, now, Route(["a"], "b", [])))

        def usual(self, seconds: float, calls: int = SAMPLES_MIN) -> None:
            for number in range(calls):
                self.started(f"usual{number}")
            clock.move(seconds)
            for number in range(calls):
                self.ended(f"usual{number}", "failed")

    return Tell()


async def flushed(service: Any, id: str) -> Any:
    await service.facts(id)
    return await service.get(id)


async def test_one_that_runs_far_longer_than_usual_is_marked_once(
    service: TaskService, clock: StandingClock, tell: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Given an actor that takes two seconds, when a call runs for 21, then it is stuck."""
    row = (await service.admit(["a", "b"], PAYLOAD)).row
    tell.usual(2)
    tell.started(row.id)
    await flushed(service, row.id)
    clock.move(20)
    assert row.id not in await service.diagnosis.look()
    clock.move(1)
    with caplog.at_level(logging.WARNING), service.watch(row.id) as watch:
        assert row.id in await service.diagnosis.look()
        assert await watch.woken(1)
    assert f"asya why {row.id}" in caplog.text
    assert row.id not in await service.diagnosis.look()
    detail = await service.get(row.id)
    assert envelope_view(detail).stuck_at == to_rfc3339(clock.now())
    text, last = event_text(row.id, detail.events[-1])
    assert text.startswith(b"id: 4\nevent: stuck\ndata: ")
    assert not last
    assert row.id in [each.id for each in await service.page(Query(stuck=True))]
    tell.ended(row.id)
    assert (await flushed(service, row.id)).row.stuck_at is None


async def test_without_enough_samples_nothing_is_stuck(
    service: TaskService, clock: StandingClock, tell: Any
) -> None:
    row = (await service.admit(["a", "b"], PAYLOAD)).row
    tell.usual(2, calls=SAMPLES_MIN - 1)
    tell.started(row.id)
    await flushed(service, row.id)
    clock.move(3600)
    assert row.id not in await service.diagnosis.look()


async def test_a_backlog_is_not_told_line_by_line(
    service: TaskService,
    clock: StandingClock,
    tell: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(insight, "LINES_MAX", 3)
    for number in range(8):
        await service.admit(["b", "a"], PAYLOAD, id=f"t{number}")
    for number in range(SAMPLES_MIN):
        tell.started(f"usual{number}", actor="b")
    await flushed(service, "t0")
    clock.move(11)
    with caplog.at_level(logging.WARNING):
        assert {"t0", "t7"} <= set(await service.diagnosis.look())
    assert len(caplog.records) == 4
    assert caplog.messages[-1] == "5 more stand still; GET /v1/envelopes?stuck=true lists them"


async def test_one_that_waits_for_its_time_is_not_stuck(
    service: TaskService, clock: StandingClock, tell: Any
) -> None:
    later = clock.now() + timedelta(hours=1)
    row = (await service.admit(["a"], PAYLOAD, not_before=later)).row
    tell.usual(2)
    await flushed(service, row.id)
    clock.move(3000)
    assert row.id not in await service.diagnosis.look()
    clock.move(3600)
    assert row.id in await service.diagnosis.look()


async def test_the_watcher_reads_page_after_page(
    service: TaskService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(insight, "PAGE", 2)
    reads = []
    read = service._store.events.open_tasks

    async def standing(*, after: int, limit: int) -> list[OpenTask]:
        page = await read(after=after, limit=limit)
        reads.append([each.row.id for each in page])
        return page

    monkeypatch.setattr(service._store.events, "open_tasks", standing)
    for number in range(3):
        await service.admit(["a"], PAYLOAD, id=f"t{number}")
    for _ in range(3):
        await service.diagnosis.look()
    assert reads == [["t0", "t1"], ["t2"], ["t0", "t1"]]


async def test_facts_of_one_that_waits(
    service: TaskService, mesh: ListMesh, clock: StandingClock
) -> None:
    mesh.statuses["a"] = ActorStatus("a", "nats", Depth(2, 0, 0), replicas_max=3)
    await service.admit(["a", "b"], PAYLOAD)
    row = (await service.admit(["a", "b"], PAYLOAD)).row
    clock.move(5)
    facts = await service.facts(row.id)
    assert (facts.status, facts.published, facts.at.ahead) == ("pending", True, 1)
    assert facts.position is not None
    assert (facts.position.state, facts.position.actor) == ("queued", "a")
    assert (clock.now() - facts.position.since).total_seconds() == 5
    assert facts.at.status == mesh.statuses["a"]
    assert why(facts).kind == "starting"


async def test_facts_of_one_that_is_tried_again(
    service: TaskService, mesh: ListMesh, clock: StandingClock, tell: Any
) -> None:
    mesh.statuses["a"] = ActorStatus("a", "nats", Depth(0, 0, 1))
    row = (await service.admit(["a", "b"], PAYLOAD)).row
    tell.started(row.id)
    error = ErrorInfo("ValueError", "no\nmore lines")
    at = "2026-01-01T00:00:30.000Z"
    tell.ended(row.id, "retrying", error=error, retry_at=at, attempts_max=3)
    found = why(await service.facts(row.id))
    assert found.cause.startswith("Waits for attempt 2 of 3 at a, at 2026-01-01 00:00:30 UTC")
    assert found.evidence[0] == "attempt 1 failed: ValueError: no"


async def test_facts_count_the_children(service: TaskService) -> None:
    row = (await service.admit(["a", "b"], PAYLOAD)).row
    for number in range(2):
        now = row.created_at
        service.emit(Forked(f"child-{number}", row.id, row.id, Route(["a"], "b", []), now))
    assert (await service.facts(row.id)).children == {"pending": 2}
    assert (await service.facts("child-0")).children == {}


async def test_an_unknown_id_has_the_nearest(service: TaskService) -> None:
    row = (await service.admit(["a"], PAYLOAD, id="order-4711")).row
    assert (await service.facts("order-4712")).nearest == row.id
    assert (await service.facts("order")).nearest == row.id
    assert (await service.facts("zzz")).nearest is None
    with pytest.raises(Refusal, match="did you mean order-4711") as caught:
        await service.get("order-471")
    assert caught.value.nearest == row.id


async def test_hops_tell_when_the_next_queue_had_it(
    service: TaskService, clock: StandingClock, tell: Any
) -> None:
    row = (await service.admit(["a", "b"], PAYLOAD)).row
    tell.started(row.id)
    tell.ended(row.id)
    clock.move(0.25)
    tell.sent(row.id)
    detail = await flushed(service, row.id)
    hops = envelope_view(detail).hops
    assert isinstance(hops, list)
    (hop,) = hops
    assert hop.sent_at == "2026-01-01T00:00:00.250Z"
    assert event_text(row.id, detail.events[-1]) == (b"", False)
    facts = await service.facts(row.id)
    assert facts.position is not None
    assert (facts.position.state, facts.position.actor) == ("queued", "b")


async def test_payloads_are_kept_before_and_after(service: TaskService, tell: Any) -> None:
    row = (await service.admit(["a", "b"], PAYLOAD)).row
    tell.started(row.id, payload=Raw(b'{"in": 1.0}'))
    tell.ended(row.id, payload=Raw(b'{"out":2}'))
    assert (await service.payload(row.id, 0, "in", None)).body == b'{"in": 1.0}'
    assert (await service.payload(row.id, 0, "out", 1)).body == b'{"out":2}'
    with pytest.raises(Refusal, match=r"no payload \(in\) of hop 1"):
        await service.payload(row.id, 1, "in", None)
    with pytest.raises(Refusal, match="there is no envelope"):
        await service.payload("none", 0, "in", None)


async def test_payloads_that_wait_for_the_store_are_bounded(
    service: TaskService, tell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "PAYLOADS_MAX_BYTES", 10)
    row = (await service.admit(["a", "b"], PAYLOAD)).row
    tell.started(row.id, payload=Raw(b"12345678"))
    tell.ended(row.id, payload=Raw(b"12345678"))
    assert service._recorder.payloads_dropped == 1
    assert (await service.payload(row.id, 0, "in", None)).size == 8
    with pytest.raises(Refusal):
        await service.payload(row.id, 0, "out", None)
    tell.started(row.id, n=1, payload=Raw(b"12345678"))
    assert (await service.payload(row.id, 1, "in", None)).size == 8


async def test_payloads_per_second_are_bounded(
    service: TaskService, tell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "PAYLOADS_BURST", 10)
    monkeypatch.setattr(recorder, "PAYLOADS_PER_S", 0)
    row = (await service.admit(["a", "b"], PAYLOAD)).row
    tell.started(row.id, payload=Raw(b"12345678"))
    await flushed(service, row.id)
    tell.started(row.id, n=1, payload=Raw(b"12345678"))
    assert service._recorder.payloads_dropped == 1
    assert [hop.n for hop in envelope_view(await flushed(service, row.id)).hops or ()] == [0, 1]
    with pytest.raises(Refusal):
        await service.payload(row.id, 1, "in", None)


async def test_actors_are_shown_with_their_pace(service: TaskService, tell: Any) -> None:
    tell.usual(2)
    shown = service.diagnosis.with_latency(ActorStatus("a", "nats", Depth(0, 0, 0)))
    assert (shown.p50_ms, shown.p99_ms, shown.queue_p99_ms) == (2000.0, 2000.0, 0.0)
