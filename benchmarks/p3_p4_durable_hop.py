"""P3: one durable hop, idle, end to end. P4: durable hops per second under load.

The broker is an embedded nats-server with file storage; the sidecar runs in this process on uvloop,
the handler (`def echo(payload): return payload`) in a process of its own. P4 stands beside nats-py's
own JetStream API doing the same hop (fetch 64, publish confirmed, ack) without any handler process.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path

import nats
import uvloop
from harness import percentile, report, row
from hop import BATCH, Loaded, body, idle, loaded, report_cpu
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, RetentionPolicy, StreamConfig
from peer import ray

from asya import envelope as env
from asya.local.broker import NatsServer
from asya.transports.base import Transport
from asya.transports.nats.transport import NatsTransport

HOPS = int(os.environ.get("HOPS", "12000"))
IDLE = int(os.environ.get("IDLE", "400"))
RUNS = int(os.environ.get("RUNS", "3"))


async def raw_loop(url: str, hops: int) -> tuple[float, float]:
    """nats-py's own API: fetch 64, publish and wait for the ack of each, ack.

    Gives hops per second and microseconds of CPU per hop.
    """
    client = await nats.connect(url)
    js = client.jetstream()
    for name in ("PA", "PB"):
        retention = RetentionPolicy.WORK_QUEUE if name == "PA" else RetentionPolicy.LIMITS
        await js.add_stream(StreamConfig(name=name, subjects=[f"{name}.m"], retention=retention))
    await js.add_consumer("PA", ConsumerConfig(durable_name="w", ack_policy="explicit"))
    for _ in range(0, hops, BATCH):
        await asyncio.gather(*(js.publish("PA.m", body()) for _ in range(BATCH)))
    subscription = await js.pull_subscribe_bind("w", "PA")

    async def hop(message: Msg) -> None:
        envelope = env.decode(message.data)
        await js.publish("PB.m", env.encode(envelope))
        await message.ack()

    began, cpu, done = time.perf_counter(), time.process_time(), 0
    while done < hops:
        messages = await subscription.fetch(64, timeout=5)
        await asyncio.gather(*map(hop, messages))
        done += len(messages)
    rate = done / (time.perf_counter() - began)
    cpu_us = (time.process_time() - cpu) / done * 1e6
    for name in ("PA", "PB"):
        await js.delete_stream(name)
    await client.close()
    return rate, cpu_us


async def main() -> None:
    p50s, p99s, raw = [], [], []
    hops: list[Loaded] = []
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as name:
            server = NatsServer(Path(name))
            await server.start()

            async def connect(url: str = server.url) -> Transport:
                transport = NatsTransport(url, "default")
                await transport.connect()
                return transport

            try:
                took = await idle(connect, IDLE)
                p50s.append(percentile(took, 0.5))
                p99s.append(percentile(took, 0.99))
                hops.append(await loaded(connect, HOPS))
                raw.append(await raw_loop(server.url, HOPS))
            finally:
                await server.stop()
    what = "durable hop, idle, end to end, p50"
    report(row("P3", what, p50s, "ms", better="lower", target=1.5, peer=ray("hop")))
    what = "durable hop, idle, end to end, p99"
    report(row("P3b", what, p99s, "ms", better="lower", target=None))
    middle = sorted(raw)[len(raw) // 2]
    peer = {"what": "nats-py JetStream API, no handler, hops/s", "value": round(middle[0])}
    rates = [one.rate for one in hops]
    report(
        row("P4", "durable hops, loaded", rates, "hops/s", better="higher", target=4000, peer=peer)
    )
    report_cpu("P4", "nats-py JetStream API", hops, [cpu for _, cpu in raw])


if __name__ == "__main__":
    uvloop.run(main())
