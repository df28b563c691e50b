"""One durable hop on NATS: take a message, publish the next one, and ack after its confirm.

    python benchmarks/transport_nats.py [--messages 20000] [--repeats 3] [--json FILE]

Starts a private server, and measures three clients of it, each in a process of its own: `asya`
(our transport), `nats-py` (its JetStream API, `fetch`), and `bare` (the nats-py connection without
any wrapper: no window, no lease, no deduplication, no timeout). 1 KiB JSON bodies, deduplicated
publishes where the client offers it. Prints hops per second and the client's CPU time per hop.
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
import tempfile
import time
from pathlib import Path
from typing import Any

BODY = json.dumps({"id": "0" * 36, "route": {"next": ["b"]}, "payload": "x" * 920}).encode()
CLIENTS = ("asya", "nats-py", "bare")


class Meter:
    """Counts hops from the first message on, in wall and in CPU time."""

    def __init__(self, hops: int) -> None:
        self.left = self.hops = hops
        self.done = asyncio.Event()

    def begin(self) -> None:
        """Start both clocks."""
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def hop(self) -> None:
        """Count one; the last stops the clocks."""
        self.left -= 1
        if self.left == 0:
            wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
            self.result = {"hops_s": self.hops / wall, "cpu_us": cpu / self.hops * 1e6}
            self.done.set()


async def filled(url: str, namespace: str, hops: int) -> Any:
    from asya.transports.nats.transport import NatsTransport

    transport = NatsTransport(url, namespace)
    await transport.connect()
    for queue in ("a", "b"):
        await transport.delete(queue)
        await transport.ensure(queue)
    for _ in range(0, hops, 500):
        await asyncio.gather(*(transport.publish("a", BODY) for _ in range(500)))
    return transport


async def asya(url: str, window: int, meter: Meter) -> None:
    transport = await filled(url, "bench", meter.hops)
    tasks: set[asyncio.Task[None]] = set()
    serial = 0

    async def hop(delivery: Any, dedup_id: str) -> None:
        await transport.publish("b", delivery.body, dedup_id=dedup_id)
        delivery.ack()
        meter.hop()

    def on_delivery(delivery: Any) -> None:
        nonlocal serial
        serial += 1
        task = asyncio.create_task(hop(delivery, f"{os.getpid()}-{serial}"))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    meter.begin()
    await transport.consume("a", on_delivery, window=window)
    await meter.done.wait()
    await transport.close()


async def nats_py(url: str, window: int, meter: Meter) -> None:
    import nats

    await (await filled(url, "bench", meter.hops)).close()
    client = await nats.connect(url)
    stream = client.jetstream()
    queue = await stream.pull_subscribe_bind("a", "asya-bench")
    serial = 0

    async def hop(message: Any, serial: int) -> None:
        headers = {"Nats-Msg-Id": f"{os.getpid()}-{serial}"}
        await stream.publish("asya-bench.q.b", message.data, headers=headers)
        await message.ack()
        meter.hop()

    meter.begin()
    while not meter.done.is_set():
        messages = await queue.fetch(window, timeout=5)
        serial += len(messages)
        await asyncio.gather(*(hop(m, serial - i) for i, m in enumerate(messages)))
    await client.close()


async def bare(url: str, window: int, meter: Meter) -> None:
    import nats

    await (await filled(url, "bench", meter.hops)).close()
    client = await nats.connect(url)
    inbox = client.new_inbox()
    waiting: dict[str, str] = {}
    serial = settled = 0

    async def ask(batch: int) -> None:
        request = b'{"batch":%d,"expires":30000000000}' % batch
        await client.publish("$JS.API.CONSUMER.MSG.NEXT.asya-bench.a", request, f"{inbox}.m")

    async def on_message(message: Any) -> None:
        nonlocal serial
        serial += 1
        waiting[str(serial)] = message.reply
        await client.publish("asya-bench.q.b", message.data, f"{inbox}.p.{serial}")

    async def on_confirm(message: Any) -> None:
        nonlocal settled
        await client.publish(waiting.pop(message.subject.rsplit(".", 1)[1]), b"+ACK")
        settled += 1
        meter.hop()
        if settled % (window // 2) == 0:
            await ask(window // 2)

    await client.subscribe(f"{inbox}.p.*", cb=on_confirm)
    await client.subscribe(f"{inbox}.m", cb=on_message)
    meter.begin()
    await ask(window)
    await meter.done.wait()
    await client.close()


def child(client: str, url: str, window: int, hops: int, loop: str) -> None:
    run = {"asya": asya, "nats-py": nats_py, "bare": bare}[client]

    async def main() -> None:
        meter = Meter(hops)
        await run(url, window, meter)
        print(json.dumps(meter.result))

    if loop == "uvloop":
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())


async def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    from asya.local.broker import NatsServer

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        server = NatsServer(Path(folder))
        await server.start()
        try:
            for window in (64, 256):
                for client in CLIENTS:
                    runs = []
                    for _ in range(options.repeats):
                        command = [sys.executable, __file__, "--child", client, server.url]
                        command += [str(window), str(options.messages), options.loop]
                        output = await asyncio.to_thread(
                            subprocess.run, command, check=True, capture_output=True, timeout=120
                        )
                        runs.append(json.loads(output.stdout.splitlines()[-1]))
                    rows.append(
                        {"client": client, "window": window, "loop": options.loop}
                        | {k: statistics.median(run[k] for run in runs) for k in runs[0]}
                        | {"cpu_us_all": [round(run["cpu_us"], 1) for run in runs]}
                    )
                    row = rows[-1]
                    print(
                        f"{client:8} window {window:3}  {row['hops_s']:7.0f} hops/s"
                        f"  {row['cpu_us']:6.1f} us CPU per hop  {row['cpu_us_all']}"
                    )
        finally:
            await server.stop()
    return rows


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        client, url, window, hops, loop = sys.argv[2:]
        child(client, url, int(window), int(hops), loop)
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = asyncio.run(measure(options))
    if options.json:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        ).stdout.strip()
        machine = {"cpus": os.cpu_count(), "python": platform.python_version()}
        machine |= {"system": platform.platform(), "commit": commit}
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
