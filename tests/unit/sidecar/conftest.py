"""One actor `a` on the memory broker, with an end actor in the same loop, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

import pytest

from asya.clock import to_rfc3339
from asya.crew import Sink, Sump
from asya.envelope import SINK, SUMP, Envelope, decode, encode, new_envelope, queue_name, raw_json
from asya.sidecar import Cancels, Sidecar, SidecarConfig
from asya.testing.ledger import MemoryLedger
from asya.testing.loopback import Handle, LoopbackRuntime
from asya.testing.virtual_time import VirtualClock, run_virtual
from asya.transports.memory.transport import MemoryBroker, MemoryTransport


class Bench:
    """Everything around one sidecar."""

    def __init__(self, **config: Any) -> None:
        self.clock = VirtualClock()
        self.broker = MemoryBroker()
        self.ledger = MemoryLedger()
        self.cancels = Cancels()
        self.runtimes: dict[int, LoopbackRuntime] = {}
        self.killed: list[int] = []
        self.changes = 0
        self.config = SidecarConfig(actor="a", **config)
        self.transport: MemoryTransport
        self.sidecar: Sidecar

    async def start(self) -> Bench:
        self.transport = MemoryTransport("default", broker=self.broker, clock=self.clock)
        await self.transport.connect()
        await self.transport.ensure(queue_name("default", "b"))
        self.sidecar = self.make_sidecar()
        await self.sidecar.start()
        return self

    def make_sidecar(self) -> Sidecar:
        sump = Sump(self.ledger)
        sidecar = Sidecar(
            self.config,
            self.transport,
            listener=self.ledger,
            ends={SINK: Sink(self.ledger, sump), SUMP: sump},
            cancels=self.cancels,
            clock=self.clock,
            kill=self.kill,
        )
        sidecar.on_change = self.note_change
        return sidecar

    def note_change(self) -> None:
        self.changes += 1

    def kill(self, pid: int) -> None:
        self.killed.append(pid)
        asyncio.get_running_loop().call_soon(self.runtimes[pid].die)

    def replica(self, handle: Handle, **options: Any) -> LoopbackRuntime:
        pid = len(self.runtimes) + 1
        runtime = LoopbackRuntime(handle, pid=pid, **options)
        self.runtimes[pid] = runtime
        return runtime.dial(self.sidecar)

    def envelope(self, *route: str, **options: Any) -> Envelope:
        payload = raw_json(options.pop("payload", {"x": 1}))
        deadline_s = options.pop("deadline_s", None)
        now = self.clock.now()
        deadline = None if deadline_s is None else now + timedelta(seconds=deadline_s)
        return new_envelope(list(route or ("a",)), payload, now=now, deadline=deadline, **options)

    async def send(self, envelope: Envelope) -> str:
        queue = queue_name("default", "a")
        await self.transport.publish(queue, encode(envelope), dedup_id=f"{envelope.id}:0")
        return envelope.id

    async def received(self, actor: str) -> list[Envelope]:
        """What stands in an actor's queue; taken out."""
        found: list[Envelope] = []

        def take(delivery: Any) -> None:
            found.append(decode(delivery.body))
            delivery.ack()

        consumer = await self.transport.consume(queue_name("default", actor), take, window=100_000)
        await asyncio.sleep(0.001)
        await consumer.close()
        return found

    async def depth(self) -> tuple[int, int, int]:
        depth = await self.transport.depth(queue_name("default", "a"))
        return depth.ready, depth.in_flight, depth.delayed

    def soon(self, seconds: float) -> str:
        return to_rfc3339(self.clock.now() + timedelta(seconds=seconds))


Scene = Callable[[Bench], Coroutine[Any, Any, None]]


@pytest.fixture
def play() -> Callable[..., None]:
    """Run a scene on virtual time with a started bench; nothing may be left held at its end."""

    def run(scene: Scene, **config: Any) -> None:
        async def whole() -> None:
            bench = await Bench(**config).start()
            await asyncio.wait_for(scene(bench), 3600 * 24)
            await bench.sidecar.drain(10)
            assert not bench.sidecar._held
            await bench.transport.close()

        run_virtual(whole())

    return run
