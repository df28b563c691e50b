"""One durable hop on Pub/Sub: take a message, publish the next one, and ack after its confirm.

    python benchmarks/transport_pubsub.py [--messages 5000] [--repeats 3] [--json FILE]

Starts Google's emulator, or a stand-in of ours where that is not installed, and measures clients of
it, each in a process of its own: `asya` (our transport), `generated` (Google's asyncio clients used
well: a pull, one publish and one acknowledge for all of its messages) and `bare` (the same loop with
plain protobuf messages instead of the clients' wrappers). What counts is the client's CPU time per
hop, and its ratio to `generated`. A request costs about as much as fifty messages, so everything
depends on how many go in one; the emulator gives at most a hundred. 1 KiB JSON bodies.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

BODY = json.dumps({"id": "0" * 36, "route": {"next": ["b"]}, "payload": "x" * 920}).encode()
CLIENTS = ("generated", "bare", "asya")
FIRST, NEXT = "asya-bench-a", "asya-bench-b"


class Meter:
    """Counts hops, in wall and in CPU time."""

    def __init__(self, hops: int) -> None:
        self.left = self.hops = hops
        self.done = asyncio.Event()

    def begin(self) -> None:
        """Start both clocks."""
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def hop(self, count: int = 1) -> None:
        """Count some; the last stops the clocks."""
        self.left -= count
        if self.left <= 0 and not self.done.is_set():
            wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
            self.result = {"hops_s": self.hops / wall, "cpu_us": cpu / self.hops * 1e6}
            self.done.set()


async def filled(endpoint: str, hops: int) -> Any:
    """A connected transport, in a project of its own, with messages in the first queue."""
    from asya.addresses import parse_address
    from asya.transports.pubsub.transport import PubSubTransport

    project = f"bench-{uuid.uuid4().hex}"
    address = parse_address(f"pubsub://{project}?endpoint={endpoint}")
    transport = PubSubTransport(address, "bench")
    await transport.connect()
    for queue in (FIRST, NEXT):
        await transport.ensure(queue)
    for begin in range(0, hops, 500):
        count = min(500, hops - begin)
        await asyncio.gather(*(transport.publish(FIRST, BODY) for _ in range(count)))
    return transport


async def emptied(transport: Any) -> None:
    """The emulator keeps everything in its memory: take it away again."""
    for queue in (FIRST, NEXT):
        await transport.delete(queue)
    await transport.close()


async def asya(endpoint: str, window: int, meter: Meter) -> None:
    transport = await filled(endpoint, meter.hops)
    tasks: set[asyncio.Task[None]] = set()
    serial = 0

    async def hop(delivery: Any, dedup_id: str) -> None:
        await transport.publish(NEXT, delivery.body, dedup_id=dedup_id)
        delivery.ack()
        meter.hop()

    def on_delivery(delivery: Any) -> None:
        nonlocal serial
        serial += 1
        task = asyncio.create_task(hop(delivery, f"{os.getpid()}-{serial}"))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    meter.begin()
    await transport.consume(FIRST, on_delivery, window=window)
    await meter.done.wait()
    await emptied(transport)


def clients(endpoint: str) -> Any:
    import grpc
    from google.pubsub_v1.services.publisher import PublisherAsyncClient
    from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
    from google.pubsub_v1.services.subscriber import SubscriberAsyncClient
    from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport

    options = [("grpc.max_receive_message_length", -1)]
    channel = grpc.aio.insecure_channel(endpoint, options=options)
    return (
        PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=channel)),
        SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=channel)),
        channel,
    )


async def generated(endpoint: str, window: int, meter: Meter) -> None:
    transport = await filled(endpoint, meter.hops)
    publisher, subscriber, channel = clients(endpoint)
    source = transport._layout.subscription(FIRST)  # noqa: SLF001 -- the same queues by their names
    target = transport._layout.topic(NEXT)  # noqa: SLF001 -- the same
    limits: dict[str, Any] = {"retry": None, "timeout": 30}
    meter.begin()
    while not meter.done.is_set():
        pull = {"subscription": source, "max_messages": window}
        received = (await subscriber.pull(request=pull, **limits)).received_messages
        messages = [{"data": each.message.data} for each in received]
        await publisher.publish(request={"topic": target, "messages": messages}, **limits)
        ack = {"subscription": source, "ack_ids": [each.ack_id for each in received]}
        await subscriber.acknowledge(request=ack, **limits)
        meter.hop(len(received))
    await channel.close()
    await emptied(transport)


async def bare(endpoint: str, window: int, meter: Meter) -> None:
    from google.pubsub_v1 import types

    transport = await filled(endpoint, meter.hops)
    publisher, subscriber, channel = clients(endpoint)
    source = transport._layout.subscription(FIRST)  # noqa: SLF001 -- the same queues by their names
    target = transport._layout.topic(NEXT)  # noqa: SLF001 -- the same
    limits: dict[str, Any] = {"retry": None, "timeout": 30}
    pull, publish, ack = types.PullRequest, types.PublishRequest, types.AcknowledgeRequest
    meter.begin()
    while not meter.done.is_set():
        request = pull.pb()(subscription=source, max_messages=window)
        answer = await subscriber.pull(request=pull.wrap(request), **limits)
        received = types.PullResponse.pb(answer).received_messages
        request = publish.pb()(topic=target)
        for each in received:
            request.messages.add(data=each.message.data)
        await publisher.publish(request=publish.wrap(request), **limits)
        ids = [each.ack_id for each in received]
        request = ack.pb()(subscription=source, ack_ids=ids)
        await subscriber.acknowledge(request=ack.wrap(request), **limits)
        meter.hop(len(received))
    await channel.close()
    await emptied(transport)


def child(client: str, endpoint: str, window: int, hops: int, loop: str) -> None:
    run = {"asya": asya, "generated": generated, "bare": bare}[client]

    async def main() -> None:
        meter = Meter(hops)
        await run(endpoint, window, meter)
        print(json.dumps(meter.result))

    if loop == "uvloop":
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # not installed
    from tests.support.pubsub import PubSubEmulator, PubSubFake

    rows: list[dict[str, Any]] = []
    with PubSubFake() if PubSubEmulator.missing() else PubSubEmulator() as server:
        print(f"server: {server.title}")
        for window in (64, 256):
            base = 0.0
            for client in CLIENTS:
                runs = []
                for _ in range(options.repeats):
                    command = [sys.executable, __file__, "--child", client, server.endpoint]
                    command += [str(window), str(options.messages), options.loop]
                    output = subprocess.run(
                        command, check=True, stdout=subprocess.PIPE, timeout=300
                    )
                    runs.append(json.loads(output.stdout.splitlines()[-1]))
                row = {"client": client, "window": window, "loop": options.loop}
                row |= {key: statistics.median(run[key] for run in runs) for key in runs[0]}
                row |= {"cpu_us_all": [round(run["cpu_us"], 1) for run in runs]}
                base = base or row["cpu_us"]
                row |= {"ratio": row["cpu_us"] / base, "server": server.title}
                rows.append(row)
                print(
                    f"{client:9} window {window:3}  {row['hops_s']:6.0f} hops/s  "
                    f"{row['cpu_us']:6.1f} us CPU per hop  {row['ratio']:.2f} x generated  "
                    f"{row['cpu_us_all']}"
                )
    return rows


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        client, endpoint, window, hops, loop = sys.argv[2:]
        child(client, endpoint, int(window), int(hops), loop)
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = measure(options)
    if options.json:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
        machine = {"cpus": os.cpu_count(), "python": platform.python_version()}
        machine |= {"system": platform.platform(), "commit": commit}
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
