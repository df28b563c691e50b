"""One scenario per cause. The time is noon, the envelope is `e`, its actor is `embedder`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from asya.cli.app import COMMANDS, find
from asya.tasks.diagnosis.latency import ActorLatency, Latency
from asya.tasks.diagnosis.why import (
    ActorFacts,
    DeadLetterFact,
    Facts,
    FailureFacts,
    Position,
    Times,
    why,
)
from asya.tasks.mesh import ActorStatus, ReplicaStatus
from asya.transports.base import Depth

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PACE = ActorLatency(Latency(100, 1.2, 4.0), Latency(100, 0.001, 0.5))


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def actor(*states: str, **fields: Any) -> ActorStatus:
    """The actor with replicas in these states, pids from 11 on, for a second."""
    replicas = [ReplicaStatus(11 + n, state, after(-1)) for n, state in enumerate(states)]
    queue = fields.pop("queue", Depth(ready=0, in_flight=0, delayed=0))
    return ActorStatus("embedder", "nats", queue, replicas, **{"replicas_max": 2} | fields)


def facts(**fields: Any) -> Facts:
    """An envelope that has come a minute ago and waits in the queue of its first actor."""
    known: dict[str, Any] = {
        "status": "pending",
        "created_at": after(-60),
        "updated_at": after(-60),
        "position": Position("queued", "embedder", after(-60)),
        "actor": actor("idle"),
        "pace": PACE,
    }
    known |= fields
    of_times = ("created_at", "updated_at", "not_before", "deadline")
    of_failure = ("error", "reason", "dead_at", "letter")
    of_actor = {"actor": "status", "pace": "latency", "nearest_actor": "nearest"}
    of_actor |= {"ahead": "ahead", "newest_start": "newest_start"}
    return Facts(
        "e",
        NOON,
        times=Times(**{name: known.pop(name) for name in of_times if name in known}),
        failure=FailureFacts(**{name: known.pop(name) for name in of_failure if name in known}),
        at=ActorFacts(**{to: known.pop(name) for name, to in of_actor.items() if name in known}),
        **known,
    )


def running(for_s: float, replica: int = 11) -> dict[str, Any]:
    position = Position("running", "embedder", after(-for_s), 0, 1, replica)
    return {"status": "running", "position": position, "actor": actor("busy")}


def test_one_that_nobody_knows_was_never_accepted() -> None:
    found = why(Facts("e9", NOON, nearest="e1"))
    assert found.kind == "unknown"
    assert found.cause.startswith("Never accepted: no envelope e9 is known")
    assert "the nearest id is e1" in found.evidence
    assert found.remedy[0].command == "asya why e1"
    assert why(Facts("e9", NOON)).remedy == []


def test_one_that_succeeded_is_done() -> None:
    found = why(facts(status="succeeded", updated_at=after(-58), position=None, actor=None))
    assert found.cause == "Done: it succeeded at 2026-01-01 11:59:02 UTC, 2 s after it came."
    assert found.remedy[0].command == "asya watch e"


def test_one_that_was_canceled_says_so() -> None:
    found = why(facts(status="canceled", position=None, actor=None))
    assert found.kind == "canceled"
    assert found.cause.startswith("Canceled at 2026-01-01 11:59:00 UTC")


def test_a_dead_one_has_its_error_and_how_to_send_it_again() -> None:
    found = why(
        facts(
            status="failed", error="ValueError: no", reason="PolicyExhausted", dead_at=after(-5),
            position=None, actor=None,
        )
    )  # fmt: skip
    assert found.kind == "dead"
    assert found.cause.endswith(": ValueError: no")
    assert found.evidence[0] == "reason: PolicyExhausted"
    assert [each.command for each in found.remedy][:2] == ["asya dead retry e", "asya dead show e"]


def test_a_dead_one_that_was_sent_again_leads_to_its_successor() -> None:
    """Given a dead letter that was retried, then it is not offered as if nothing had happened."""
    found = why(
        facts(
            status="failed", error="ValueError: no", reason="PolicyExhausted", dead_at=after(-5),
            position=None, letter=DeadLetterFact("retried", after(-2), "e2"),
        )
    )  # fmt: skip
    assert found.kind == "retried"
    assert found.cause.startswith("Sent again as e2 at ")
    assert [each.command for each in found.remedy][:2] == [
        "asya why e2",
        "asya dead retry e --force",
    ]


def test_a_dead_one_that_was_thrown_away_cannot_be_sent_again() -> None:
    letter = DeadLetterFact("purged", after(-2))
    found = why(
        facts(status="failed", error="ValueError: no", dead_at=NOON, letter=letter, position=None)
    )
    assert found.kind == "failed"
    assert "thrown away" in found.evidence[-1]
    assert [each.command for each in found.remedy] == ["asya trace e"]


def test_one_that_failed_by_its_deadline_is_no_dead_letter() -> None:
    found = why(
        facts(status="failed", error="x", reason="DeadlineExceeded", position=None, actor=None)
    )
    assert found.kind == "deadline"
    assert found.cause.startswith("Its deadline passed: it failed at")


def test_one_that_others_deal_with_failed() -> None:
    found = why(
        facts(status="failed", error=None, reason="PolicyRouted", position=None, actor=None)
    )
    assert (found.kind, found.cause.endswith(": PolicyRouted")) == ("failed", True)


def test_a_running_one_tells_how_long_and_what_is_usual() -> None:
    found = why(facts(**running(12.0)))
    assert found.cause == "Running for 12 s in replica 11 of embedder (its p99 is 4 s)."
    assert [each.command for each in found.remedy] == [
        "asya logs embedder --envelope e",
        "asya cancel e",
    ]
    assert "handler: p50 1.2 s, p99 4 s; queue: p99 500 ms (last 100 calls)" in found.evidence


def test_one_that_runs_ten_times_longer_than_usual_may_be_stuck() -> None:
    assert why(facts(**running(41.0))).cause.startswith("Stuck? Running for 41 s")
    assert not why(facts(**running(39.0))).cause.startswith("Stuck?")


def test_one_whose_replica_is_gone_comes_back() -> None:
    found = why(facts(**running(12.0, replica=99)))
    assert found.kind == "replica-gone"
    assert "replica 99 of embedder is gone" in found.cause


def test_a_paused_one_waits_for_somebody() -> None:
    found = why(facts(status="paused"))
    assert found.cause.startswith("Paused since 2026-01-01 11:59:00 UTC")


@pytest.mark.parametrize("problem", ["the disk is full", "the broker does not answer"])
def test_a_mesh_in_trouble_is_the_cause_of_all_that_waits(problem: str) -> None:
    found = why(facts(problem=problem))
    assert found.cause == f"The mesh cannot work now: {problem}."
    assert why(facts(problem=problem, **running(1.0))).kind == "running"


def test_one_that_was_asked_for_later_is_delayed() -> None:
    found = why(facts(not_before=after(3600)))
    assert found.cause.startswith("Delayed: it may begin at 2026-01-01 13:00:00 UTC, in 1h")
    assert why(facts(not_before=after(-1))).kind != "delayed"


def test_one_that_is_stored_and_not_published_waits_for_that() -> None:
    found = why(facts(published=False))
    assert found.cause == "Stored, and not yet known to be in its first queue."


def test_one_that_waits_for_its_retry_says_which_and_when() -> None:
    position = Position(
        "retrying", "embedder", after(-2), 0, 1, None, after(18), 3, "ConnectionError: reset"
    )
    found = why(facts(status="running", position=position))
    assert found.cause == (
        "Waits for attempt 2 of 3 at embedder, at 2026-01-01 12:00:18 UTC, in 18 s."
    )
    assert found.evidence[0] == "attempt 1 failed: ConnectionError: reset"


def test_a_retry_whose_time_has_come_stands_in_the_queue() -> None:
    position = Position("retrying", "embedder", after(-20), 0, 1, None, after(-2), 3, "x")
    found = why(facts(status="running", position=position, actor=actor()))
    assert found.kind == "starting"


def test_one_whose_end_is_being_stored_is_nearly_done() -> None:
    found = why(
        facts(status="running", position=Position("queued", "x-sink", after(-1)), actor=None)
    )
    assert found.kind == "ending"


def test_one_that_waits_for_an_actor_of_no_mesh_gets_the_nearest_name() -> None:
    position = Position("queued", "embeder", after(-60))
    found = why(facts(position=position, actor=None, nearest_actor="embedder"))
    assert found.cause == (
        "Waits for embeder, which is not part of this mesh; the nearest is embedder."
    )
    assert found.remedy[0].command == "asya ps"


def test_one_whose_deadline_passed_in_the_queue_ends_when_its_turn_comes() -> None:
    found = why(facts(deadline=after(-3), actor=actor("busy")))
    assert found.cause.startswith("Its deadline passed 3 s ago")


def test_one_whose_actor_cannot_load_has_the_last_error() -> None:
    broken = actor(load_error="there is no module 'nope'", start_at=after(30))
    found = why(facts(actor=broken))
    assert found.cause == (
        "Waits for a replica of embedder, which cannot start: there is no module 'nope'."
    )
    assert found.evidence[0] == "tried again when a file of its folder changes, and in 30 s"
    assert found.remedy[0].command == "asya logs embedder"


@pytest.mark.parametrize(
    ("runs", "kind", "cause"),
    [
        (actor("starting"), "starting", "Waits for a replica of embedder, which starts for 1 s."),
        (actor(), "starting", "Waits for a replica of embedder, which is about to be started."),
        (
            actor(start_at=after(2)),
            "crashing",
            "The replicas of embedder died; the next one is started in 2 s.",
        ),
        (
            actor(replicas_max=0),
            "no-replicas",
            "embedder may have no replica: its maxReplicaCount is 0.",
        ),
    ],
)
def test_one_without_a_replica_waits_for_it(runs: ActorStatus, kind: str, cause: str) -> None:
    found = why(facts(actor=runs))
    assert (found.kind, found.cause) == (kind, cause)


def test_one_behind_others_has_their_number_and_an_estimate() -> None:
    runs = actor("busy", "busy", rate=2.0, queue=Depth(ready=40, in_flight=2, delayed=0))
    found = why(facts(ahead=20, actor=runs))
    assert found.cause == (
        "Queued behind about 20 others at embedder: all 2 replicas are busy. "
        "At 2 per second that takes about 10 s."
    )
    assert "maxReplicaCount" in found.remedy[0].does


def test_an_estimate_is_no_good_while_what_runs_is_slow() -> None:
    runs = actor("busy", rate=2.0, queue=Depth(ready=3, in_flight=1, delayed=0))
    found = why(facts(ahead=3, actor=runs, newest_start=after(-30)))
    assert found.cause.endswith(
        "its one replica is busy. What runs there takes longer than usual: 30 s so far."
    )
    assert "At 2 per second" in why(facts(ahead=3, actor=runs, newest_start=after(-3))).cause


def test_behind_are_never_more_than_the_broker_has() -> None:
    runs = actor("busy", queue=Depth(ready=1, in_flight=0, delayed=0), replicas_max=5)
    found = why(facts(ahead=20, actor=runs))
    assert found.cause == "Queued behind about 1 other at embedder: its one replica is busy."
    assert "more replicas start" in found.remedy[0].does


def test_one_that_has_just_come_is_on_its_way() -> None:
    assert why(facts(position=Position("queued", "embedder", after(-0.2)))).kind == "on-its-way"
    assert why(facts()).kind == "next"


def test_children_are_told_whatever_the_cause() -> None:
    told = "its fan-out made 3 children: 1 running, 2 succeeded (asya trace e --children)"
    children = {"succeeded": 2, "running": 1}
    done = why(facts(status="succeeded", position=None, actor=None, children=children))
    assert done.evidence == [told]
    assert why(facts(children=children)).evidence[-1] == told


def test_remedies_are_commands_that_exist() -> None:
    every = [
        facts(), facts(**running(1)), facts(status="paused"), facts(problem="x"),
        facts(actor=actor()), facts(actor=None), facts(not_before=after(9)),
        facts(published=False), facts(ahead=3, actor=actor("busy", queue=Depth(3, 1, 0))),
        facts(status="succeeded", position=None), facts(status="failed", dead_at=NOON, position=None),
        facts(status="failed", dead_at=NOON, letter=DeadLetterFact("retried", NOON, "e2"), position=None),
    ]  # fmt: skip
    commands = {find(each.command.split()[1:])[0] for one in every for each in why(one).remedy}
    assert len(commands) > 4
    assert commands <= {*COMMANDS}
