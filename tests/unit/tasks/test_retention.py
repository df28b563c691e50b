"""What is forgotten after its time."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import Raw
from tests.support.task_service import StandingClock

from asya.tasks import retention
from asya.tasks.retention import EVERY_S, Retention
from asya.tasks.store.base import Query
from asya.tasks.store.payloads import Keeping, Seen
from asya.tasks.store.sqlite.store import SqliteStore
from asya.testing.store_contract import finished, new_task, started

DAY_S = 24 * 3600.0


async def test_tasks_and_payloads_are_forgotten_after_their_time(
    tmp_path: Path, clock: StandingClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given tasks that ended and payloads, when their time is over, then they go in steps."""
    monkeypatch.setattr(retention, "TASKS_STEP", 2)
    monkeypatch.setattr(retention, "PAUSE_S", 0)
    store = SqliteStore(tmp_path / "tasks.db")
    await store.open()
    for number in range(5):
        await store.events.complete(finished(f"old{number}"))
    await store.tasks.insert(new_task("open"), b"")
    note = started("open")
    note.seen = [Seen(0, 1, "in", "2026-01-01T00:00:00.000Z", Raw(b"1"), Keeping())]
    await store.events.record([note])
    chore = Retention(store, tasks_s=2 * DAY_S, payloads_s=DAY_S)

    assert await chore.run_once(clock.now()) == EVERY_S
    assert len(await store.tasks.page(Query())) == 6
    clock.move(DAY_S + 60)
    await chore.run_once(clock.now())
    assert await store.events.payload("open", 0, "in") is None
    assert len(await store.tasks.page(Query())) == 6
    clock.move(DAY_S)
    await chore.run_once(clock.now())
    assert [row.id for row in await store.tasks.page(Query())] == ["open"]
    await store.close()
