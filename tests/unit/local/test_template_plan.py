"""When an actor has a template: tables of what happens, and a state machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asya.local.process import Launch
from asya.local.template_plan import (
    END_S,
    Action,
    Answer,
    ChildEnded,
    Close,
    DropBytecode,
    KillStray,
    Spawn,
    TemplatePlan,
    Write,
)

LAUNCH = Launch(("python",), Path("/project"), {})
OTHER = replace(LAUNCH, environment={"A": "1"})
IDLE_S = 60.0
NEVER = float("inf")


@pytest.fixture
def plan() -> TemplatePlan:
    """One that is ready at time 0."""
    made = TemplatePlan(IDLE_S)
    made.want(LAUNCH)
    made.spawned()
    made.loaded(0.0)
    return made


def test_it_is_started_once(plan: TemplatePlan) -> None:
    fresh = TemplatePlan(IDLE_S)
    assert fresh.fork(0.0) is None
    assert fresh.want(LAUNCH) == [Spawn(LAUNCH)]
    assert fresh.want(LAUNCH) == []
    assert fresh.spawned() == []
    assert (fresh.ready, fresh.fork(0.0)) == (False, None)
    fresh.loaded(5.0)
    assert (fresh.ready, fresh.idle_due_s) == (True, 5.0 + IDLE_S)
    assert plan.want(LAUNCH) == []


def test_an_idle_time_of_zero_means_none() -> None:
    assert TemplatePlan(0.0).want(LAUNCH) == []


def test_it_forks_and_tells_of_the_end_of_each_replica(plan: TemplatePlan) -> None:
    one, two = plan.fork(1.0), plan.fork(1.0)
    assert (one, two) == (1, 2)
    assert plan.forked(2, 72, 1.0) == [Answer(2, 72)]
    assert plan.forked(1, 71, 1.0) == [Answer(1, 71)]
    assert plan.ended(72, 0, 2.0) == [ChildEnded(72, 0)]
    assert plan.ended(72, 0, 2.0) == []


def test_it_ends_when_it_was_idle_and_not_while_a_replica_lives(plan: TemplatePlan) -> None:
    assert plan.tick(IDLE_S - 1) == []
    plan.fork(10.0)
    assert plan.idle_due_s == NEVER, "it is asked for one"
    plan.forked(1, 71, 10.0)
    assert plan.idle_due_s == NEVER
    plan.ended(71, 0, 100.0)
    assert plan.idle_due_s == 100.0 + IDLE_S
    assert plan.tick(100.0 + IDLE_S) == [Close(END_S)]
    assert (plan.ready, plan.idle_due_s) == (False, NEVER)
    assert plan.want(LAUNCH) == [Spawn(LAUNCH)]


def test_a_replica_that_comes_too_late_is_killed(plan: TemplatePlan) -> None:
    plan.fork(0.0)
    assert plan.gave_up(1) == [Close(END_S)]
    assert plan.forked(1, 71, 3.0) == [KillStray(71)]


def test_a_system_without_processes_keeps_the_template(plan: TemplatePlan) -> None:
    plan.fork(0.0)
    assert plan.refused(1, 0.0) == [Answer(1, None)]
    assert plan.refused(1, 0.0) == []
    assert plan.ready


def test_a_module_that_cannot_be_shared_is_tried_again_when_something_changed() -> None:
    plan = TemplatePlan(IDLE_S)
    plan.want(LAUNCH)
    plan.spawned()
    write, close = plan.off("the module has started 1 threads")
    assert isinstance(write, Write)
    assert "1 threads" in write.text
    assert close == Close(0.0)
    assert plan.want(LAUNCH) == []
    assert plan.want(OTHER) == [Spawn(OTHER)], "another manifest"
    plan.not_spawned()
    plan.forget()
    assert plan.want(LAUNCH) == [Spawn(LAUNCH)], "other code"


def test_code_that_is_not_on_the_disk_any_more_is_never_forked(plan: TemplatePlan) -> None:
    plan.fork(0.0)
    assert plan.stale("/project/a.py") == [
        DropBytecode("/project/a.py"),
        Close(END_S),
        Answer(1, None),
        Spawn(LAUNCH),
    ]


def test_one_that_was_on_its_way_when_the_code_changed_is_ended(plan: TemplatePlan) -> None:
    fresh = TemplatePlan(IDLE_S)
    fresh.want(LAUNCH)
    assert fresh.forget() == []
    assert fresh.spawned() == [Close(0.0)]
    assert fresh.want(OTHER) == [Spawn(OTHER)]


def test_its_replicas_run_on_without_it(plan: TemplatePlan) -> None:
    for number in (1, 2):
        plan.fork(0.0)
        plan.forked(number, 70 + number, 0.0)
    plan.fork(0.0)
    assert plan.end() == [Close(END_S), Answer(3, None), ChildEnded(71, None), ChildEnded(72, None)]
    assert plan.end() == []


def test_after_a_stop_there_is_none() -> None:
    plan = TemplatePlan(IDLE_S)
    plan.want(LAUNCH)
    assert plan.stop() == []
    assert plan.spawned() == [Close(0.0)]
    assert plan.want(LAUNCH) == []


class AnyOrder(RuleBasedStateMachine):
    """Messages, changes and times in any order; the process answers, or does not."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = TemplatePlan(IDLE_S)
        self.now_s = 0.0
        self.version = 0  # of the code; a process has that of its start
        self.on_its_way: int | None = None
        self.running: int | None = None
        self.pending: set[int] = set()
        self.children: set[int] = set()
        self.pids = 100
        self.stopped = False

    def perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Spawn():
                    assert self.on_its_way is None
                    assert self.running is None
                    assert not self.stopped
                    self.on_its_way = self.version
                case Close():
                    assert self.running is not None
                    self.running = None
                case Answer(number):
                    self.pending.remove(number)  # each exactly once
                case ChildEnded(pid):
                    self.children.remove(pid)
                case _:
                    pass

    @rule()
    def want(self) -> None:
        self.perform(self.plan.want(LAUNCH))

    @precondition(lambda self: self.on_its_way is not None)
    @rule(works=strategies.booleans())
    def spawns(self, works: bool) -> None:
        started, self.on_its_way = self.on_its_way, None
        if works:
            self.running = started
            self.perform(self.plan.spawned())
        else:
            self.plan.not_spawned()

    @precondition(lambda self: self.running is not None and not self.plan.ready)
    @rule(can=strategies.sampled_from([True, True, False]))
    def module_is_imported(self, can: bool) -> None:
        self.perform(self.plan.loaded(self.now_s) if can else self.plan.off("threads"))

    @rule()
    def fork(self) -> None:
        number = self.plan.fork(self.now_s)
        assert (number is not None) == self.plan.ready
        if number is not None:
            assert self.running == self.version, "it would fork code that has changed"
            self.pending.add(number)

    @precondition(lambda self: self.pending)
    @rule(data=strategies.data(), how=strategies.sampled_from(["forked", "refused", "silent"]))
    def answers(self, data: strategies.DataObject, how: str) -> None:
        number = data.draw(strategies.sampled_from(sorted(self.pending)))
        if how == "refused":
            self.perform(self.plan.refused(number, self.now_s))
        elif how == "silent":
            self.pending.remove(number)
            self.perform(self.plan.gave_up(number))
        else:
            self.pids += 1
            self.children.add(self.pids)
            self.perform(self.plan.forked(number, self.pids, self.now_s))

    @precondition(lambda self: self.children)
    @rule(data=strategies.data())
    def replica_ends(self, data: strategies.DataObject) -> None:
        pid = data.draw(strategies.sampled_from(sorted(self.children)))
        self.perform(self.plan.ended(pid, 0, self.now_s))

    @precondition(lambda self: self.running is not None)
    @rule(stale=strategies.booleans())
    def process_gives_up(self, stale: bool) -> None:
        self.perform(self.plan.stale("/project/a.py") if stale else self.plan.end())

    @rule()
    def code_changes(self) -> None:
        self.version += 1
        self.perform(self.plan.forget())

    @rule(passes_s=strategies.floats(0.0, 2 * IDLE_S))
    def time(self, passes_s: float) -> None:
        self.now_s += passes_s
        if self.plan.idle_due_s <= self.now_s:
            assert not self.pending
            assert not self.children
            self.perform(self.plan.tick(self.now_s))
            assert self.running is None, "one that is idle is ended"

    @rule(really=strategies.sampled_from([False] * 9 + [True]))
    def stop(self, really: bool) -> None:
        if really:
            self.stopped = True
            self.perform(self.plan.stop())

    @invariant()
    def one_that_is_idle_has_a_time_to_end(self) -> None:
        if self.plan.ready and not self.pending and not self.children:
            assert self.plan.idle_due_s < NEVER

    @invariant()
    def without_one_nobody_waits_for_it(self) -> None:
        if self.running is None:
            assert not self.pending
            assert not self.children
            assert self.plan.idle_due_s == NEVER


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrder: Callable[..., object] = AnyOrder.TestCase
