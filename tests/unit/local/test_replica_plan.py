"""The plan of an actor's replicas: tables of what happens and what follows, and a state machine."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asya.codes import Code
from asya.local import replica_plan
from asya.local.notices import (
    HandlerBroken,
    HandlerMended,
    NewCodeBroken,
    Notice,
    ReplicaCrashed,
    ReplicaDown,
    ReplicaStopped,
    ReplicaUp,
)
from asya.local.replica_plan import (
    Action,
    Changed,
    Drain,
    ForgetTemplate,
    Renewed,
    ReplicaPlan,
    Signal,
    Start,
    Tell,
    WarmTemplate,
)
from asya.scaling import Bounds, Candidate, Peak, desired, expendable, needed

FOLDER = Path("/project")
KILLED = -signal.SIGKILL
NO_MODULE = (Code.HANDLER_LOAD, "ImportError: no x")
BROKEN = "error ASYA-3101: ImportError: no x"


class Actor:
    """A plan with the world around it: pids in order, time by hand."""

    def __init__(self) -> None:
        self.plan = ReplicaPlan("a", FOLDER)
        self.now_s = 100.0
        self.done = 0
        self.pids = 10

    def started(self, action: Action, took_s: float = 0.0) -> int:
        """Perform a start; gives the pid."""
        assert isinstance(action, Start)
        self.pids += 1
        self.now_s += took_s
        self.plan.started(action.number, self.pids, self.now_s - took_s, self.now_s)
        return self.pids

    def start(self) -> int:
        """One more, not ready yet."""
        (action,) = self.plan.start(1, self.now_s)
        return self.started(action)

    def ready(self) -> int:
        """One more that is ready."""
        pid = self.start()
        self.plan.ready(pid, self.now_s)
        return pid

    def ended(self, pid: int, code: int | None = 0) -> list[Action]:
        return self.plan.ended(pid, code, self.done, self.now_s)

    @property
    def backoff_s(self) -> float:
        return max(0.0, self.plan.not_before_s - self.now_s)


@pytest.fixture
def actor() -> Actor:
    return Actor()


def told(actions: list[Action]) -> list[Notice]:
    return [each.notice for each in actions if isinstance(each, Tell)]


def test_a_start_has_a_pid_later_and_counts_at_once(actor: Actor) -> None:
    actions = actor.plan.start(2, actor.now_s)
    assert actions == [Start(1, trial=False), Start(2, trial=False)]
    assert (actor.plan.current, actor.plan.starting_count, actor.plan.alive) == (2, 2, True)
    assert actor.plan.started(1, 7, 99.0, 100.0) == [Changed()]
    assert actor.plan.ready(7, 101.5) == [Tell(ReplicaUp("a", 7, 2.5))]
    assert actor.plan.ready(7, 102.0) == []
    assert (actor.plan.current, actor.plan.starting_count) == (2, 1)
    assert actor.plan.pids("ready") == [7]


def test_a_handler_that_cannot_be_loaded_is_named_once_and_tried_ever_more_rarely(
    actor: Actor,
) -> None:
    waits = []
    for attempt in range(8):
        pid = actor.start()
        actions = actor.plan.load_failed(pid, *NO_MODULE, actor.now_s)
        assert told(actions) == ([HandlerBroken("a", BROKEN, FOLDER)] if attempt == 0 else [])
        assert told(actor.ended(pid, 3)) == []
        assert actor.plan.start(1, actor.plan.not_before_s - 0.01) == []
        waits.append(actor.backoff_s)
        actor.now_s = actor.plan.not_before_s
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]
    assert (actor.plan.problem, actor.plan.watching) == (BROKEN, True)
    # One at a time, however many are wanted.
    assert len(actor.plan.start(3, actor.now_s)) == 1
    assert actor.plan.start(3, actor.now_s) == []


def test_a_changed_file_lets_a_broken_actor_be_tried_at_once(actor: Actor) -> None:
    actor.ended(actor.start(), 1)
    assert actor.plan.start(1, actor.now_s) == []
    assert actor.plan.folder_changed() == [Changed()]
    pid = actor.start()
    actions = actor.plan.ready(pid, actor.now_s)
    assert told(actions) == [HandlerMended("a"), ReplicaUp("a", pid, 0.0)]
    assert (actor.plan.problem, actor.plan.watching) == (None, False)


@pytest.mark.parametrize(
    ("code", "said"),
    [(9, "exited with code 9"), (-9, "was ended by SIGKILL"), (None, "ended")],
)
def test_one_that_ends_before_it_is_ready_is_a_failed_load(
    actor: Actor, code: int | None, said: str
) -> None:
    (notice,) = told(actor.ended(actor.start(), code))
    assert isinstance(notice, HandlerBroken)
    assert notice.problem.startswith("error ASYA-3101: ")
    assert said in notice.problem


def test_the_reason_may_come_after_the_end(actor: Actor) -> None:
    """A runtime that exits with 3 has sent its reason; none is started before it is read."""
    pid = actor.start()
    assert told(actor.ended(pid, 3)) == []
    assert (actor.plan.problem, actor.plan.start(1, actor.now_s)) == (None, [])
    actions = actor.plan.load_failed(pid, *NO_MODULE, actor.now_s)
    assert told(actions) == [HandlerBroken("a", BROKEN, FOLDER)]
    assert actor.plan.next_s == float("inf")


def test_a_reason_that_does_not_come_is_not_waited_for(actor: Actor) -> None:
    actor.ended(actor.start(), 3)
    assert actor.plan.next_s == actor.now_s + replica_plan.FRAME_WAIT_S
    (notice,) = told(actor.plan.tick(actor.plan.next_s))
    assert isinstance(notice, HandlerBroken)
    assert "exited with code 3" in notice.problem


def test_a_program_that_is_not_there_is_a_failed_load(actor: Actor) -> None:
    (start,) = actor.plan.start(1, actor.now_s)
    assert isinstance(start, Start)
    text = "/no/python cannot be started"
    actions = actor.plan.not_started(start.number, Code.PYTHON_UNUSABLE, text, actor.now_s)
    assert told(actions) == [HandlerBroken("a", f"error ASYA-1309: {text}", FOLDER)]
    assert not actor.plan.alive


def test_a_handler_that_takes_too_long_to_load_is_ended(actor: Actor) -> None:
    pid = actor.start()
    assert actor.plan.next_s == actor.now_s + replica_plan.START_TIMEOUT_S
    actions = actor.plan.tick(actor.plan.next_s)
    assert actions[0] == Signal(pid, signal.SIGKILL)
    assert (actor.plan.problem or "").startswith("error ASYA-3108: ")
    assert told(actor.ended(pid, KILLED)) == []


def test_crashes_without_work_in_between_are_ever_further_apart(actor: Actor) -> None:
    waits = []
    for _ in range(8):
        pid = actor.ready()
        assert told(actor.ended(pid, KILLED)) == [ReplicaCrashed("a", pid, KILLED)]
        waits.append(actor.backoff_s)
        assert actor.plan.start(1, actor.plan.not_before_s - 0.01) == []
        actor.now_s = max(actor.now_s, actor.plan.not_before_s)
    assert waits == pytest.approx([0, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])
    assert actor.plan.problem is None


def test_an_envelope_done_in_between_forgives_earlier_crashes(actor: Actor) -> None:
    for _ in range(4):
        pid = actor.ready()
        actor.done += 1
        actor.ended(pid, KILLED)
        assert actor.backoff_s == 0


def test_one_that_is_killed_for_its_call_is_no_crash(actor: Actor) -> None:
    for _ in range(3):
        pid = actor.ready()
        assert actor.plan.kill(pid) == [Signal(pid, signal.SIGKILL)]
        assert told(actor.ended(pid, KILLED)) == [ReplicaStopped("a", pid)]
        assert actor.backoff_s == 0
    assert actor.plan.kill(pid) == []


def test_one_that_was_asked_to_end_goes_for_sure_and_leaves_a_template_to_be_warmed(
    actor: Actor,
) -> None:
    pid = actor.ready()
    assert actor.plan.leave(pid, actor.now_s) == [WarmTemplate()]
    assert (actor.plan.current, actor.plan.alive) == (0, True)
    asked_s = actor.now_s
    assert actor.plan.tick(actor.plan.next_s) == [Signal(pid, signal.SIGTERM)]
    assert actor.plan.tick(actor.plan.next_s) == [Signal(pid, signal.SIGKILL)]
    assert actor.plan.next_s == float("inf")
    assert asked_s == actor.now_s
    assert told(actor.ended(pid, KILLED)) == [ReplicaDown("a", pid)]


def test_one_that_is_not_needed_any_more_is_ended_before_it_is_ready(actor: Actor) -> None:
    pid = actor.start()
    actions = actor.plan.stop_starting(pid, actor.now_s)
    assert actions == [WarmTemplate(), Signal(pid, signal.SIGTERM)]
    assert told(actor.ended(pid, -signal.SIGTERM)) == [ReplicaDown("a", pid)]
    assert actor.plan.problem is None


# -- new code -------------------------------------------------------------------------------------


def trial(actions: list[Action]) -> Start:
    (found,) = (each for each in actions if isinstance(each, Start))
    assert found.trial
    return found


def test_new_code_is_tried_beside_the_old_which_is_drained_then(actor: Actor) -> None:
    old = [actor.ready(), actor.ready()]
    actions = actor.plan.renew()
    assert actions == [ForgetTemplate(), Start(3, trial=True), Changed()]
    new = actor.started(trial(actions))
    # It is none that the autoscaler counts, or could end.
    assert (actor.plan.current, actor.plan.pids("starting")) == (2, [])
    actions = actor.plan.ready(new, actor.now_s)
    assert actions == [
        Tell(ReplicaUp("a", new, 0.0, new_code=True)),
        *(Drain(pid) for pid in old),
        Renewed(),
        Changed(),
    ]
    assert actor.plan.pids("ready") == [new]
    # They may have long calls: no time is set for their end.
    assert actor.plan.next_s == float("inf")


def test_new_code_that_cannot_be_loaded_is_named_once_and_the_old_stays(actor: Actor) -> None:
    old = actor.ready()
    for notices in ([NewCodeBroken("a", BROKEN)], []):
        new = actor.started(trial(actor.plan.renew()))
        assert told(actor.plan.load_failed(new, *NO_MODULE, actor.now_s)) == notices
        actor.ended(new, 3)
    assert (actor.plan.new_code_problem, actor.plan.problem) == (BROKEN, None)
    assert actor.plan.pids("ready") == [old]
    new = actor.started(trial(actor.plan.renew()))
    assert Drain(old) in actor.plan.ready(new, actor.now_s)
    assert actor.plan.new_code_problem is None


@pytest.mark.parametrize("up", [True, False])
def test_one_that_is_not_ready_when_the_code_changes_is_given_up(actor: Actor, up: bool) -> None:
    pid = actor.start()
    assert actor.plan.renew() == [ForgetTemplate(), Drain(pid), Changed()]
    actions = actor.plan.drained(pid, actor.now_s, found=up)
    if up:
        assert actions == []
        assert actor.plan.next_s == float("inf"), "its call may be long"
    else:
        assert Signal(pid, signal.SIGTERM) in actions
        assert actor.plan.hellos_awaited
        # It says hello all the same, and gets no call.
        assert actor.plan.ready(pid, actor.now_s) == [Drain(pid)]
    assert actor.plan.current == 0
    assert told(actor.ended(pid)) == [ReplicaDown("a", pid)]


def test_one_that_has_no_pid_when_the_code_changes_is_given_up_as_well(actor: Actor) -> None:
    (start,) = actor.plan.start(1, actor.now_s)
    assert isinstance(start, Start)
    actor.plan.renew()
    assert actor.plan.started(start.number, 7, actor.now_s, actor.now_s) == [Drain(7)]


def test_a_change_ends_the_back_off_of_a_broken_actor(actor: Actor) -> None:
    actor.ended(actor.start(), 1)
    assert actor.plan.renew() == [ForgetTemplate(), Changed()]
    assert len(actor.plan.start(1, actor.now_s)) == 1


# -- the end --------------------------------------------------------------------------------------


def test_nothing_is_started_or_told_while_the_mesh_stops(actor: Actor) -> None:
    ready, starting = actor.ready(), actor.start()
    (late,) = actor.plan.start(1, actor.now_s)
    actor.ended(actor.start(), 3)
    assert isinstance(late, Start)
    actor.plan.stop()
    actor.now_s += 10
    assert actor.plan.start(1, actor.now_s) == []
    assert actor.plan.renew() == []
    assert actor.plan.started(late.number, 7, 0.0, actor.now_s) == [Signal(7, signal.SIGKILL)]
    assert actor.plan.load_failed(starting, *NO_MODULE, actor.now_s) == []
    for pid in (ready, starting, 7):
        assert actor.ended(pid, KILLED) == []
    assert (actor.plan.alive, actor.plan.watching) == (False, False)


# -- any order ------------------------------------------------------------------------------------

seconds = strategies.floats(0.0, 30.0)


class AnyOrder(RuleBasedStateMachine):
    """An autoscaler above the plan, processes below it, and events of all kinds in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = ReplicaPlan("a", FOLDER)
        self.bounds = Bounds(minimum=1, maximum=3, queue_length=1, cooldown_s=5)
        self.peak = Peak(self.bounds.cooldown_s)
        self.now_s = 0.0
        self.load = 0
        self.done = 0
        self.pids = 100
        self.starts: list[Start] = []
        self.processes: dict[int, int] = {}  # the version of the code, by pid
        self.known: set[int] = set()  # said hello to the sidecar
        self.draining: set[int] = set()
        self.version = 0
        self.start_versions: dict[int, int] = {}
        self.stopped = False

    # -- the performer

    def perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Start(number):
                    assert not self.stopped
                    # One by the autoscaler waits out every back-off; a trial follows a change.
                    assert action.trial or self.now_s >= self.plan.not_before_s
                    self.starts.append(action)
                    self.start_versions[number] = self.version
                case Signal(pid):
                    assert pid in self.processes
                case Drain(pid):
                    found = pid in self.known and pid not in self.draining
                    if found:
                        self.draining.add(pid)
                    self.perform(self.plan.drained(pid, self.now_s, found=found))
                case Renewed():
                    versions = {self.processes[pid] for pid in self.plan.pids("ready")}
                    assert versions == {self.version}
                case _:
                    pass

    def serving(self) -> set[int]:
        return {pid for pid in self.known - self.draining if pid in self.processes}

    # -- the world

    @rule(load=strategies.integers(0, 9))
    def scale(self, load: int) -> None:
        """The autoscaler looks, with this many messages in the queue."""
        need = needed(self.bounds, ready=load, in_flight=0)
        target = desired(need, peak=self.peak.note(self.now_s, need), current=self.plan.current)
        if target > self.plan.current:
            self.perform(self.plan.start(target - self.plan.current, self.now_s))
        elif target < self.plan.current:
            candidates = [Candidate(pid, "starting", 0.0) for pid in self.plan.pids("starting")]
            candidates += [Candidate(pid, "idle", 0.0) for pid in sorted(self.serving())]
            for pid in expendable(candidates, self.plan.current - target):
                if pid in self.known:
                    self.draining.add(pid)
                    self.perform(self.plan.leave(pid, self.now_s))
                else:
                    self.perform(self.plan.stop_starting(pid, self.now_s))

    @precondition(lambda self: self.starts)
    @rule(works=strategies.booleans())
    def process_starts(self, works: bool) -> None:
        start = self.starts.pop(0)
        if not works:
            failed = self.plan.not_started(start.number, Code.PYTHON_UNUSABLE, "no", self.now_s)
            self.perform(failed)
            return
        self.pids += 1
        self.processes[self.pids] = self.start_versions[start.number]
        self.perform(self.plan.started(start.number, self.pids, self.now_s, self.now_s))

    @precondition(lambda self: self.processes)
    @rule(data=strategies.data())
    def hello(self, data: strategies.DataObject) -> None:
        pid = data.draw(strategies.sampled_from(sorted(self.processes)))
        self.known.add(pid)
        self.perform(self.plan.ready(pid, self.now_s))

    @precondition(lambda self: self.processes)
    @rule(data=strategies.data(), reason_first=strategies.booleans())
    def load_fails(self, data: strategies.DataObject, reason_first: bool) -> None:
        pid = data.draw(strategies.sampled_from(sorted(self.processes)))
        if pid in self.known:
            return
        if reason_first:
            self.perform(self.plan.load_failed(pid, *NO_MODULE, self.now_s))
        self.end(pid, 3)
        if not reason_first:
            self.perform(self.plan.load_failed(pid, *NO_MODULE, self.now_s))

    @precondition(lambda self: self.processes)
    @rule(data=strategies.data(), code=strategies.sampled_from([0, 1, KILLED, None]))
    def dies(self, data: strategies.DataObject, code: int | None) -> None:
        self.end(data.draw(strategies.sampled_from(sorted(self.processes))), code)

    def end(self, pid: int, code: int | None) -> None:
        del self.processes[pid]
        self.known.discard(pid)
        before = self.plan.current
        counted = pid in self.plan.pids("starting", "ready")
        actions = self.plan.ended(pid, code, self.done, self.now_s)
        self.perform(actions)
        # What died is not counted any more, so the next look of the autoscaler replaces it.
        assert self.plan.current == before - counted
        assert self.stopped or Changed() in actions

    @precondition(lambda self: self.processes)
    @rule(data=strategies.data())
    def call_takes_too_long(self, data: strategies.DataObject) -> None:
        pid = data.draw(strategies.sampled_from(sorted(self.processes)))
        assert self.plan.kill(pid) == [Signal(pid, signal.SIGKILL)]

    @rule()
    def envelope_done(self) -> None:
        self.done += 1

    @rule(passes_s=seconds)
    def time(self, passes_s: float) -> None:
        self.now_s += passes_s
        while self.plan.next_s <= self.now_s:
            due_s = self.plan.next_s
            self.perform(self.plan.tick(self.now_s))
            assert self.plan.next_s > due_s

    @rule()
    def code_changes(self) -> None:
        serving = self.serving()
        self.version += 1
        self.perform(self.plan.renew())
        # No gap: whoever had its handler loaded goes on until the new code is up.
        ready = set(self.plan.pids("ready"))
        assert self.serving() & ready == serving & ready

    @precondition(lambda self: self.plan.watching)
    @rule()
    def folder_changes(self) -> None:
        self.perform(self.plan.folder_changed())

    @precondition(lambda self: not self.stopped)
    @rule(really=strategies.sampled_from([False] * 9 + [True]))
    def stop(self, really: bool) -> None:
        if really:
            self.plan.stop()
            self.stopped = True

    # -- what holds at any time

    @invariant()
    def never_more_than_the_maximum(self) -> None:
        assert self.plan.current <= self.bounds.maximum

    @invariant()
    def every_process_is_known_to_the_plan(self) -> None:
        states: Counter[str] = Counter()
        for state in ("starting", "trying", "ready", "leaving"):
            pids = self.plan.pids(state)
            states.update(map(str, pids))
        assert states == Counter(map(str, self.processes))

    @invariant()
    def what_leaves_is_drained_or_has_a_time(self) -> None:
        """One that counts no more, and of which nobody knows, must not live for ever."""
        for pid in self.plan.pids("leaving"):
            replica = self.plan._replicas[pid]
            timed = replica.due_s < float("inf")
            assert timed or replica.killed or pid in self.draining


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrder: Callable[..., object] = AnyOrder.TestCase
