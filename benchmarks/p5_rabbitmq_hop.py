"""P5: durable hops per second on RabbitMQ, beside Celery, Dramatiq and FastStream in the same run.

A private node of the RabbitMQ that is installed, without its management plugin. Ours: quorum queues,
publishes confirmed before the ack, sidecar and handler in processes of their own, as P4. The peers
do chains of three steps on two worker processes with their own classic durable queues; a chain counts
as three hops (`make bench-peers`, `peers/chains.py`). The raw loop is pika's AsyncioConnection doing
the same hop (64 at a time, mandatory, confirmed, ack after the confirm) in this process, without
sidecar or handler.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pika
import uvloop
from harness import percentile, report, row
from hop import FIRST, NEXT, Loaded, fill, idle, loaded, report_cpu, two_queues
from peer import task_queue
from pika.adapters.asyncio_connection import AsyncioConnection

from asya import envelope as env
from asya.addresses import parse_address
from asya.transports.base import Transport
from asya.transports.rabbitmq.transport import RabbitTransport

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `tests.support` is not installed
from tests.support.rabbitmq import RabbitServer

HOPS = int(os.environ.get("HOPS", "8000"))
CHAINS = int(os.environ.get("CHAINS", "1500"))
IDLE = int(os.environ.get("IDLE", "300"))
RUNS = int(os.environ.get("RUNS", "3"))
PEERS = ("celery", "faststream", "dramatiq")
WINDOW = 64


class RawLoop:
    """The hop in pika's callbacks."""

    def __init__(self, url: str, hops: int) -> None:
        self._left = self._hops = hops
        self._url = url
        self._pending: dict[int, int] = {}
        self._tag = 0
        self._properties = pika.BasicProperties(delivery_mode=2)

    async def run(self) -> tuple[float, float]:
        """Hops per second and microseconds of CPU per hop."""
        self._done = asyncio.Event()
        connection = AsyncioConnection(
            pika.URLParameters(self._url),
            on_open_callback=lambda made: made.channel(on_open_callback=self._begin),
            custom_ioloop=asyncio.get_running_loop(),
        )
        await self._done.wait()
        connection.close()
        while not connection.is_closed:
            await asyncio.sleep(0.01)
        return self._hops / self._wall, self._cpu / self._hops * 1e6

    def _begin(self, channel: Any) -> None:
        self._channel = channel
        channel.confirm_delivery(self._on_confirm)
        channel.basic_qos(prefetch_count=WINDOW)
        channel.basic_consume(FIRST, self._on_message)
        self._began, self._cpu_began = time.perf_counter(), time.process_time()

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._tag += 1
        self._pending[self._tag] = method.delivery_tag
        out = env.encode(env.decode(body))
        channel.basic_publish("", NEXT, out, self._properties, mandatory=True)

    def _on_confirm(self, frame: Any) -> None:
        tag, pending = frame.method.delivery_tag, self._pending
        tags = [one for one in pending if one <= tag] if frame.method.multiple else [tag]
        for one in tags:
            self._channel.basic_ack(pending.pop(one))
        self._left -= len(tags)
        if self._left == 0:
            self._wall = time.perf_counter() - self._began
            self._cpu = time.process_time() - self._cpu_began
            self._done.set()


async def main() -> None:
    p50s, p99s, raw = [], [], []
    hops: list[Loaded] = []
    peers: dict[str, list[dict[str, Any]]] = {name: [] for name in PEERS}
    with tempfile.TemporaryDirectory() as name:
        server = RabbitServer(Path(name))
        await asyncio.to_thread(server.start)
        url = server.url(vhost="/")

        async def connect() -> Transport:
            transport = RabbitTransport(parse_address(url), "default")
            await transport.connect()
            return transport

        try:
            for _ in range(RUNS):
                hops.append(await loaded(connect, HOPS))
                async with two_queues(connect) as transport:
                    await fill(transport, HOPS)
                    raw.append(await RawLoop(url, HOPS).run())
                took = await idle(connect, IDLE)
                p50s.append(percentile(took, 0.5))
                p99s.append(percentile(took, 0.99))
                for peer in PEERS:
                    found = await asyncio.to_thread(task_queue, peer, url, chains=CHAINS)
                    if found is not None:
                        peers[peer].append(found)
        finally:
            await asyncio.to_thread(server.close)
    show(hops, raw, peers)
    hop = "durable hop on RabbitMQ, idle, end to end, p50"
    report(row("P5e", hop, p50s, "ms", better="lower", target=None))
    hop = "durable hop on RabbitMQ, idle, end to end, p99"
    report(row("P5f", hop, p99s, "ms", better="lower", target=None))


def show(
    hops: list[Loaded], raw: list[tuple[float, float]], peers: dict[str, list[dict[str, Any]]]
) -> None:
    """The rows under load."""
    rates = [one.rate for one in hops]
    middle = sorted(rate for rate, _ in raw)[len(raw) // 2]
    beside: dict[str, Any] = {"what": "hops/s", "value": {"raw pika loop": round(middle)}}
    for results in peers.values():
        if results:
            values = sorted(result["value"] for result in results)
            beside["value"][results[0]["what"]] = values[len(values) // 2]
    what = "durable hops on RabbitMQ (quorum, confirms), loaded"
    report(row("P5", what, rates, "hops/s", better="higher", target=2500, peer=beside))
    report_cpu("P5", "pika AsyncioConnection", hops, [cpu for _, cpu in raw])
    for at, results in enumerate(peers.values()):
        if results:
            what = f"a chain of three, alone: {results[0]['what']}"
            single = [result["idle_chain_ms"] for result in results]
            report(row(f"P5{'ghi'[at]}", what, single, "ms", better="lower", target=None))


if __name__ == "__main__":
    uvloop.run(main())
