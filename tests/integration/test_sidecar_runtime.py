"""A sidecar and a real runtime on a real socket: what back-pressure and kills do to both."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import asya
from asya.crew import Sink, Sump
from asya.envelope import SINK, SUMP, encode, new_envelope, queue_name, raw_json
from asya.resiliency import Resiliency
from asya.sidecar import Sidecar, SidecarConfig
from asya.testing.ledger import MemoryLedger
from asya.transports.memory.transport import MemoryBroker, MemoryTransport

HANDLER = """
import time

def fan(payload):
    for i in range(payload["n"]):
        yield "x" * payload.get("size", 1)
    if payload.get("hang"):
        time.sleep(60)
"""


class Setup:
    """One actor `fan` whose frames go to the queue of `b`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = MemoryBroker()
        self.transport = MemoryTransport("default", broker=self.broker)
        self.ledger = MemoryLedger()
        self.runtimes: dict[int, subprocess.Popen[bytes]] = {}

    async def start(self) -> None:
        (self.folder / "h.py").write_text(HANDLER)
        await self.transport.connect()
        await self.transport.ensure(queue_name("default", "b"))
        sump = Sump(self.ledger)
        self.sidecar = Sidecar(
            SidecarConfig("fan", resiliency=Resiliency(actor_timeout_s=60)),
            self.transport,
            listener=self.ledger,
            ends={SINK: Sink(self.ledger, sump), SUMP: sump},
            kill=lambda pid: os.killpg(pid, signal.SIGKILL),
        )
        await self.sidecar.start(self.folder / "s")
        self.dial()

    def dial(self) -> None:
        """Start a runtime."""
        environ = {
            **os.environ,
            "ASYA_SOCKET": str(self.folder / "s"),
            "ASYA_HANDLER": "h.fan",
            "ASYA_ACTOR": "fan",
            "ASYA_PATH": str(self.folder),
            "PYTHONPATH": str(Path(asya.__file__).parents[1]),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "asya.runtime"],
            env=environ,
            cwd=self.folder,
            start_new_session=True,
        )
        self.runtimes[process.pid] = process

    async def send(self, **payload: Any) -> str:
        envelope = new_envelope(["fan", "b"], raw_json(payload), now=datetime.now(UTC))
        await self.transport.publish(queue_name("default", "fan"), encode(envelope))
        return envelope.id

    async def arrived(self, count: int) -> None:
        """Until so many messages stand in the queue of `b`."""
        async with asyncio.timeout(40):
            while (await self.transport.depth(queue_name("default", "b"))).ready != count:
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        await self.sidecar.drain(1)
        await self.transport.close()
        for process in self.runtimes.values():
            process.kill()
            process.wait()


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    found = Setup(tmp_path)
    await found.start()
    yield found
    await found.stop()


async def test_fan_outs_past_the_bound_leave_the_replica_able_to_work(setup: Setup) -> None:
    total = 0
    for count in (600, 3, 257, 1000, 3, 330, 2):
        await setup.send(n=count)
        total += count
        await setup.arrived(total)
    assert len(setup.runtimes) == 1


async def test_one_that_is_held_back_when_its_time_is_over_is_seen_to_end(setup: Setup) -> None:
    """Given a flow that the broker does not take, when the handler overruns, then its end is
    noticed although nothing was read from it, and the next replica works."""
    patient = setup.sidecar.config
    setup.sidecar.config = replace(patient, resiliency=Resiliency(actor_timeout_s=1.5))
    bad = await setup.send(n=5000, size=2000, hang=True)
    async with asyncio.timeout(30):
        while not setup.sidecar.snapshot().in_flight:
            await asyncio.sleep(0.01)
    setup.broker.available = False
    (first,) = setup.runtimes.values()
    async with asyncio.timeout(30):
        while first.poll() is None:
            await asyncio.sleep(0.01)
        while setup.sidecar.snapshot().replicas:
            await asyncio.sleep(0.01)
    setup.broker.available = True
    end = await asyncio.wait_for(setup.ledger.end_of(bad), 40)
    assert end.error is not None
    assert end.error.type == "asya.errors.ActorTimeout"
    setup.sidecar.config = patient
    setup.dial()
    before = (await setup.transport.depth(queue_name("default", "b"))).ready
    await setup.send(n=3)
    await setup.arrived(before + 3)
