"""Deadlines that pass in a queue, by way of the task service."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec import Raw
from tests.support.task_service import StandingClock

from asya.clock import to_rfc3339
from asya.envelope import Route
from asya.events import Finished, Forked, HopEnded, HopStarted
from asya.gateway.http.present import envelope_view
from asya.tasks import deadlines
from asya.tasks.deadlines import Deadlines
from asya.tasks.service import TaskService

PAYLOAD = Raw(b"1")


@pytest.fixture
def late(service: TaskService, clock: StandingClock) -> Any:
    """The service's deadlines, without their task: a test says when they look."""
    found = service._deadlines
    for chore in service.chores._tasks:
        if chore.get_name() == "asya-deadlines":
            chore.cancel()

    class Late:
        async def after(self, seconds: float) -> list[str]:
            clock.move(seconds)
            ended: list[str] = await found.end_late()
            return ended

        kept = property(lambda self: found.kept)

    return Late()


def started(
    service: TaskService, clock: StandingClock, id_: str, actor: str = "a", n: int = 0
) -> None:
    now = to_rfc3339(clock.now())
    service.emit(HopStarted(id_, n, actor, 1, now, id_, Route([], actor, ["b"]), now, 11))


def ended(
    service: TaskService, clock: StandingClock, id_: str, state: str, route: Route, **fields: Any
) -> None:
    now = to_rfc3339(clock.now())
    service.emit(HopEnded(id_, 0, "a", 1, now, state, route, **fields))


async def test_an_envelope_behind_others_ends_at_its_deadline(
    service: TaskService, late: Any
) -> None:
    """Given a deadline of 5 s, when the envelope is in its queue by then, then it has failed."""
    row = (await service.admit(["a", "b"], PAYLOAD, timeout_s=5)).row
    assert await late.after(5) == [], "what began before the deadline may not be told yet"
    with service.watch(row.id) as watch:
        assert await late.after(deadlines.SETTLE_S) == [row.id]
        assert await watch.woken(1)

    view = envelope_view(await service.get(row.id))

    assert (view.status, view.route.curr) == ("failed", "a")
    assert view.error is not None
    assert (view.error.reason, view.error.type) == (
        "DeadlineExceeded",
        "asya.errors.DeadlineExceeded",
    )
    assert late.kept == 0


async def test_the_sidecar_that_drops_the_message_later_changes_nothing(
    service: TaskService, clock: StandingClock, late: Any
) -> None:
    row = (await service.admit(["a"], PAYLOAD, timeout_s=1)).row
    assert await late.after(2) == [row.id]
    at = to_rfc3339(clock.now() + timedelta(seconds=60))
    route = Route([], "x-sink", [])
    again = Finished(
        row.id, "failed", at, 0, row.id, route, row.created_at, reason="DeadlineExceeded"
    )
    assert await service.finish(again) is False
    detail = await service.get(row.id)
    assert [each.kind for each in detail.events] == ["status", "status"]


async def test_what_a_replica_works_on_is_the_sidecars_to_stop(
    service: TaskService, clock: StandingClock, late: Any
) -> None:
    row = (await service.admit(["a", "b"], PAYLOAD, timeout_s=5)).row
    clock.move(4)
    started(service, clock, row.id)
    assert await late.after(9) == []
    assert (await service.get(row.id)).row.status == "running"


async def test_one_that_waits_for_its_next_attempt_ends_too(
    service: TaskService, clock: StandingClock, late: Any
) -> None:
    row = (await service.admit(["a", "b"], PAYLOAD, timeout_s=5)).row
    started(service, clock, row.id)
    again = to_rfc3339(clock.now() + timedelta(seconds=4))
    ended(service, clock, row.id, "retrying", Route([], "a", ["b"]), retry_at=again)
    assert await late.after(6) == [row.id]


async def test_one_whose_last_hop_is_done_is_about_to_succeed(
    service: TaskService, clock: StandingClock, late: Any
) -> None:
    row = (await service.admit(["a"], PAYLOAD, timeout_s=5)).row
    started(service, clock, row.id)
    ended(service, clock, row.id, "succeeded", Route(["a"], "x-sink", []))
    assert await late.after(6) == []


async def test_children_of_a_fan_out_have_the_deadline_too(
    service: TaskService, clock: StandingClock, late: Any
) -> None:
    at = to_rfc3339(clock.now())
    deadline = to_rfc3339(clock.now() + timedelta(seconds=5))
    service.emit(Forked("child", "root", "root", Route(["a"], "b", []), at, deadline_at=deadline))
    assert await late.after(6) == ["child"]


async def test_one_that_has_ended_is_forgotten(
    service: TaskService, clock: StandingClock, late: Any
) -> None:
    first = (await service.admit(["a"], PAYLOAD, timeout_s=5)).row
    second = (await service.admit(["a"], PAYLOAD, timeout_s=5)).row
    await service.admit(["a"], PAYLOAD)
    assert late.kept == 2
    route = Route(["a"], "x-sink", [])
    end = Finished(first.id, "succeeded", to_rfc3339(clock.now()), 1, first.id, route, "")
    await service.finish(end)
    await service.cancel(second.id)
    assert late.kept == 0


async def test_after_a_restart_the_watcher_brings_deadlines_in(
    service: TaskService, late: Any
) -> None:
    """Given an open task that this process never admitted, when the watcher passes, it is kept."""
    row = (await service.admit(["a"], PAYLOAD, timeout_s=5)).row
    service._deadlines.drop(row.id)
    await service.diagnosis.look()
    assert await late.after(6) == [row.id]


async def test_the_nearest_are_kept(clock: StandingClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(_: object) -> Any:
        raise AssertionError

    monkeypatch.setattr(deadlines, "KEPT_MAX", 2)
    kept = Deadlines(clock, never, never)
    for number, seconds in enumerate([30, 10, 40, 20]):
        kept.add(f"e{number}", to_rfc3339(clock.now() + timedelta(seconds=seconds)))
    kept.add("e1", to_rfc3339(clock.now()))
    kept.add("none", None)
    assert sorted(kept._by_id) == ["e1", "e3"]
    kept.drop("e3")
    kept.drop("e3")
    assert kept.kept == 1
