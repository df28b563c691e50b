"""An actor of real parts in one process: sidecar, memory transport, replicas that are processes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from asya.clock import SystemClock
from asya.crew import Sink, Sump
from asya.envelope import encode, new_envelope, queue_name, raw_json
from asya.local.actor import ScaledActor
from asya.local.autoscaler import Autoscaler
from asya.local.leftovers import ChildRecord
from asya.local.logs import RotatingLog
from asya.local.mesh_plan import ActorPlan
from asya.local.notices import Notice
from asya.local.process import Launch
from asya.local.replicas import ReplicaSet
from asya.local.spawner import Spawner
from asya.resiliency import Resiliency
from asya.scaling import Bounds
from asya.sidecar import Sidecar, SidecarConfig
from asya.sidecar.capture import Capture
from asya.testing.ledger import MemoryLedger
from asya.transports.base import Depth
from asya.transports.memory.transport import MemoryTransport

N = TypeVar("N", bound=Notice)

HANDLERS = """
import asyncio, os

async def work(seconds):
    if isinstance(seconds, str):  # until there is this file
        while not os.path.exists(seconds):
            await asyncio.sleep(0.01)
    else:
        await asyncio.sleep(seconds or 0)
    return seconds
"""


class Told(list[Notice]):
    """What the user was told; can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = asyncio.Event()

    def __call__(self, notice: Notice) -> None:
        self.append(notice)
        self._changed.set()

    def of(self, kind: type[N], **values: object) -> list[N]:
        """The notices of a kind whose fields have these values."""
        return [
            each
            for each in self
            if isinstance(each, kind)
            and all(getattr(each, name) == value for name, value in values.items())
        ]

    async def until(self, kind: type[N], **values: object) -> N:
        """The first notice of a kind with these values."""
        async with asyncio.timeout(60):
            while not (found := self.of(kind, **values)):
                self._changed.clear()
                await self._changed.wait()
        return found[0]


class CountingTransport(MemoryTransport):
    """Counts how often it is asked for a depth."""

    asked = 0

    async def depth(self, queue: str) -> Depth:
        self.asked += 1
        return await super().depth(queue)


class Cell:
    """One actor, `work`, with its autoscaler."""

    def __init__(self, folder: Path, told: Told) -> None:
        self.folder = folder
        self.told = told
        self.transport = CountingTransport("default")
        self.ledger = MemoryLedger()
        self.sidecar: Sidecar
        self.replicas: ReplicaSet
        self.autoscaler: Autoscaler
        self.scaled: ScaledActor
        self._sent = 0

    async def start(self, bounds: Bounds, *, concurrency: int = 1) -> None:
        socket = self.folder / "s"
        launch = Launch(
            argv=(sys.executable, "-P", "-m", "asya.runtime"),
            folder=self.folder,
            environment={
                "PYTHONPATH": ":".join(sys.path),
                "ASYA_SOCKET": str(socket),
                "ASYA_HANDLER": "handlers.work",
                "ASYA_PATH": str(self.folder),
                "ASYA_CONCURRENCY": str(concurrency),
            },
        )
        self.replicas = ReplicaSet(
            "work",
            Spawner(
                "work",
                launch,
                RotatingLog(self.folder / "work.log", 100_000),
                ChildRecord(self.folder / "children.jsonl"),
                clock=SystemClock(),
            ),
            tell=self.told,
            done=lambda: self.sidecar.snapshot().succeeded,
        )
        sump = Sump(self.ledger)
        self.sidecar = Sidecar(
            SidecarConfig(
                "work",
                concurrency=concurrency,
                ahead=0 if self.transport.capabilities.tells_load else 1,
            ),
            self.transport,
            ends={"x-sink": Sink(self.ledger, sump), "x-sump": sump},
            kill=self.replicas.kill,
        )
        self.sidecar.on_load_failure = self.replicas.load_failed
        self.replicas.drain = self.sidecar.finish_off
        await self.transport.connect()
        await self.sidecar.start(socket)
        plan = ActorPlan(
            "work",
            queue_name("default", "work"),
            "memory",
            bounds,
            concurrency,
            Resiliency(),
            Capture(),
        )
        self.scaled = ScaledActor(plan, self.sidecar, self.replicas)
        self.autoscaler = Autoscaler(self.transport, [self.scaled])
        self.autoscaler.start()

    async def send(self, *payloads: Any) -> list[str]:
        ids = []
        for payload in payloads:
            self._sent += 1
            now = SystemClock().now()
            made = new_envelope(["work"], raw_json(payload), now=now, id=f"e{self._sent}")
            await self.transport.publish(queue_name("default", "work"), encode(made))
            ids.append(made.id)
        return ids

    async def until(self, true: Callable[[], Any], within_s: float = 60) -> None:
        """Wait for what the sidecar's snapshot or the replicas show."""
        async with asyncio.timeout(within_s):
            while not true():
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        await self.autoscaler.stop()
        await self.sidecar.drain(0.5)
        await self.replicas.stop(2)
        await self.transport.close()


@pytest.fixture
async def told() -> Told:
    return Told()


@pytest.fixture
async def cell(tmp_path: Path, told: Told) -> AsyncIterator[Cell]:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    made = Cell(tmp_path, told)
    yield made
    await made.stop()
