"""Code that changes while an actor of real parts runs: which replica gets the next call."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from asya.local import replica_plan, source_watch
from asya.local.notices import ReplicaUp
from asya.local.process import ReplicaProcess
from asya.local.reload import Reloader
from asya.scaling import Bounds
from asya.sidecar.pool import pipeline
from asya.testing.loopback import LoopbackCall, LoopbackRuntime

ONE = Bounds(minimum=1, maximum=1)
CODE = "async def work(payload):\n    return VERSION\n"


@dataclass
class Door:
    """Holds a new replica back from the `ReplicaSet` until it is opened; the sidecar has it."""

    cell: Any
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    def close(self) -> None:
        """Before the replica is asked for."""
        spawn = self.cell.replicas.spawner.spawn

        async def late(on_end: Any, *, fork: bool) -> Any:
            process = await spawn(on_end, fork=fork)
            await self.opened.wait()
            return process

        self.cell.replicas.spawner.spawn = late


@pytest.fixture
async def door(cell: Any) -> AsyncIterator[Door]:
    made = Door(cell)
    yield made
    made.opened.set()


async def one_replica(cell: Any) -> int:
    """The process of the one replica that the sidecar has; waited for."""
    await cell.until(lambda: len(cell.sidecar.snapshot().replicas) == 1)
    (replica,) = cell.sidecar.snapshot().replicas
    return int(replica.pid)


def write(path: Path, version: int) -> None:
    """The same size each time, changed in the same second each time."""
    written = path.with_suffix(".new")
    written.write_text(CODE.replace("VERSION", str(version)))
    changed_ns = 1_700_000_000 * 10**9 + version * 10**6
    os.utime(written, ns=(changed_ns, changed_ns))
    written.replace(path)


async def test_the_second_change_within_a_second_is_loaded_too(
    cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python takes bytecode of the same second and size for current, which would be that of 1."""
    monkeypatch.setattr(source_watch, "POLL_S", 0.02)
    path = cell.folder / "handlers.py"
    write(path, 1)
    await cell.start(ONE)
    await one_replica(cell)
    actor = SimpleNamespace(name="work", spec=None, folder=cell.folder)
    reloader = Reloader(
        {"work": cell.scaled},
        cast("Any", SimpleNamespace(actors=[actor], flows=[], schedules=[])),
        read=lambda: pytest.fail("no manifest has changed"),
        refit=lambda actor: pytest.fail("no manifest has changed"),
        replay=None,
        ignore=frozenset(),
        tell=cell.told,
    )
    await reloader.start()
    try:
        for version in (2, 3):
            write(path, version)
            await cell.told.until(ReplicaUp, new_code=True)
            cell.told.clear()
            (id_,) = await cell.send(None)
            end = await cell.ledger.end_of(id_)
            assert bytes(end.result) == str(version).encode()
    finally:
        await reloader.stop()


async def test_one_whose_hello_comes_before_its_number_is_known_is_ready(
    cell: Any, door: Door
) -> None:
    """A forked replica can be quicker than the answer of its template."""
    await cell.start(Bounds(minimum=0, maximum=1))
    door.close()
    cell.replicas.start(1)
    pid = await one_replica(cell)
    assert cell.replicas.plan.pids("ready") == []
    door.opened.set()
    # nothing else happens in the sidecar that would make anybody look
    await cell.told.until(ReplicaUp, pid=pid)
    assert cell.replicas.plan.pids("ready") == [pid]


async def test_one_of_the_code_before_that_nobody_knew_of_yet_gets_no_more_calls(
    cell: Any, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it works on is finished, however long that takes."""
    monkeypatch.setattr(replica_plan, "END_WAIT_S", 0.05)
    await cell.start(Bounds(minimum=0, maximum=1, cooldown_s=60))
    door.close()
    gate = cell.folder / "gate"
    (running,) = await cell.send(str(gate))
    await cell.until(lambda: cell.sidecar.snapshot().in_flight == 1)
    (old,) = (each.pid for each in cell.sidecar.snapshot().replicas)
    cell.replicas.renew()
    door.opened.set()
    await cell.until(lambda: old in cell.replicas.plan.pids("leaving"))
    assert [each.state for each in cell.sidecar.snapshot().replicas] == ["terminating"]
    (after,) = await cell.send(0)
    await cell.ledger.end_of(after)
    await asyncio.sleep(1.5)  # one that was told to end for good is killed a second after that
    gate.touch()
    assert (await cell.ledger.end_of(running)).attempt == 1
    assert cell.sidecar.snapshot().lost == 0
    await cell.until(lambda: old not in cell.replicas.plan.pids("leaving"))


async def test_one_that_was_overtaken_by_a_change_gets_no_call_when_it_comes_up_all_the_same(
    cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM reaches it too late, or is lost while it loads."""
    signal_it = ReplicaProcess.signal

    def deaf(self: ReplicaProcess, number: signal.Signals) -> None:
        if number != signal.SIGTERM:
            signal_it(self, number)

    monkeypatch.setattr(ReplicaProcess, "signal", deaf)
    (cell.folder / "handlers.py").write_text("import time\ntime.sleep(60)\n")
    called: list[int] = []

    async def note(call: LoopbackCall) -> None:
        called.append(call.number)
        call.done()

    await cell.start(Bounds(minimum=0, maximum=1, cooldown_s=60))
    (id_,) = await cell.send(0)
    await cell.until(lambda: cell.replicas.starting)
    overtaken = cell.replicas.starting[0].pid
    cell.replicas.renew()
    late = LoopbackRuntime(note, pid=overtaken).dial(cell.sidecar)
    assert late.said_bye
    await cell.until(lambda: overtaken not in [e.pid for e in cell.sidecar.snapshot().replicas])
    assert called == []
    # the one that is started instead has it
    await cell.until(lambda: cell.replicas.starting)
    LoopbackRuntime(note, pid=cell.replicas.starting[0].pid).dial(cell.sidecar)
    await cell.ledger.end_of(id_)
    assert called == [1]


async def test_what_is_sent_after_the_change_is_told_is_not_sent_ahead_to_the_busy_old(
    cell: Any,
) -> None:
    """Fast calls are sent ahead of the last one's answer; not to a replica of the code before."""
    seen: list[tuple[str, int]] = []
    release = asyncio.Event()

    def speaks(name: str) -> Any:
        async def handle(call: LoopbackCall) -> None:
            seen.append((name, call.payload))
            if call.payload == 9:
                await release.wait()
            call.done()

        return handle

    (cell.folder / "handlers.py").write_text("import time\ntime.sleep(60)\n")
    await cell.start(ONE)
    await cell.until(lambda: cell.replicas.starting)
    LoopbackRuntime(speaks("old"), pid=cell.replicas.starting[0].pid).dial(cell.sidecar)
    for each in await cell.send(1, 2, 3):
        await cell.ledger.end_of(each)
    assert pipeline(cell.sidecar.snapshot().handler_p50_s) > 0
    long, ahead = await cell.send(9, 4)
    await cell.until(lambda: cell.sidecar.snapshot().in_flight == 2)

    cell.replicas.renew()
    await cell.until(lambda: cell.replicas.plan.pids("trying"))
    (new,) = cell.replicas.plan.pids("trying")
    LoopbackRuntime(speaks("new"), pid=new).dial(cell.sidecar)
    await cell.told.until(ReplicaUp, new_code=True)
    for each in await cell.send(5, 6):
        await cell.ledger.end_of(each)
    release.set()
    for each in (long, ahead):
        await cell.ledger.end_of(each)
    assert seen == [
        ("old", 1), ("old", 2), ("old", 3), ("old", 9), ("new", 5), ("new", 6), ("old", 4),
    ]  # fmt: skip
