"""Real processes under `ReplicaSet`; what it decides is in `test_replica_plan`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from asya.clock import SystemClock
from asya.envelope import ErrorInfo
from asya.local import replica_plan, source_watch
from asya.local.leftovers import ChildRecord
from asya.local.logs import RotatingLog
from asya.local.notices import HandlerBroken, ReplicaCrashed, ReplicaDown, ReplicaUp
from asya.local.process import Launch
from asya.local.replicas import ReplicaSet
from asya.local.spawner import Spawner

Make = Callable[..., ReplicaSet]
SLEEP = "import time; time.sleep(600)"


@pytest.fixture
def record(tmp_path: Path) -> ChildRecord:
    return ChildRecord(tmp_path / "children.jsonl")


@pytest.fixture
async def make(tmp_path: Path, record: ChildRecord, told: Any) -> AsyncIterator[Make]:
    """Replicas that run some code instead of a runtime."""
    made: list[ReplicaSet] = []
    folder = tmp_path / "project"
    folder.mkdir()

    def start(code: str, *, program: str = sys.executable) -> ReplicaSet:
        log = RotatingLog(tmp_path / "a.log", 100_000)
        launch = Launch((program, "-c", code), folder, dict(os.environ))
        spawner = Spawner("a", launch, log, record, clock=SystemClock())
        made.append(ReplicaSet("a", spawner, tell=told, done=lambda: 0))
        return made[-1]

    yield start
    for each in made:
        await each.stop(0)
        assert not each.plan.alive


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


async def started(replicas: ReplicaSet) -> int:
    await until(lambda: replicas.starting)
    return replicas.starting[0].pid


async def ready_one(replicas: ReplicaSet) -> int:
    assert replicas.start(1) == 1
    pid = await started(replicas)
    replicas.ready(pid)
    return pid


async def test_one_that_ends_by_itself_is_told_with_its_exit_code(make: Make, told: Any) -> None:
    replicas = make("import sys; sys.exit(9)")
    replicas.start(1)
    notice = await told.until(HandlerBroken)
    assert "exited with code 9" in notice.problem
    assert replicas.start(1) == 0, "no other is started before the back-off is over"


async def test_a_crash_is_told_with_its_signal_and_the_replica_can_be_replaced(
    make: Make, told: Any
) -> None:
    replicas = make(SLEEP)
    changed = asyncio.Event()
    pid = await ready_one(replicas)
    replicas.on_change = changed.set
    os.kill(pid, signal.SIGKILL)
    assert (await told.until(ReplicaCrashed)).code == -signal.SIGKILL
    assert changed.is_set()
    assert await ready_one(replicas) != pid


async def test_the_reason_that_a_runtime_gives_is_told(make: Make, told: Any) -> None:
    replicas = make(SLEEP)
    replicas.start(1)
    replicas.load_failed(await started(replicas), ErrorInfo("ImportError", "no x"))
    assert (await told.until(HandlerBroken)).problem == "error ASYA-3101: ImportError: no x"
    assert replicas.plan.current == 0


async def test_a_reason_that_does_not_come_is_not_waited_for(
    make: Make, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_plan, "FRAME_WAIT_S", 0.02)
    replicas = make("import sys; sys.exit(3)")
    replicas.start(1)
    assert "exited with code 3" in (await told.until(HandlerBroken)).problem


async def test_a_program_that_is_not_there_is_named(make: Make, told: Any) -> None:
    replicas = make("", program="/no/such/python")
    replicas.start(1)
    problem = (await told.until(HandlerBroken)).problem
    assert problem.startswith("error ASYA-1309: /no/such/python ")
    assert not replicas.plan.alive


async def test_a_changed_file_lets_a_broken_one_be_tried_at_once(
    make: Make, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_watch, "FOLDER_POLL_S", 0.02)
    replicas = make("raise SystemExit(1)")
    replicas.start(1)
    await told.until(HandlerBroken)
    changed = asyncio.Event()
    replicas.on_change = changed.set
    # The first poll may come after a write: write until a change is seen.
    async with asyncio.timeout(60):
        while not changed.is_set():
            path = replicas.spawner.launch.folder / "handler.py"
            path.write_text(path.read_text() + "#" if path.exists() else "")
            await asyncio.sleep(0.05)
    assert replicas.start(1) == 1


async def test_one_that_takes_too_long_to_load_is_ended(
    make: Make, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_plan, "START_TIMEOUT_S", 0.2)
    replicas = make(SLEEP)
    replicas.start(1)
    assert (await told.until(HandlerBroken)).problem.startswith("error ASYA-3108: ")
    await until(lambda: not replicas.plan.alive)


async def test_one_that_does_not_end_when_asked_is_ended_for_sure(
    make: Make, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_plan, "END_WAIT_S", 0.1)
    replicas = make("import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)")
    pid = await ready_one(replicas)
    replicas.leave(pid)
    assert replicas.plan.current == 0
    assert (await told.until(ReplicaDown)).pid == pid


async def test_children_are_written_down_and_forgotten(make: Make, record: ChildRecord) -> None:
    replicas = make(SLEEP)
    replicas.start(2)
    await until(lambda: len(replicas.starting) == 2)
    assert sorted(each.pid for each in record.read()) == sorted(e.pid for e in replicas.starting)
    await replicas.stop(0)
    record._write_all()
    assert record.read() == []
    assert replicas.start(1) == 0


async def test_new_code_takes_over_from_the_old(make: Make, told: Any) -> None:
    replicas = make(SLEEP)
    old = await ready_one(replicas)
    drained: list[int] = []
    renewed = asyncio.Event()

    def drain(pid: int) -> bool:
        drained.append(pid)
        return True

    replicas.drain = drain
    replicas.on_renewed = renewed.set
    replicas.renew()
    await until(lambda: replicas.plan.pids("trying"))
    (new,) = replicas.plan.pids("trying")
    assert drained == []
    replicas.ready(new)
    assert drained == [old]
    assert renewed.is_set()
    await told.until(ReplicaUp, pid=new, new_code=True)


async def test_one_that_was_not_up_when_the_code_changed_is_ended(make: Make, told: Any) -> None:
    replicas = make(SLEEP)
    replicas.start(1)
    pid = await started(replicas)
    replicas.renew()
    await told.until(ReplicaDown, pid=pid)
    assert replicas.start(1) == 1


async def test_a_start_under_way_when_the_mesh_stops_leaves_no_process(make: Make) -> None:
    replicas = make(SLEEP)
    replicas.start(2)
    await replicas.stop(0)
    assert not replicas.plan.alive
