"""A real template process under `Template`; what it decides is in `test_template_plan`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from asya.clock import SystemClock
from asya.local import template as module
from asya.local.leftovers import ChildRecord, create_time
from asya.local.logs import RotatingLog
from asya.local.process import Launch
from asya.local.template import ForkedProcess, Template

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="templates are for Linux")


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    (tmp_path / "handlers.py").write_text("def work(payload):\n    return payload\n")
    environment = {
        "PYTHONPATH": ":".join(sys.path),
        "ASYA_SOCKET": str(tmp_path / "no-sidecar"),
        "ASYA_HANDLER": "handlers.work",
        "ASYA_PATH": str(tmp_path),
    }
    return Launch((sys.executable, "-P", "-m", "asya.runtime"), tmp_path, environment)


@pytest.fixture
async def template(tmp_path: Path) -> AsyncIterator[Template]:
    made = Template(
        "work",
        RotatingLog(tmp_path / "work.log", 100_000),
        ChildRecord(tmp_path / "children.jsonl"),
        SystemClock(),
        idle_s=600.0,
    )
    yield made
    await made.stop()


async def pid_of(template: Template) -> int:
    """The process, as soon as it is ready."""
    async with asyncio.timeout(60):
        while template.pid is None:
            await asyncio.sleep(0.01)
    return template.pid


async def gone(pid: int) -> None:
    async with asyncio.timeout(60):
        while create_time(pid) is not None:
            await asyncio.sleep(0.01)


async def test_a_forked_replica_is_told_with_its_exit_code(
    template: Template, launch: Launch
) -> None:
    """The replica finds no sidecar and exits by itself."""
    ended: asyncio.Queue[ForkedProcess] = asyncio.Queue()
    assert await template.fork(ended.put_nowait) is None
    template.want(launch)
    parent = await pid_of(template)
    replica = await template.fork(ended.put_nowait)
    assert replica is not None
    assert replica.pid not in {0, parent}
    assert os.getsid(replica.pid) == replica.pid
    async with asyncio.timeout(60):
        assert await ended.get() is replica
    assert replica.returncode not in {None, 0}


async def test_one_that_is_killed_forks_no_more_and_the_next_request_says_so(
    template: Template, launch: Launch
) -> None:
    template.want(launch)
    parent = await pid_of(template)
    os.kill(parent, signal.SIGKILL)
    async with asyncio.timeout(60):
        while template.pid is not None:
            await asyncio.sleep(0.01)
    assert await template.fork(lambda _: None) is None


async def test_the_actor_can_refuse_it(template: Template, launch: Launch) -> None:
    template.want(replace(launch, environment={**launch.environment, module.OFF: "off"}))
    assert template._starting is None


async def test_a_stop_while_it_starts_leaves_no_process(template: Template, launch: Launch) -> None:
    template.want(launch)
    await template.stop()
    assert template.pid is None
    assert template._processes == set()


async def test_a_change_of_the_code_ends_it(template: Template, launch: Launch) -> None:
    template.want(launch)
    parent = await pid_of(template)
    template.forget()
    assert template.pid is None
    await gone(parent)
