"""From events to hops and to the lines of a stream."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from asya.events import Flown
from asya.gateway.http import present
from asya.tasks import rules
from asya.tasks.store.base import Detail
from asya.tasks.stored_events import EventRow
from asya.testing.store_contract import ended, finished, new_task, started


def rows(*notes: Any) -> list[EventRow]:
    step = rules.advance(new_task("t"), [each.event for each in notes], canceled=False)
    assert step is not None
    return step.events


def test_a_retry_is_a_hop_of_its_own() -> None:
    hops = present.hops(
        rows(
            started("t"),
            ended("t", state="retrying"),
            started("t", attempt=2),
            ended("t", attempt=2),
        )
    )
    assert [(hop.n, hop.attempt, hop.state) for hop in hops] == [
        (0, 1, "retrying"),
        (0, 2, "succeeded"),
    ]


def test_a_run_again_after_a_lost_replica_is_a_hop_of_its_own() -> None:
    hops = present.hops(rows(started("t"), ended("t", state="lost"), started("t"), ended("t")))
    assert [hop.state for hop in hops] == ["lost", "succeeded"]


def test_dropped_events_leave_hops_that_make_sense() -> None:
    hops = present.hops(rows(started("t"), started("t"), ended("t", 1)))
    assert [(hop.n, hop.state, hop.started_at is None) for hop in hops] == [
        (0, "running", False),
        (1, "succeeded", True),
    ]


def test_a_view_has_the_fields_that_are_promised() -> None:
    step = rules.finished(new_task("t"), finished("t"))
    assert step is not None
    detail = Detail(step.row, b'{"raw": 1.0}', rows(started("t")))
    encoded = msgspec.json.encode(present.envelope_view(detail))
    assert b'"result":{"raw": 1.0}' in encoded
    view = msgspec.json.decode(encoded)
    assert set(view) >= {
        "id", "parent_id", "flow", "status", "route", "progress", "attempt", "result", "error",
        "headers", "created_at", "updated_at", "deadline_at", "hops",
    }  # fmt: skip
    assert set(view["hops"][0]) == {
        "n", "actor", "attempt", "state", "enqueued_at", "started_at", "ended_at", "sent_at",
        "retry_at", "attempts_max", "edge", "replica", "error", "in", "out",
    }  # fmt: skip


def test_json_over_several_lines_stays_one_event() -> None:
    data = Raw(b'{"a":\n\r\n 1,\r"b": 2}')
    text = present.fly_text(Flown("t", "t", "a", 1, "2026", data)).decode()
    lines = text.rstrip("\n").split("\n")
    assert lines[0] == "event: fly"
    joined = "\n".join(line.removeprefix("data: ") for line in lines[1:])
    assert all(line.startswith("data: ") for line in lines[1:])
    assert msgspec.json.decode(joined)["data"] == {"a": 1, "b": 2}
