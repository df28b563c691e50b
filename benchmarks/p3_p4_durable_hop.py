"""P3: one durable hop, idle, end to end. P4: durable hops per second under load.

The broker is an embedded nats-server with file storage; the sidecar runs in this process on uvloop,
the handler (`def echo(payload): return payload`) in a process of its own. P4 stands beside nats-py's
own JetStream API doing the same hop (fetch 64, publish confirmed, ack) without any handler process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import nats
import uvloop
from harness import PAYLOAD, percentile, report, row
from nats.aio.msg import Msg
from peer import ray

from asya import envelope as env
from asya.local.broker import NatsServer
from asya.sidecar import Sidecar, SidecarConfig
from asya.transports.base import Delivery
from asya.transports.nats import NatsTransport

HOPS = int(os.environ.get("HOPS", "12000"))
IDLE = int(os.environ.get("IDLE", "400"))
RUNS = int(os.environ.get("RUNS", "3"))


def body() -> bytes:
    return env.encode(env.new_envelope(["a", "b"], env.raw_json(PAYLOAD), now=datetime.now(UTC)))


def start_runtime(folder: Path, socket: Path) -> subprocess.Popen[bytes]:
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


class Mesh:
    """Broker, transport, one sidecar, one replica."""

    def __init__(self, folder: Path, transport: NatsTransport) -> None:
        self.folder = folder
        self.transport = transport
        self.ready = asyncio.Event()
        self.sidecar = Sidecar(SidecarConfig("a"), transport, kill=lambda pid: os.kill(pid, 9))
        self.runtime: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Make the queues, start the sidecar and the replica, wait for its hello."""
        await self.transport.ensure("asya-default-b")
        self.sidecar.on_change = self._changed
        await self.sidecar.start(self.folder / "a.sock")
        self.runtime = start_runtime(self.folder, self.folder / "a.sock")
        await asyncio.wait_for(self.ready.wait(), 10)

    def _changed(self) -> None:
        if not self.ready.is_set() and self.sidecar.snapshot().replicas:
            self.ready.set()

    async def stop(self) -> None:
        """Drain the sidecar, end the replica."""
        await self.sidecar.drain(2)
        assert self.runtime is not None
        self.runtime.send_signal(signal.SIGKILL)
        self.runtime.wait()


async def idle_hop(transport: NatsTransport) -> list[float]:
    arrived: asyncio.Queue[float] = asyncio.Queue()

    def on_delivery(delivery: Delivery) -> None:
        arrived.put_nowait(time.perf_counter())
        delivery.ack()

    consumer = await transport.consume("asya-default-b", on_delivery, window=1)
    took = []
    for _ in range(IDLE):
        message = body()
        began = time.perf_counter()
        await transport.publish("asya-default-a", message)
        took.append((await arrived.get()) - began)
        await asyncio.sleep(0.002)
    await consumer.close()
    return took[20:]


async def loaded(folder: Path, url: str) -> tuple[float, float, float]:
    """Hops per second, and CPU of this process and of the runtime in microseconds per hop."""
    transport = NatsTransport(url, "default")
    await transport.connect()
    await transport.ensure("asya-default-a")
    for _ in range(0, HOPS, 500):
        await asyncio.gather(*(transport.publish("asya-default-a", body()) for _ in range(500)))
    mesh = Mesh(folder, transport)
    began, cpu = time.perf_counter(), time.process_time()
    await mesh.start()
    child = f"/proc/{mesh.runtime.pid}/stat"
    began, cpu, done = time.perf_counter(), time.process_time(), mesh.sidecar.snapshot().succeeded
    while mesh.sidecar.snapshot().succeeded < HOPS:
        await asyncio.sleep(0.005)
    took = time.perf_counter() - began
    hops = HOPS - done
    own = (time.process_time() - cpu) / hops * 1e6
    ticks = sum(map(int, Path(child).read_text().rsplit(")", 1)[1].split()[11:13]))
    theirs = ticks / os.sysconf("SC_CLK_TCK") / HOPS * 1e6
    # a hop is counted when its handler is done; the last confirms are still under way
    async with asyncio.timeout(10):
        while (await transport.depth("asya-default-b")).ready != HOPS:
            await asyncio.sleep(0.02)
    await mesh.stop()
    await transport.delete("asya-default-a")
    await transport.delete("asya-default-b")
    await transport.close()
    return hops / took, own, theirs


async def peer(url: str) -> float:
    """nats-py's own API: fetch 64, publish and wait for the ack of each, ack."""
    from nats.js.api import ConsumerConfig, RetentionPolicy, StreamConfig

    client = await nats.connect(url)
    js = client.jetstream()
    for name in ("PA", "PB"):
        retention = RetentionPolicy.WORK_QUEUE if name == "PA" else RetentionPolicy.LIMITS
        await js.add_stream(StreamConfig(name=name, subjects=[f"{name}.m"], retention=retention))
    await js.add_consumer("PA", ConsumerConfig(durable_name="w", ack_policy="explicit"))
    for _ in range(0, HOPS, 500):
        await asyncio.gather(*(js.publish("PA.m", body()) for _ in range(500)))
    subscription = await js.pull_subscribe_bind("w", "PA")

    async def hop(message: Msg) -> None:
        envelope = env.decode(message.data)
        await js.publish("PB.m", env.encode(envelope))
        await message.ack()

    began, done = time.perf_counter(), 0
    while done < HOPS:
        messages = await subscription.fetch(64, timeout=5)
        await asyncio.gather(*map(hop, messages))
        done += len(messages)
    rate = HOPS / (time.perf_counter() - began)
    for name in ("PA", "PB"):
        await js.delete_stream(name)
    await client.close()
    return rate


async def main() -> None:
    p50s, p99s, rates, own, theirs, peers = [], [], [], [], [], []
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            server = NatsServer(folder / "data")
            await server.start()
            try:
                transport = NatsTransport(server.url, "default")
                await transport.connect()
                mesh = Mesh(folder, transport)
                await mesh.start()
                took = await idle_hop(transport)
                p50s.append(percentile(took, 0.5) * 1e3)
                p99s.append(percentile(took, 0.99) * 1e3)
                await mesh.stop()
                await transport.delete("asya-default-a")
                await transport.delete("asya-default-b")
                await transport.close()
                rate, mine, runtime = await loaded(folder, server.url)
                rates.append(rate)
                own.append(mine)
                theirs.append(runtime)
                peers.append(await peer(server.url))
            finally:
                await server.stop()
    hop = "durable hop, idle, end to end, p50"
    report(row("P3", hop, p50s, "ms", better="lower", target=1.5, peer=ray("hop")))
    report(
        row("P3b", "durable hop, idle, end to end, p99", p99s, "ms", better="lower", target=None)
    )
    loop = {"what": "nats-py JetStream API, no handler, hops/s", "value": sorted(peers)[RUNS // 2]}
    report(
        row("P4", "durable hops, loaded", rates, "hops/s", better="higher", target=4000, peer=loop)
    )
    report(
        row("P4b", "CPU of the sidecar's process per hop", own, "us", better="lower", target=None)
    )
    report(row("P4c", "CPU of the runtime per hop", theirs, "us", better="lower", target=None))


if __name__ == "__main__":
    uvloop.run(main())
