"""P14: many actors, many waiting envelopes, a wide fan-out: memory stays flat.

Each figure is the memory (PSS of all processes) as a multiple of the small case in the same run.
Sizes by ACTORS, WAITING and FANOUT; the full row is 1000, 1000000 and 100000.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

from harness import report, row
from mesh import Mesh, actor

from asya import envelope as env
from asya.transports.nats.transport import NatsTransport

ACTORS = int(os.environ.get("ACTORS", "1000"))
WAITING = int(os.environ.get("WAITING", "100000"))
FANOUT = int(os.environ.get("FANOUT", "100000"))
HANDLERS = """
def echo(payload):
    return payload

def spread(payload):
    for i in range(payload):
        yield {"i": i}

def end(payload):
    return None
"""


def many_actors() -> tuple[float, float]:
    sizes = []
    for count in (20, ACTORS):
        manifests = "".join(actor(f"a{i}", "handlers.echo") for i in range(count))
        with Mesh(HANDLERS, manifests) as mesh:
            time.sleep(2)
            sizes.append(mesh.memory_mib())
            assert mesh.call([f"a{count - 1}"], 1)["result"] == 1
    return sizes[0], sizes[1]


async def fill(url: str, count: int) -> None:
    transport = NatsTransport(url, "default")
    await transport.connect()
    for _ in range(0, count, 1000):
        bodies = [
            env.encode(env.new_envelope(["slow"], env.raw_json(1), now=datetime.now(UTC)))
            for _ in range(1000)
        ]
        await asyncio.gather(*(transport.publish("asya-default-slow", body) for body in bodies))
    await transport.close()


def waiting() -> tuple[float, float]:
    """The mesh's own process with few and with many envelopes waiting, others being served."""
    manifests = actor("echo", "handlers.echo") + actor("slow", "handlers.missing")
    with Mesh(HANDLERS, manifests) as mesh:
        mesh.call(["echo"], 1)
        own = mesh.tree()[0]
        before = own.memory_info().rss
        asyncio.run(fill(broker_url(mesh.folder), WAITING))
        began = time.perf_counter()
        assert mesh.call(["echo"], 2)["result"] == 2
        assert time.perf_counter() - began < 5, "another actor starved"
        return before / 2**20, own.memory_info().rss / 2**20


def broker_url(folder: Path) -> str:
    """Where the embedded broker listens."""
    (record,) = (folder / ".asya").rglob("nats.json")
    found = json.loads(record.read_text())
    return f"nats://{found['token']}@127.0.0.1:{found['port']}"


def fan_out() -> tuple[float, float]:
    manifests = actor("spread", "handlers.spread") + actor("end", "handlers.end")
    with Mesh(HANDLERS, manifests) as mesh:
        mesh.call(["spread", "end"], 100)
        own = mesh.tree()[0]
        before = own.memory_info().rss
        most = before
        _, answer = mesh.request(
            "POST", "/v1/envelopes", {"route": ["spread", "end"], "payload": FANOUT}
        )
        while True:
            time.sleep(0.2)
            most = max(most, own.memory_info().rss)
            _, task = mesh.request("GET", f"/v1/envelopes/{answer['id']}")
            _, actors = mesh.request("GET", "/v1/actors")
            queues = [a["queue"] for a in actors["actors"]]
            idle = not any(q["ready"] + q["in_flight"] for q in queues)
            if task["status"] == "succeeded" and idle:
                return before / 2**20, most / 2**20


def main() -> None:
    for number, (what, measure) in enumerate(
        (
            (f"memory of {ACTORS} actors idle, per that of 20", many_actors),
            (f"the mesh's memory with {WAITING} waiting, per that with none", waiting),
            (f"the mesh's memory at a fan-out of {FANOUT}, per that of 100", fan_out),
        )
    ):
        small, large = measure()
        peer = {"what": "MiB, small and large", "value": [round(small), round(large)]}
        name = f"P14{' bc'[number].strip()}"
        report(row(name, what, [large / small], "x", better="lower", target=1.5, peer=peer))


if __name__ == "__main__":
    main()
