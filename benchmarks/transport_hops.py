"""One durable hop, idle, on each transport: publish → sidecar → handler → message in the next queue.

The hop of P3, on real servers of NATS and RabbitMQ. Amazon SQS and Google Pub/Sub are clouds: moto's
server and Asya's own stand-in answer instead, in Python and in memory, so those two rows say what the
transports and the sidecar cost, and nothing of the services. `BROKERS="nats rabbitmq"` picks some.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop
from harness import percentile, report, row
from hop import idle

from asya.addresses import parse_address
from asya.local.broker import NatsServer
from asya.transports.base import Transport
from asya.transports.opening import open_transport

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `tests.support` is not installed
from tests.support import moto, pubsub, rabbitmq

RUNS = int(os.environ.get("RUNS", "3"))
IDLE = int(os.environ.get("IDLE", "200"))
LEASE_S = 30.0
TITLES = {
    "nats": "NATS",
    "rabbitmq": "RabbitMQ (quorum queues)",
    "sqs": "Amazon SQS: moto's server instead",
    "pubsub": "Google Pub/Sub: a stand-in of ours instead",
}
BROKERS = os.environ.get("BROKERS", " ".join(TITLES)).split()


@asynccontextmanager
async def nats(folder: Path) -> AsyncIterator[str]:
    server = NatsServer(folder)
    await server.start()
    try:
        yield server.url
    finally:
        await server.stop()


@asynccontextmanager
async def rabbit(folder: Path) -> AsyncIterator[str]:
    server = rabbitmq.RabbitServer(folder)
    await asyncio.to_thread(server.start)
    try:
        yield server.url(vhost="/")
    finally:
        await asyncio.to_thread(server.close)


@asynccontextmanager
async def sqs(folder: Path) -> AsyncIterator[str]:
    os.environ.update(moto.CREDENTIALS)
    with moto.MotoServer() as server:
        yield server.address


@asynccontextmanager
async def pub_sub(folder: Path) -> AsyncIterator[str]:
    with pubsub.PubSubFake(folder / "messages.db") as server:
        yield f"pubsub://bench?endpoint={server.endpoint}"


SERVERS = {"nats": nats, "rabbitmq": rabbit, "sqs": sqs, "pubsub": pub_sub}


async def measure(broker: str) -> None:
    p50s, p99s = [], []
    with tempfile.TemporaryDirectory() as name:
        async with SERVERS[broker](Path(name)) as address:

            async def connect() -> Transport:
                transport = open_transport(parse_address(address), "default", lease_s=LEASE_S)
                await transport.connect()
                return transport

            for _ in range(RUNS):
                took = await idle(connect, IDLE)
                p50s.append(percentile(took, 0.5))
                p99s.append(percentile(took, 0.99))
    what = f"idle hop, {TITLES[broker]}, "
    name = f"H{list(TITLES).index(broker) + 1}"
    report(row(name, what + "p50", p50s, "ms", better="lower", target=None))
    report(row(name + "b", what + "p99", p99s, "ms", better="lower", target=None))


async def main() -> None:
    for broker in BROKERS:
        await measure(broker)


if __name__ == "__main__":
    uvloop.run(main())
