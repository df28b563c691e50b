from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from asya.clock import SystemClock
from asya.envelope import ErrorInfo
from asya.local import replicas as module
from asya.local.leftovers import ChildRecord
from asya.local.logs import RotatingLog
from asya.local.process import Launch
from asya.local.replicas import ReplicaSet, fingerprint

Make = Callable[[str], ReplicaSet]


@pytest.fixture
def record(tmp_path: Path) -> ChildRecord:
    return ChildRecord(tmp_path / "children.jsonl")


@pytest.fixture
async def make(tmp_path: Path, record: ChildRecord, said: Any) -> AsyncIterator[Make]:
    """Replicas that run some code instead of a runtime."""
    made = []
    folder = tmp_path / "project"
    folder.mkdir()

    def start(code: str, *, program: str = sys.executable) -> ReplicaSet:
        log = RotatingLog(tmp_path / "a.log", 100_000)
        launch = Launch((program, "-c", code), folder, dict(os.environ))
        made.append(
            ReplicaSet("a", launch, log, record, clock=SystemClock(), say=said, done=lambda: 0)
        )
        return made[-1]

    yield start
    for each in made:
        await each.stop(0)
        assert not each.alive


async def started(replicas: ReplicaSet) -> int:
    async with asyncio.timeout(30):
        while not replicas.starting:
            await asyncio.sleep(0.01)
    return replicas.starting[0].pid


async def test_one_that_ends_before_its_handler_is_loaded_is_named_once(make: Make, said: Any):
    replicas = make("import sys; print('why'); sys.exit(9)")
    assert replicas.start(1) == 1
    await said.until(
        "a: error ASYA-3101: the replica exited with code 9 before the handler was loaded"
    )
    assert replicas.problem is not None
    # no other is started before the back-off is over
    assert replicas.start(1) == 0
    waits: list[float] = []
    loop = asyncio.get_running_loop()
    replicas.on_change = lambda: waits.append(replicas.not_before_s - loop.time())
    replicas._not_before_s = 0
    assert replicas.start(3) == 1
    async with asyncio.timeout(30):
        while replicas._failures < 2:
            await asyncio.sleep(0.01)
    assert len(said) == 1
    assert max(waits) > module.BROKEN_FIRST_S


async def test_the_word_of_one_that_could_not_load_may_come_after_its_end(make: Make, said: Any):
    """Given code 3, when the `failed` frame comes after the end, then only the frame is told."""
    replicas = make("import sys; sys.exit(3)")
    replicas.start(1)
    async with asyncio.timeout(30):
        while not replicas._unexplained:
            await asyncio.sleep(0.01)
    (pid,) = replicas._unexplained
    assert (replicas.alive, len(said), replicas.problem) == (False, 0, None)
    assert replicas.start(1) == 0, "it is not known yet whether another one may be tried"
    replicas.load_failed(pid, ErrorInfo("ImportError", "no x"))
    await said.until("a: error ASYA-3101: ImportError: no x")
    assert (len(said), replicas._failures, replicas._unexplained) == (1, 1, {})


async def test_one_that_ends_with_code_3_and_says_nothing_is_named(
    make: Make, said: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "FRAME_WAIT_S", 0.02)
    replicas = make("import sys; sys.exit(3)")
    replicas.start(1)
    await said.until("the replica exited with code 3 before the handler was loaded")
    assert replicas.problem is not None


async def test_a_changed_file_lets_a_broken_one_be_tried_at_once(
    make: Make, said: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "WATCH_EVERY_S", 0.05)
    replicas = make("raise SystemExit(1)")
    changed, looked = asyncio.Event(), threading.Event()

    def look(folder: Path, ignore: frozenset[Path]) -> Any:
        found = fingerprint(folder, ignore)
        looked.set()
        return found

    monkeypatch.setattr(module, "fingerprint", look)
    replicas.start(1)
    await said.until("tried again when a file")
    # what is there now is what changes are measured by
    assert await asyncio.to_thread(looked.wait, 30)
    replicas.on_change = changed.set
    (replicas.launch.folder / "handler.py").write_text("fixed")
    await asyncio.wait_for(changed.wait(), 30)
    assert replicas.start(1) == 1


async def test_what_a_runtime_says_of_its_handler_is_told(make: Make, said: Any):
    replicas = make("import time; time.sleep(60)")
    replicas.start(1)
    pid = await started(replicas)
    replicas.load_failed(pid, ErrorInfo("ImportError", "no x"))
    line = await said.until("ImportError: no x")
    assert line.startswith("a: error ASYA-3101: ImportError: no x; tried again")
    assert replicas.current == 0


async def test_a_program_that_is_not_there_is_named(make: Any, said: Any):
    replicas = make("", program="/no/such/python")
    replicas.start(1)
    await said.until("/no/such/python cannot be started")
    assert not replicas.alive
    assert (replicas.problem or "").startswith("error ASYA-1309: ")


async def test_one_that_takes_too_long_to_load_is_ended(
    make: Make, said: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "START_TIMEOUT_S", 0.2)
    replicas = make("import time; time.sleep(60)")
    replicas.start(1)
    await said.until("was not loaded after")
    async with asyncio.timeout(30):
        while replicas.alive:
            await asyncio.sleep(0.01)


async def test_ready_ones_that_die_are_started_again_ever_slower(make: Make, said: Any):
    replicas = make("import time; time.sleep(60)")
    loop = asyncio.get_running_loop()
    waits = []

    def say(text: str) -> None:
        if "was ended by" in text:
            waits.append(replicas.not_before_s - loop.time())
        said(text)

    replicas._say = say
    for _ in range(4):
        replicas._not_before_s = 0
        replicas.start(1)
        pid = await started(replicas)
        replicas.ready(pid)
        os.kill(pid, signal.SIGKILL)
        await said.until(f"replica {pid} was ended by SIGKILL")
    assert waits[0] <= 0
    assert 0 < waits[1] < waits[2] < waits[3] <= module.CRASH_MOST_S
    assert replicas.problem is None


async def test_an_envelope_done_in_between_forgives_earlier_deaths(make: Make, said: Any):
    replicas = make("import time; time.sleep(60)")
    done = 0
    replicas._done = lambda: done
    for _ in range(3):
        replicas.start(1)
        pid = await started(replicas)
        replicas.ready(pid)
        done += 1
        os.kill(pid, signal.SIGKILL)
        await said.until(f"replica {pid} was ended by SIGKILL")
        assert replicas.not_before_s <= asyncio.get_running_loop().time()


async def test_one_that_does_not_end_when_asked_is_ended_for_sure(
    make: Make, said: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "END_WAIT_S", 0.1)
    replicas = make("import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)")
    replicas.start(1)
    pid = await started(replicas)
    replicas.ready(pid)
    replicas.leave(pid)
    assert replicas.current == 0
    await said.until(f"replica {pid} down")


async def test_children_are_written_down_and_forgotten(make: Make, record: ChildRecord, said: Any):
    replicas = make("import time; time.sleep(60)")
    replicas.start(2)
    async with asyncio.timeout(30):
        while len(replicas.starting) < 2:
            await asyncio.sleep(0.01)
    assert sorted(each.pid for each in record.read()) == sorted(e.pid for e in replicas.starting)
    await replicas.stop(0)
    assert record._children == {}
    assert replicas.start(1) == 0


def test_the_fingerprint_sees_changes_but_not_those_of_caches(tmp_path: Path):
    (tmp_path / "a.py").write_text("1")
    for name in (".git", "__pycache__", "data"):
        (tmp_path / name).mkdir()
    ignore = frozenset({tmp_path / "data"})
    before = fingerprint(tmp_path, ignore)
    for name in (".git", "__pycache__", "data"):
        (tmp_path / name / "x").write_text("1")
    assert fingerprint(tmp_path, ignore) == before
    (tmp_path / "a.py").write_text("22")
    assert fingerprint(tmp_path, ignore) != before


async def ready_one(replicas: ReplicaSet) -> int:
    replicas.start(1)
    pid = await started(replicas)
    replicas.ready(pid)
    return pid


async def tried(replicas: ReplicaSet) -> int:
    async with asyncio.timeout(30):
        while not (found := [pid for pid, state in replicas._states.items() if state == "trying"]):
            await asyncio.sleep(0.01)
    return found[0]


async def test_new_code_is_tried_beside_the_old_which_is_finished_off_then(make: Make, said: Any):
    replicas = make("import time; time.sleep(60)")
    old = await ready_one(replicas)
    finished: list[int] = []
    renewed = asyncio.Event()
    replicas.on_renewed = renewed.set
    replicas.renew(finished.append)
    new = await tried(replicas)
    # the one on trial is none that the autoscaler could end, and none that it counts
    assert replicas.current == 1
    assert replicas.starting == []
    assert finished == []
    replicas.ready(new)
    assert finished == [old]
    assert renewed.is_set()
    assert replicas.current == 1
    await said.until(f"replica {new} up with the new code")


async def test_new_code_that_cannot_be_loaded_is_named_once_and_the_old_stays(
    make: Make, said: Any
):
    replicas = make("import time; time.sleep(60)")
    old = await ready_one(replicas)
    for _ in range(2):
        replicas.renew(lambda pid: pytest.fail("the old one was ended"))
        replicas.load_failed(await tried(replicas), ErrorInfo("SyntaxError", "no"))
    assert replicas.outdated == "error ASYA-3101: SyntaxError: no"
    assert len([line for line in said if "SyntaxError" in line]) == 1
    assert replicas.problem is None
    assert replicas.ready_count == replicas.current == 1
    assert old in replicas._states


async def test_a_change_during_a_trial_tries_the_newest_alone(make: Make, said: Any):
    replicas = make("import time; time.sleep(60)")
    old = await ready_one(replicas)
    finished: list[int] = []
    replicas.renew(finished.append)
    first = await tried(replicas)
    replicas.renew(finished.append)
    async with asyncio.timeout(30):
        while first in replicas._states:
            await asyncio.sleep(0.01)
    replicas.ready(await tried(replicas))
    # the first may have come up meanwhile
    assert finished == [first, old]
    assert not [line for line in said if "error" in line]
