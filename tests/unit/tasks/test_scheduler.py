"""The scheduler on virtual time: what fires when, once, and what becomes of missed runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from asya.chores import ChoreRunner
from asya.clock import to_rfc3339
from asya.envelope import Route
from asya.errors import StoreError
from asya.tasks.admission import Admission
from asya.tasks.idempotency import IdempotencyKey
from asya.tasks.refusals import Kind, Refusal
from asya.tasks.rules import TaskRow
from asya.tasks.schedule import MISSED_MAX, ScheduleSpec, plan, run_id
from asya.tasks.scheduler import Scheduler
from asya.tasks.store.base import ScheduleRow
from asya.testing import VirtualClock, run_virtual
from asya.timetable import Timetable

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = 3600.0


def hourly(name: str = "report", **fields: Any) -> ScheduleSpec:
    timetable = Timetable(cron="0 * * * *")
    return ScheduleSpec(name, ("a", "b"), Raw(b'{"x":1}'), timetable, "0 * * * *", **fields)


def hour(number: int) -> str:
    return to_rfc3339(START + timedelta(hours=number))


class Rows:
    """The part of a store that keeps schedules; `broken` calls fail."""

    def __init__(self) -> None:
        self.kept: dict[str, ScheduleRow] = {}
        self.broken = 0
        self.unreadable = 0
        self.reads = 0

    async def all(self) -> list[ScheduleRow]:
        self.reads += 1
        if self.unreadable:
            self.unreadable -= 1
            raise StoreError("locked")
        return [msgspec.structs.replace(row) for row in self.kept.values()]

    async def save(self, row: ScheduleRow) -> None:
        if self.broken:
            self.broken -= 1
            raise StoreError("locked")
        self.kept[row.name] = msgspec.structs.replace(row)


class Admissions:
    """A task service that takes note; the same id again is the same task."""

    def __init__(self) -> None:
        self.taken: dict[str, Any] = {}
        self.asked: list[str] = []
        self.traces: list[str | None] = []
        self.refusals: list[Refusal] = []
        self.trouble: Refusal | None = None

    async def admit(
        self,
        actors: Sequence[str],
        payload: Raw,
        *,
        id: str,
        headers: Mapping[str, Any],
        timeout_s: float | None,
        flow: str | None,
        key: IdempotencyKey | None,
    ) -> Admission:
        self.asked.append(id)
        refusal = self.trouble or (self.refusals.pop(0) if self.refusals else None)
        if refusal is not None:
            raise refusal
        self.traces.append(headers.get("traceparent"))
        self.taken.setdefault(id, (headers["schedule-due-at"], key, actors, payload, flow))
        at = headers["schedule-due-at"]
        route = Route([], actors[0], [])
        row = TaskRow(id=id, root=id, route=route, created_at=at, updated_at=at)
        return Admission(row, replayed=False)

    @property
    def due(self) -> list[str]:
        return [each[0] for each in self.taken.values()]


class Running:
    """A scheduler with the runner that calls it."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._runner = ChoreRunner(VirtualClock(START))
        self._runner.add(scheduler, "schedules")
        self._runner.start()

    async def close(self) -> None:
        await self._runner.close()


class World:
    """A store, admissions, and schedulers that come and go."""

    def __init__(self) -> None:
        self.rows = Rows()
        self.admissions = Admissions()

    def scheduler(self, *specs: Any) -> Scheduler:
        return Scheduler(
            self.admissions, self.rows, specs, namespace="default", clock=VirtualClock(START)
        )

    def running(self, *specs: ScheduleSpec) -> Running:
        """A scheduler that is run, as the task service does it."""
        return Running(self.scheduler(*specs))

    async def during(self, seconds: float, *specs: Any, count: int = 1) -> None:
        """Run schedulers side by side for a time."""
        running = [self.running(*specs) for _ in range(count)]
        await asyncio.sleep(seconds)
        for each in running:
            await each.close()


def play(story: Callable[..., Any]) -> World:
    """Run a story in a world of its own, on virtual time."""
    world = World()
    run_virtual(story(world))
    return world


def test_a_run_goes_into_the_trace_that_somebody_records() -> None:
    async def story(world: World) -> None:
        scheduler = world.scheduler(hourly())
        scheduler.trace_headers = lambda name: {"traceparent": f"trace of {name}"}
        running = Running(scheduler)
        await asyncio.sleep(HOUR + 60)
        await running.close()

    assert play(story).admissions.traces == ["trace of report"]


def test_each_due_time_is_one_run() -> None:
    world = play(lambda world: world.during(3 * HOUR + 60, hourly(flow="search")))
    assert world.admissions.due == [hour(1), hour(2), hour(3)]
    assert list(world.admissions.taken) == [
        run_id("default", "report", START + timedelta(hours=n)) for n in (1, 2, 3)
    ]
    (first, *_) = world.admissions.taken.values()
    assert first[1:] == (None, ("a", "b"), Raw(b'{"x":1}'), "search")
    row = world.rows.kept["report"]
    assert (row.last_at, row.seen_at, row.last_error) == (hour(3), hour(3), None)
    assert row.last_id == list(world.admissions.taken)[-1]


def test_two_gateways_fire_once() -> None:
    world = play(lambda world: world.during(3 * HOUR + 60, hourly(), count=2))
    assert world.admissions.due == [hour(1), hour(2), hour(3)]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("skip", [1, 5]), ("last", [1, 4, 5]), ("all", [1, 2, 3, 4, 5])],
)
def test_runs_missed_during_a_downtime(policy: str, expected: list[int]) -> None:
    async def story(world: World) -> None:
        spec = hourly(missed_runs=policy)
        await world.during(1.5 * HOUR, spec)
        await asyncio.sleep(3 * HOUR)  # down from 1:30 to 4:30
        await world.during(HOUR, spec)

    assert play(story).admissions.due == [hour(n) for n in expected]


def test_a_missed_run_that_is_skipped_is_told_of() -> None:
    async def story(world: World) -> None:
        await world.during(60, hourly(missed_runs="skip"))
        await asyncio.sleep(2.5 * HOUR)
        await world.during(60, hourly(missed_runs="skip"))

    world = play(story)
    assert world.admissions.due == []
    assert world.rows.kept["report"].last_error == (
        f"missed at {hour(2)}: nothing could be sent at that time"
    )


def test_a_restart_right_after_a_due_time_is_on_time() -> None:
    async def story(world: World) -> None:
        spec = hourly(missed_runs="skip")
        await world.during(HOUR - 10, spec)
        await asyncio.sleep(30)
        await world.during(60, spec)

    assert play(story).admissions.due == [hour(1)]


def test_what_is_made_up_for_is_bounded() -> None:
    every = ScheduleSpec(
        "tick", ("a",), Raw(b"null"), Timetable(every_s=1.0), "every 1s", missed_runs="all"
    )
    now = START + timedelta(days=3)
    steps = plan(every, START, now)
    assert len(steps.runs) == MISSED_MAX
    assert (steps.runs[-1], steps.seen_at, steps.missed) == (now, now, None)


def test_a_death_between_admission_and_note_makes_the_same_run_again() -> None:
    async def story(world: World) -> None:
        await world.during(60, hourly())
        await asyncio.sleep(HOUR - 120)
        world.rows.broken = 3
        await world.during(120, hourly())

    world = play(story)
    assert world.admissions.due == [hour(1)]
    assert len(world.admissions.asked) == 4
    assert world.rows.kept["report"].last_at == hour(1)


def test_a_store_that_cannot_be_read_at_the_start_is_no_new_store() -> None:
    async def story(world: World) -> None:
        await world.during(60, hourly())
        await asyncio.sleep(2.5 * HOUR)
        world.rows.unreadable = 4
        await world.during(60, hourly())

    # the newest missed run is made up for: what was known is known
    assert play(story).admissions.due == [hour(2)]


def test_a_thousand_schedules_are_looked_at_when_they_are_due() -> None:
    class Counted(Timetable):
        asked = 0

        def next_after(self, moment: datetime) -> datetime | None:
            Counted.asked += 1
            return super().next_after(moment)

    async def story(world: World) -> None:
        often = ScheduleSpec("often", ("a",), Raw(b"1"), Timetable(every_s=1.0), "every 1s")
        rare = [
            ScheduleSpec(f"rare-{n}", ("a",), Raw(b"1"), Counted(every_s=86400.0), "every 24h")
            for n in range(1000)
        ]
        await world.during(20, often, *rare)

    world = play(story)
    assert len(world.admissions.due) >= 19
    assert Counted.asked == 1000
    assert world.rows.reads < 50


def test_a_mesh_in_trouble_gets_the_run_when_it_is_back() -> None:
    async def story(world: World) -> None:
        world.admissions.trouble = Refusal(Kind.UNAVAILABLE, "the broker is gone")
        running = asyncio.create_task(world.during(HOUR + 120, hourly(missed_runs="skip")))
        await asyncio.sleep(HOUR + 20)
        world.admissions.trouble = None
        await running

    world = play(story)
    assert world.admissions.due == [hour(1)]
    assert world.rows.kept["report"].last_error is None


def test_a_run_that_can_never_be_admitted_is_left_out_and_told_of() -> None:
    async def story(world: World) -> None:
        world.admissions.refusals = [Refusal(Kind.UNKNOWN_ACTOR, "there is no actor 'a'")]
        running = world.running(hourly())
        await asyncio.sleep(HOUR + 60)
        (state,) = await running.scheduler.states()
        assert state.last_error == f"no run at {hour(1)}: there is no actor 'a'"
        assert (state.last_at, state.next_at) == (None, hour(2))
        await asyncio.sleep(HOUR)
        (state,) = await running.scheduler.states()
        assert (state.last_at, state.last_error) == (hour(2), None)
        await running.close()

    play(story)


def test_forbid_leaves_a_run_out_while_the_one_before_runs() -> None:
    async def story(world: World) -> None:
        world.admissions.refusals = [Refusal(Kind.KEY_TAKEN, "held", id="before")]
        await world.during(HOUR + 60, hourly(concurrency_policy="forbid"))

    world = play(story)
    assert world.admissions.due == []
    assert world.rows.kept["report"].last_error == (
        f"no run at {hour(1)}: the run before, before, has not ended"
    )


@pytest.mark.parametrize(("policy", "asked"), [("forbid", "reject"), ("replace", "replace")])
def test_runs_that_may_not_overlap_hold_a_key_until_they_end(policy: str, asked: str) -> None:
    key = hourly(concurrency_policy=policy).key
    assert key is not None
    assert (key.scope, key.rules.policy, key.rules.life_s) == ("schedule:report", asked, None)


def test_a_suspended_schedule_makes_no_runs_and_makes_none_up() -> None:
    async def story(world: World) -> None:
        running = world.running(hourly(missed_runs="all"))
        await asyncio.sleep(HOUR / 2)
        state = await running.scheduler.suspend("report", suspended=True)
        assert (state.suspended, state.next_at) == (True, None)
        await asyncio.sleep(3 * HOUR)
        # over a restart too, with hours of downtime
        await running.close()
        await asyncio.sleep(2 * HOUR)
        running = world.running(hourly(missed_runs="all"))
        await asyncio.sleep(60)
        state = await running.scheduler.suspend("report", suspended=False)
        assert (state.suspended, state.next_at) == (False, hour(6))
        await asyncio.sleep(HOUR)
        await running.close()

    assert play(story).admissions.due == [hour(6)]


def test_a_schedule_that_its_manifest_suspends_can_be_resumed() -> None:
    async def story(world: World) -> None:
        running = world.running(hourly(suspended=True))
        await asyncio.sleep(2 * HOUR)
        await running.scheduler.suspend("report", suspended=False)
        await asyncio.sleep(HOUR + 60)
        await running.close()
        # given the manifest alone, what was due while it was suspended is not missed
        del world.rows.kept["report"]
        await world.during(90, hourly(suspended=True, missed_runs="all"))

    assert play(story).admissions.due == [hour(3)]


def test_run_now_is_a_run_of_its_own() -> None:
    async def story(world: World) -> None:
        running = world.scheduler(hourly(suspended=True))
        await asyncio.sleep(10)
        task = await running.run("report", "mine")
        assert task.id == "mine"
        assert (await running.run("report")).id != "mine"
        state = await running.state("report")
        assert state.last_at == to_rfc3339(START + timedelta(seconds=10))
        with pytest.raises(Refusal, match="did you mean 'report'"):
            await running.run("reprot")
        with pytest.raises(Refusal, match="no schedule 'x'"):
            await running.suspend("x", suspended=True)

    play(story)


def test_a_schedule_that_is_over_fires_no_more() -> None:
    spec = hourly()
    ended = Timetable(cron="0 * * * *", ends_at=START + timedelta(hours=2))
    spec = ScheduleSpec("report", ("a",), Raw(b"1"), ended, "0 * * * *")
    assert play(lambda world: world.during(5 * HOUR, spec)).admissions.due == [hour(1), hour(2)]


def test_schedules_do_not_stand_in_one_anothers_way() -> None:
    class Moody(Admissions):
        async def admit(
            self, actors: Sequence[str], payload: Raw, *, headers: Mapping[str, Any], **rest: Any
        ) -> Admission:
            if headers["schedule"] == "sick":
                raise RuntimeError("a bug")
            return await super().admit(actors, payload, headers=headers, **rest)

    async def story(world: World) -> None:
        world.admissions = Moody()
        await world.during(2 * HOUR + 60, hourly("sick"), hourly("well"))

    assert play(story).admissions.due == [hour(1), hour(2)]
