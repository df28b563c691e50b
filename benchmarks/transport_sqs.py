"""One durable hop on SQS: take a message, publish the next one, and delete it after its confirm.

    python benchmarks/transport_sqs.py [--messages 400] [--repeats 3] [--json FILE]

Starts moto's server, and measures clients of it, each in a process of its own: `asya` (our
transport), `batches` (aiobotocore used well: receives of ten, `send_message_batch` and
`delete_message_batch` for all of them) and `singles` (aiobotocore as the first example has it: a
request for each message and each delete). What counts is the client's CPU time per hop, and its
ratio to `batches`: moto is slow, and slower the more it holds, so times of the clock say nothing,
and messages are filled in as they are taken. 1 KiB JSON bodies.
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
from pathlib import Path
from typing import Any

BODY = json.dumps({"id": "0" * 36, "route": {"next": ["b"]}, "payload": "x" * 920})
CLIENTS = ("batches", "asya", "singles")
HELD = 60
"""Messages that moto holds at a time."""


class Meter:
    """Counts hops, and the CPU time of those parts of the run that belong to them."""

    def __init__(self, hops: int) -> None:
        self.left = hops
        self.hops = 0
        self.cpu = self.wall = 0.0

    def begin(self) -> None:
        """Start both clocks."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def end(self, hops: int) -> None:
        """Stop them."""
        self.cpu += time.process_time() - self._cpu
        self.wall += time.perf_counter() - self._wall
        self.hops += hops
        self.left -= hops

    @property
    def result(self) -> dict[str, float]:
        """Per hop."""
        return {"hops_s": self.hops / self.wall, "cpu_us": self.cpu / self.hops * 1e6}


async def transport_of(address: str) -> Any:
    from asya.addresses import parse_address
    from asya.transports.sqs.transport import SqsTransport

    transport = SqsTransport(parse_address(address), "bench", poll_s=1.0)
    await transport.connect()
    for queue in ("asya-bench-a", "asya-bench-b"):
        await transport.ensure(queue)
    return transport


async def fill(transport: Any, count: int) -> None:
    """Put messages into the first queue, and take away what the second one got."""
    await transport.delete("asya-bench-b")
    await transport.ensure("asya-bench-b")
    await asyncio.gather(*(transport.publish("asya-bench-a", BODY.encode()) for _ in range(count)))


async def asya(address: str, window: int, meter: Meter) -> None:
    transport = await transport_of(address)
    tasks: set[asyncio.Task[None]] = set()
    while meter.left > 0:
        count = min(HELD, meter.left)
        await fill(transport, count)
        done = asyncio.Event()
        hops = 0

        async def hop(delivery: Any, count: int = count, done: asyncio.Event = done) -> None:
            nonlocal hops
            await transport.publish("asya-bench-b", delivery.body)
            delivery.ack()
            hops += 1
            if hops == count:
                done.set()

        def on_delivery(delivery: Any, hop: Any = hop) -> None:
            task = asyncio.create_task(hop(delivery))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        meter.begin()
        consumer = await transport.consume("asya-bench-a", on_delivery, window=window)
        await done.wait()
        await transport._settlers["asya-bench-a"].drained()  # noqa: SLF001 -- as the others wait
        meter.end(count)
        await consumer.close()
        # the poll that still waits would take the next messages, and give them back
        await asyncio.gather(*consumer.polls, return_exceptions=True)
    await transport.close()


async def raw(address: str, meter: Meter, *, batches: bool) -> None:
    from aiobotocore.config import AioConfig
    from aiobotocore.session import get_session

    transport = await transport_of(address)
    region, endpoint = address.removeprefix("sqs://").split("?endpoint=")
    config = AioConfig(max_pool_connections=50)
    making = get_session().create_client(
        "sqs", region_name=region, endpoint_url=endpoint, config=config
    )
    async with making as client:
        a = (await client.get_queue_url(QueueName="asya-bench-a"))["QueueUrl"]
        b = (await client.get_queue_url(QueueName="asya-bench-b"))["QueueUrl"]

        async def together(messages: list[dict[str, Any]]) -> None:
            sends = [{"Id": str(n), "MessageBody": m["Body"]} for n, m in enumerate(messages)]
            sent = await client.send_message_batch(QueueUrl=b, Entries=sends)
            well = [int(one["Id"]) for one in sent.get("Successful", [])]
            acks = [{"Id": str(n), "ReceiptHandle": messages[n]["ReceiptHandle"]} for n in well]
            await client.delete_message_batch(QueueUrl=a, Entries=acks)

        async def alone(message: dict[str, Any]) -> None:
            await client.send_message(QueueUrl=b, MessageBody=message["Body"])
            await client.delete_message(QueueUrl=a, ReceiptHandle=message["ReceiptHandle"])

        while meter.left > 0:
            count = left = min(HELD, meter.left)
            await fill(transport, count)
            meter.begin()
            while left:
                answer = await client.receive_message(
                    QueueUrl=a, MaxNumberOfMessages=10, WaitTimeSeconds=20,
                    MessageSystemAttributeNames=["ApproximateReceiveCount"],
                )  # fmt: skip
                messages = answer.get("Messages", [])
                left -= len(messages)
                if batches:
                    await together(messages)
                else:
                    await asyncio.gather(*(alone(message) for message in messages))
            meter.end(count)
    await transport.close()


def child(client: str, address: str, window: int, hops: int, loop: str) -> None:
    async def main() -> None:
        meter = Meter(hops)
        if client == "asya":
            await asya(address, window, meter)
        else:
            await raw(address, meter, batches=client == "batches")
        print(json.dumps(meter.result))

    if loop == "uvloop":
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # not installed
    from tests.support.moto import CREDENTIALS, MotoServer

    rows: list[dict[str, Any]] = []
    with MotoServer() as server:
        for client in CLIENTS:
            runs = []
            for _ in range(options.repeats):
                server.reset()
                command = [sys.executable, __file__, "--child", client, server.address]
                command += [str(options.window), str(options.messages), options.loop]
                output = subprocess.run(
                    command,
                    check=True,
                    capture_output=True,
                    timeout=300,
                    env={**os.environ, **CREDENTIALS},
                )
                runs.append(json.loads(output.stdout.splitlines()[-1]))
            rows.append(
                {"client": client, "window": options.window, "loop": options.loop}
                | {key: statistics.median(run[key] for run in runs) for key in runs[0]}
                | {"cpu_us_all": [round(run["cpu_us"]) for run in runs]}
            )
            row = rows[-1]
            row["ratio"] = row["cpu_us"] / rows[0]["cpu_us"]
            print(
                f"{client:8} {row['cpu_us']:6.0f} us CPU per hop  {row['ratio']:.2f} x batches"
                f"  {row['cpu_us_all']}"
            )
    return rows


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        client, address, window, hops, loop = sys.argv[2:]
        child(client, address, int(window), int(hops), loop)
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--window", type=int, default=30)
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
