"""The hop that P3, P4 and P5 measure: queue → sidecar → handler in its own process → next queue.

The sidecar runs in the benchmark's process, on uvloop; the handler is `def echo(payload): return
payload`. Any transport will do.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from harness import PAYLOAD, report, row

from asya import envelope as env
from asya.sidecar import Sidecar, SidecarConfig
from asya.transports.base import Delivery, Transport

QUEUES = ("asya-default-a", "asya-default-b")
FIRST, NEXT = QUEUES
STARTUP_S = 30
SETTLE_S = 30
CPU_RATIO = 1.6
"""The most that a hop may cost in the sidecar's process, as a multiple of the raw client's loop."""
BATCH = 500

Connect = Callable[[], Awaitable[Transport]]


class Loaded(NamedTuple):
    """Hops per second, and CPU of this process and of the handler's in microseconds per hop."""

    rate: float
    own_us: float
    runtime_us: float


def body() -> bytes:
    """An envelope of about 1 KiB that is on its way from `a` to `b`."""
    return env.encode(env.new_envelope(["a", "b"], env.raw_json(PAYLOAD), now=datetime.now(UTC)))


def start_runtime(folder: Path, socket: Path) -> subprocess.Popen[bytes]:
    """A replica of the actor `a`."""
    (folder / "handlers.py").write_text("def echo(payload):\n    return payload\n")
    environ = {
        **os.environ,
        "ASYA_SOCKET": str(socket),
        "ASYA_HANDLER": "handlers.echo",
        "ASYA_ACTOR": "a",
        "ASYA_CONCURRENCY": "1",
        "ASYA_PATH": str(folder),
    }
    return subprocess.Popen([sys.executable, "-m", "asya.runtime"], env=environ, cwd=folder)


class OneActor:
    """One sidecar and one replica on a transport."""

    def __init__(self, folder: Path, transport: Transport) -> None:
        self.folder = folder
        self.ready = asyncio.Event()
        self.sidecar = Sidecar(SidecarConfig("a"), transport, kill=lambda pid: os.kill(pid, 9))

    async def start(self) -> None:
        """Start the sidecar and the replica, wait for its hello."""
        self.sidecar.on_change = self._changed
        await self.sidecar.start(self.folder / "a.sock")
        self.runtime = start_runtime(self.folder, self.folder / "a.sock")
        await asyncio.wait_for(self.ready.wait(), STARTUP_S)

    def _changed(self) -> None:
        if not self.ready.is_set() and self.sidecar.snapshot().replicas:
            self.ready.set()

    async def stop(self) -> None:
        """Drain the sidecar, end the replica."""
        await self.sidecar.drain(2)
        self.runtime.send_signal(signal.SIGKILL)
        self.runtime.wait()

    def runtime_cpu_s(self) -> float:
        """CPU seconds of the replica so far."""
        fields = Path(f"/proc/{self.runtime.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def two_queues(connect: Connect):  # noqa: ANN201  a generator behind its decorator
    """A transport with two empty queues, gone at the end."""
    transport = await connect()
    for queue in QUEUES:
        await transport.ensure(queue)
    try:
        yield transport
    finally:
        for queue in QUEUES:
            await transport.delete(queue)
        await transport.close()


async def idle(connect: Connect, times: int) -> list[float]:
    """Milliseconds from publishing a message to seeing it in the next queue, one at a time."""
    took = []
    arrived: asyncio.Queue[float] = asyncio.Queue()

    def on_delivery(delivery: Delivery) -> None:
        arrived.put_nowait(time.perf_counter())
        delivery.ack()

    with tempfile.TemporaryDirectory() as folder:
        async with two_queues(connect) as transport:
            mesh = OneActor(Path(folder), transport)
            await mesh.start()
            consumer = await transport.consume(NEXT, on_delivery, window=1)
            for _ in range(times):
                message = body()
                began = time.perf_counter()
                await transport.publish(FIRST, message)
                took.append(((await asyncio.wait_for(arrived.get(), 30)) - began) * 1e3)
                await asyncio.sleep(0.002)
            await consumer.close()
            await mesh.stop()
    return took[times // 20 :]


async def fill(transport: Transport, messages: int) -> None:
    """Put messages into the first queue."""
    for at in range(0, messages, BATCH):
        count = min(BATCH, messages - at)
        await asyncio.gather(*(transport.publish(FIRST, body()) for _ in range(count)))


async def loaded(connect: Connect, hops: int) -> Loaded:
    """All of a full queue through one sidecar and one replica; every message is counted behind it."""
    with tempfile.TemporaryDirectory() as folder:
        async with two_queues(connect) as transport:
            await fill(transport, hops)
            mesh = OneActor(Path(folder), transport)
            await mesh.start()
            done = mesh.sidecar.snapshot().succeeded
            began, cpu, theirs = time.perf_counter(), time.process_time(), mesh.runtime_cpu_s()
            while mesh.sidecar.snapshot().succeeded < hops:
                await asyncio.sleep(0.005)
            took = time.perf_counter() - began
            own = time.process_time() - cpu
            theirs = mesh.runtime_cpu_s() - theirs
            # a hop is counted when its handler is done; the last confirms are still under way
            async with asyncio.timeout(SETTLE_S):
                while (await transport.depth(NEXT)).ready != hops:
                    await asyncio.sleep(0.02)
            await mesh.stop()
    return Loaded((hops - done) / took, own / (hops - done) * 1e6, theirs / (hops - done) * 1e6)


def report_cpu(name: str, client: str, hops: list[Loaded], raw_us: list[float]) -> None:
    """The rows of CPU per hop: the sidecar's process, the runtime, and the first by the raw loop."""
    raw = {"what": f"{client}, no handler, us", "value": round(statistics.median(raw_us))}
    for suffix, what, values, unit, target, peer in (
        ("b", "CPU of the sidecar's process per hop", [h.own_us for h in hops], "us", None, raw),
        ("c", "CPU of the runtime per hop", [h.runtime_us for h in hops], "us", None, None),
        (
            "d",
            "CPU of the sidecar's process, per that of the raw loop",
            [one.own_us / cpu for one, cpu in zip(hops, raw_us, strict=True)],
            "times",
            CPU_RATIO,
            None,
        ),
    ):
        report(row(name + suffix, what, values, unit, better="lower", target=target, peer=peer))
