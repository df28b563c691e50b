"""What a task may become."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asya.envelope import ErrorInfo, Route
from asya.events import Finished, HopEnded
from asya.tasks import rules
from asya.testing.store_contract import ended, finished, forked, new_task, started

PHASES = ["succeeded", "failed", "canceled"]


def end(phase: str) -> Finished:
    return finished("t", phase)


@pytest.mark.parametrize(
    ("done", "to_go", "percent"), [(0, 1, 0), (0, 0, 0), (1, 1, 50), (2, 1, 66), (999, 1, 99), (5, 0, 99)]
)  # fmt: skip
def test_progress_counts_the_hops_that_are_known(done: int, to_go: int, percent: int) -> None:
    assert rules.percent(done, to_go) == percent


@pytest.mark.parametrize(
    ("state", "route", "progress"),
    [
        ("succeeded", Route(["a"], "b", ["c"]), 33),
        ("succeeded", Route([], "a", ["b", "c"]), 33),
        ("succeeded", Route(["a"], "x-sink", []), 99),
        ("succeeded", Route(["a"], "b", []), 50),
        ("retrying", Route([], "a", ["b"]), 0),
        ("lost", Route([], "a", ["b"]), 0),
    ],
)
def test_progress_after_a_hop_looks_at_the_route_that_is_left(
    state: str, route: Route, progress: int
) -> None:
    assert rules.progress_after(HopEnded("t", 0, "a", 1, "2026", state, route)) == progress


def test_a_failure_without_an_error_has_its_reason_for_a_name() -> None:
    step = rules.finished(new_task("t"), finished("t", "failed", reason="DeadlineExceeded"))
    assert step is not None
    assert step.row.error is not None
    error = msgspec.json.decode(step.row.error)
    assert error == {"type": "DeadlineExceeded", "reason": "DeadlineExceeded"}


def test_a_cancel_has_no_error() -> None:
    step = rules.finished(new_task("t"), end("canceled"))
    assert step is not None
    assert step.row.error is None


def test_events_leave_tracebacks_to_the_task() -> None:
    error = ErrorInfo("E", "m", traceback="long")
    step = rules.finished(None, finished("t", "failed", error=error))
    assert step is not None
    assert b"long" in (step.row.error or b"")
    assert b"long" not in step.events[-1].data


STEP = st.one_of(
    st.builds(started, st.just("t"), st.integers(0, 1), attempt=st.integers(1, 3)),
    st.builds(
        ended,
        st.just("t"),
        st.integers(0, 1),
        attempt=st.integers(1, 3),
        state=st.sampled_from(["succeeded", "failed", "retrying", "lost"]),
    ),
    st.just(forked("t", "root")),
    st.sampled_from(PHASES).map(end),
    st.just("cancel"),
)


@given(steps=st.lists(STEP, max_size=12), known=st.booleans(), root_canceled=st.booleans())
def test_no_order_of_events_leads_backward(
    steps: list[Any], known: bool, root_canceled: bool
) -> None:
    """Given any events in any order, then status and progress only go forward, the first terminal
    state stays, and events are numbered without gaps."""
    row = new_task("t") if known else None
    order = {"pending": 0, "running": 1, "succeeded": 2, "failed": 2, "canceled": 2}
    numbers = []
    for step in steps:
        before = None if row is None else (row.status, row.progress)
        if step == "cancel":
            made = None if row is None else rules.canceled(row, "2026-01-01T00:01:00.000Z")
        elif isinstance(step, Finished):
            made = rules.finished(row, step)
        else:
            made = rules.advance(row, [step.event], canceled=root_canceled)
        if made is not None:
            row = made.row
            numbers += [event.seq for event in made.events]
        if before is None or row is None:
            continue
        status, progress = before
        assert row.progress >= progress
        assert order[row.status] > order[status] or row.status == status
    assert numbers == list(range(1, len(numbers) + 1))
    if row is not None:
        assert row.seq == len(numbers)
        assert (row.progress == 100) == (row.status == "succeeded")


def test_a_task_that_failed_stays_where_it_failed() -> None:
    """Given a hop that failed, when the end comes by way of the sink, then the route shows it."""
    row = rules.TaskRow(
        id="e", root="e", route=Route(["a"], "b", ["c"]), created_at="", updated_at=""
    )
    hop = HopEnded("e", 1, "b", 1, "2", "failed", Route(["a"], "x-sink", ["c"]))
    rules.advance(row, [hop], canceled=False)
    at_end = Finished("e", "failed", "3", 1, "e", Route(["a"], "x-sump", ["c"]), "1")
    done = rules.finished(row, at_end)
    assert done is not None
    assert done.row.route == Route(["a"], "b", ["c"])


def test_a_task_whose_hops_are_not_known_shows_its_end() -> None:
    row = rules.TaskRow(id="e", root="e", route=Route([], "a", ["b"]), created_at="", updated_at="")
    at_end = Finished("e", "failed", "3", 1, "e", Route(["a"], "x-sink", ["c"]), "1")
    done = rules.finished(row, at_end)
    assert done is not None
    assert done.row.route == Route(["a"], "x-sink", ["c"])
