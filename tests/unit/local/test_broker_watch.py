from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from asya.errors import UsageError
from asya.local import broker_watch
from asya.local.broker import NatsServer, find_binary
from asya.local.broker_watch import BrokerWatch
from asya.local.notices import (
    BrokerBack,
    BrokerGone,
    BrokerStartFailed,
    DiskFull,
    DiskHasRoom,
)

try:
    find_binary()
except UsageError:
    if os.environ.get("CI"):
        raise
    pytest.skip("there is no nats-server", allow_module_level=True)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    made = NatsServer(tmp_path / "nats")
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def watch(server: NatsServer, tmp_path: Path, told: Any) -> AsyncIterator[BrokerWatch]:
    made = BrokerWatch(server, tmp_path, told)
    made.start()
    yield made
    await made.stop()


async def test_a_killed_broker_is_back_at_once_on_the_same_port(
    server: NatsServer, watch: BrokerWatch, told: Any
) -> None:
    port = server.port
    assert watch.problem() is None
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    gone = await told.until(BrokerGone)
    assert gone.code == -signal.SIGKILL
    assert "[ASYA-4006]" in (watch.problem() or "")
    await told.until(BrokerBack)
    assert watch.problem() is None
    assert server.running
    assert server.port == port


async def test_one_that_does_not_stay_up_is_started_ever_slower(
    server: NatsServer, watch: BrokerWatch, told: Any
) -> None:
    for _ in range(3):
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await told.until(BrokerBack)
        told.clear()
    assert watch._delay_s == 2 * 2 * broker_watch.RESTART_FIRST_S


async def test_one_that_cannot_be_started_is_tried_again_and_told_once(
    server: NatsServer, watch: BrokerWatch, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = asyncio.Semaphore(0)

    async def refuse() -> None:
        tried.release()
        raise UsageError("no room")

    monkeypatch.setattr(broker_watch, "RESTART_MOST_S", 0.05)
    with monkeypatch.context() as patched:
        patched.setattr(server, "start", refuse)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        for _ in range(3):
            await asyncio.wait_for(tried.acquire(), 30)
    await told.until(BrokerBack)
    (failed,) = told[1:-1]
    assert isinstance(failed, BrokerStartFailed)
    assert str(failed.error) == "no room"


async def test_a_stop_that_was_asked_for_is_no_death(
    server: NatsServer, watch: BrokerWatch, told: Any
) -> None:
    await watch.stop()
    await server.stop()
    assert told == []


async def test_a_full_disk_is_told_and_the_broker_restarted_when_there_is_room(
    server: NatsServer, tmp_path: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_watch, "DISK_PROBLEM_EVERY_S", 0.02)
    room = False
    monkeypatch.setattr(BrokerWatch, "_has_room", lambda _: room)
    server._wedged = True
    first = server.pid
    watch = BrokerWatch(server, tmp_path, told)
    watch.start()
    await told.until(DiskFull)
    problem = watch.problem()
    assert problem is not None
    assert "restarted" in problem
    assert server.pid == first
    room = True
    await told.until(DiskHasRoom)
    assert watch.problem() is None
    assert server.pid != first
    assert len(told) == 2
    await watch.stop()
