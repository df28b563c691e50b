from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from asya.envelope import ErrorInfo, Route
from asya.events import DeadLetter, Finished, HopEnded
from asya.local.event_log import LINES_MAX, EventLog
from asya.local.log_lines import parse
from asya.local.logs import RotatingLog, tail

AT = "2026-11-23T18:25:00.000Z"
ROUTE = Route(["a"], "x-sink", [])
ERROR = ErrorInfo(type="ValueError", message="no\nwords")


class Clock:
    def __init__(self) -> None:
        self.moment = datetime(2026, 11, 23, 18, 25, tzinfo=UTC)

    def now(self) -> datetime:
        return self.moment


class Books:
    async def finish(self, end: Finished) -> bool:
        return True

    async def dead_letter(self, letter: DeadLetter) -> None: ...


@pytest.fixture
def log(tmp_path: Path) -> Any:
    made = RotatingLog(tmp_path / "x-mesh.log", 100_000)
    yield made
    made.close()


@pytest.fixture
def clock() -> Any:
    return Clock()


@pytest.fixture
def events(log: Any, clock: Any) -> Any:
    return EventLog(log, clock)


def lines(log: RotatingLog) -> list[tuple[str, str, str, str]]:
    found = [parse(line, own=True) for line in tail(log.path, 1000)]
    return [(each.level, each.actor, each.envelope, each.text) for each in found if each]


def ended(state: str, error: ErrorInfo | None = None, retry_at: str | None = None) -> HopEnded:
    return HopEnded("e", 0, "a", 1, AT, state, ROUTE, error, retry_at)


async def test_what_is_worth_a_line_has_one(log: RotatingLog, events: EventLog) -> None:
    ledger = events.ledger(Books())
    events.emit(ended("succeeded"))
    events.emit(ended("retrying", ERROR, AT))
    events.emit(ended("lost"))
    events.emit(ended("failed", ERROR))
    await ledger.dead_letter(DeadLetter("e", AT, "PolicyExhausted", "a", b""))
    await ledger.finish(Finished("e", "failed", AT, 1, "e", ROUTE, AT))
    await ledger.finish(Finished("f", "canceled", AT, 1, "f", ROUTE, AT))
    assert lines(log) == [
        ("WARNING", "a", "e", f"attempt 1 failed, tried again at {AT}: ValueError: no words"),
        ("WARNING", "a", "e", "its replica crashed; given to another"),
        ("ERROR", "a", "e", "attempt 1 failed: ValueError: no words"),
        ("ERROR", "a", "e", "to the dead letters: PolicyExhausted"),
        ("INFO", "", "f", "canceled"),
    ]


def test_a_flood_of_failures_is_counted(log: RotatingLog, events: EventLog, clock: Clock) -> None:
    for _ in range(LINES_MAX + 900):
        events.emit(ended("failed", ERROR))
    assert len(lines(log)) == LINES_MAX
    clock.moment += timedelta(seconds=1)
    events.emit(ended("lost"))
    assert [text for *_, text in lines(log)[LINES_MAX:]] == [
        "(900 lines were left out)",
        "its replica crashed; given to another",
    ]
