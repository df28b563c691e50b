from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from asya.clock import SystemClock
from asya.local.leftovers import create_time
from asya.local.logs import RotatingLog
from asya.local.process import OOM_SCORE, Launch, ReplicaProcess

Spawn = Callable[..., Awaitable[ReplicaProcess]]

linux_only = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the limits are set on Linux only"
)


@pytest.fixture
async def spawn(tmp_path: Path) -> AsyncIterator[Spawn]:
    made: list[ReplicaProcess] = []
    (tmp_path / "log").touch()

    async def start(code: str, memory_max: int | None = None) -> ReplicaProcess:
        launch = Launch((sys.executable, "-u", "-c", code), tmp_path, {"A": "1"}, memory_max)
        log = RotatingLog(tmp_path / "log", 100_000)
        made.append(await ReplicaProcess.spawn(launch, log, SystemClock(), lambda _: None))
        return made[-1]

    yield start
    for each in made:
        each.signal(signal.SIGKILL)
        await each.closed.wait()


async def printed(tmp_path: Path, text: str) -> str:
    async with asyncio.timeout(30):
        while text not in (said := (tmp_path / "log").read_text(errors="replace")):
            await asyncio.sleep(0.01)
    return said


async def gone(pid: int) -> None:
    """Wait until a process has ended; whether anybody reaps it is not our business."""
    async with asyncio.timeout(30):
        while create_time(pid) is not None:
            await asyncio.sleep(0.01)


async def test_it_runs_where_and_with_what_it_was_told(spawn: Spawn, tmp_path: Path) -> None:
    code = "import os, sys; print(os.getcwd(), os.environ['A'], repr(sys.stdin.read()), 'end')"
    process = await spawn(code)
    await process.ended.wait()
    said = await printed(tmp_path, "end")
    assert f"{process.pid} | {tmp_path.resolve()} 1 '' end" in said
    assert process.returncode == 0


async def test_it_leads_a_group_that_ends_with_it(spawn: Spawn, tmp_path: Path) -> None:
    code = "import os, time; pid = os.fork(); print(pid, 'end', flush=True); time.sleep(60)"
    process = await spawn(code)
    said = await printed(tmp_path, "end")
    forked = int(said.split("| ")[1].split()[0])
    assert {os.getpgid(process.pid)} == {process.pid}
    process.signal(signal.SIGTERM)
    await asyncio.wait_for(process.ended.wait(), 30)
    assert process.returncode == -signal.SIGTERM
    await gone(forked)


async def test_what_it_forked_ends_also_when_it_exits_by_itself(
    spawn: Spawn, tmp_path: Path
) -> None:
    code = (
        "import os, time\n"
        "pid = os.fork()\n"
        "if pid == 0:\n    time.sleep(60)\n"
        "print(pid, 'end')\nos._exit(3)"
    )
    process = await spawn(code)
    await asyncio.wait_for(process.ended.wait(), 30)
    assert process.returncode == 3
    said = await printed(tmp_path, "end")
    await gone(int(said.split("| ")[1].split()[0]))


async def test_a_signal_to_one_that_is_gone_does_nothing(spawn: Spawn) -> None:
    process = await spawn("pass")
    await process.ended.wait()
    process.signal(signal.SIGKILL)
    assert process.returncode == 0


@linux_only
async def test_its_memory_is_limited_and_it_is_the_kernels_first_choice(spawn: Spawn) -> None:
    process = await spawn("import time; time.sleep(60)", 300 * 2**20)
    limit = resource.prlimit(process.pid, resource.RLIMIT_DATA)
    assert limit == (300 * 2**20, 300 * 2**20)
    assert int(Path(f"/proc/{process.pid}/oom_score_adj").read_text()) == OOM_SCORE
