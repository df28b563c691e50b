from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from asya.clock import SystemClock
from asya.local.leftovers import ChildRecord
from asya.local.logs import RotatingLog
from asya.local.process import Child, Launch
from asya.local.spawner import Spawner
from asya.local.template import Template


class Forks:
    """A template that forks as often as it is told, and then no more."""

    def __init__(self, spawner: Spawner, times: int) -> None:
        self._spawner = spawner
        self.times = times
        self.stopped = False

    async def fork(self, on_end: Callable[[Child], None]) -> Child | None:
        self.times -= 1
        return None if self.times < 0 else await self._spawner.spawn(on_end, fork=False)

    async def stop(self) -> None:
        self.stopped = True


Make = Callable[..., Spawner]


@pytest.fixture
def record(tmp_path: Path) -> ChildRecord:
    return ChildRecord(tmp_path / "children.jsonl")


@pytest.fixture
async def make(tmp_path: Path, record: ChildRecord) -> AsyncIterator[Make]:
    made: list[Spawner] = []

    def one(code: str = "pass", template: Any = None) -> Spawner:
        log = RotatingLog(tmp_path / "a.log", 100_000)
        launch = Launch((sys.executable, "-c", code), tmp_path, dict(os.environ))
        template = cast("Template | None", template)
        made.append(Spawner("a", launch, log, record, clock=SystemClock(), template=template))
        return made[-1]

    yield one
    for each in made:
        await each.close()


async def ended(spawner: Spawner, *, fork: bool = False) -> Child:
    child = await spawner.spawn(lambda _: None, fork=fork)
    async with asyncio.timeout(60):
        await child.ended.wait()
    spawner.ended(child)
    return child


async def test_a_replica_is_recorded_until_it_has_ended(make: Make, record: ChildRecord) -> None:
    spawner = make("import time; time.sleep(600)")
    child = await spawner.spawn(lambda _: None, fork=False)
    assert [(each.pid, each.name) for each in record.read()] == [(child.pid, "a")]
    os.kill(child.pid, 9)
    async with asyncio.timeout(60):
        await child.ended.wait()
    spawner.ended(child)
    record._write_all()
    assert record.read() == []


async def test_what_a_replica_printed_last_is_in_the_log(make: Make, tmp_path: Path) -> None:
    spawner = make("print('last words', end='')")
    await ended(spawner)
    await spawner.close()
    assert "last words" in (tmp_path / "a.log").read_text()


async def test_it_forks_where_it_may_and_starts_a_process_where_the_template_cannot(
    make: Make,
) -> None:
    template = Forks(make("raise SystemExit(7)"), times=1)
    spawner = make("raise SystemExit(8)", template)
    assert (await ended(spawner, fork=False)).returncode == 8
    assert (await ended(spawner, fork=True)).returncode == 7
    assert (await ended(spawner, fork=True)).returncode == 8
    await spawner.close()
    assert template.stopped


async def test_a_program_that_is_not_there_is_an_error(make: Make, tmp_path: Path) -> None:
    spawner = make()
    spawner.launch = Launch(("/no/such/program",), tmp_path, {})
    with pytest.raises(OSError, match="/no/such/program"):
        await spawner.spawn(lambda _: None, fork=False)
