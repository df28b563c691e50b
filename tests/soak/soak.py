"""The soak: envelopes of every kind while processes die at random; then the counts must add up.

    python tests/soak/soak.py --seconds 30 [--seed N] [--envelopes 2000] [--transport rabbitmq]

A mesh runs under `asya up`, on the NATS that it brings along or on a private RabbitMQ. Senders keep sending (with ids of their own, again and again until
they are accepted), while a killer ends replicas, the broker and the mesh itself with SIGKILL. At
the end every accepted envelope must stand in exactly one terminal state, the right one for its
kind, with the right result; every child of a fan-out too; and a mesh that is started once more must
hold no message, and no more memory or file handles than it began with. Prints the seed first: the
same seed sends the same envelopes and picks the same kinds of victims (their moments depend on the
machine). Each kind of victim is picked at least once before the rest is left to the dice.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # `tests.support` is not installed
from tests.support.rabbitmq import RabbitServer

HANDLERS = """
import asyncio
import time


def plain(payload):
    return {"n": payload["n"] * 2}


def last(payload):
    return {"n": payload["n"] + 1}


def spread(payload):
    for i in range(payload["width"]):
        yield {"n": i}


def flaky(payload):
    attempt = yield "GET", ".status.attempt"
    if attempt < payload["attempts"]:
        raise ConnectionError(f"attempt {attempt}")
    yield {"n": attempt}


def broken(payload):
    raise ValueError("always")


def stuck(payload):
    time.sleep(60)


async def slow(payload):
    await asyncio.sleep(60)


def big(payload):
    return {"n": len(payload["text"]), "text": payload["text"][::-1]}
"""
RETRIES = {
    "maxAttempts": 3, "backoff": "constant", "initialDelay": "300ms"
}  # fmt: skip
ACTORS: dict[str, dict[str, Any]] = {
    "plain": {"concurrency": 1},
    "last": {},
    "spread": {},
    "flaky": {"resiliency": {"policies": {"default": RETRIES}}},
    "broken": {"resiliency": {"policies": {"default": {**RETRIES, "maxAttempts": 2}}}},
    "stuck": {"resiliency": {"actorTimeout": "700ms"}},
    "slow": {"concurrency": 20, "scaling": {"maxReplicaCount": 1}},
    "big": {},
}
WEIGHTS = {
    "plain": 50, "spread": 10, "flaky": 10, "broken": 5, "stuck": 1, "cancel": 6, "big": 3,
    "scheduled": 8, "expired": 4,
}  # fmt: skip
"""How many of a hundred envelopes are of which kind."""

SENDERS = 6
VICTIMS = {"replica": 6, "broker": 2, "mesh": 1}
"""How often each is picked."""

KILL_EVERY_S = (1.5, 5.0)
SETTLE_S = 180.0
POISON = "PoisonMessage"
HANDLES_MORE = 8
"""A few connections and a log file that was turned over come and go."""


@dataclass
class Sent:
    """One envelope, and what must become of it."""

    id: str
    kind: str
    route: list[str]
    payload: Any
    options: dict[str, Any] = field(default_factory=dict)
    accepted: bool = False
    canceled: bool = False


def make(kind: str, dice: random.Random, number: int) -> Sent:
    """An envelope of a kind."""
    id_ = str(uuid.UUID(int=dice.getrandbits(128), version=4))
    n = {"n": number}
    match kind:
        case "spread":
            return Sent(id_, kind, ["spread", "last"], {"width": dice.randint(2, 12)})
        case "flaky":
            return Sent(id_, kind, ["flaky", "last"], {"attempts": dice.randint(1, 3)})
        case "big":
            text = dice.choice("abcdef") * dice.randint(400_000, 1_500_000)
            return Sent(id_, kind, ["big"], {"text": text})
        case "cancel":
            return Sent(id_, kind, ["slow", "last"], n)
        case "scheduled":
            return Sent(id_, kind, ["plain"], n, {"delay": f"{dice.randint(1, 6)}s"})
        case "expired":
            return Sent(id_, kind, ["slow"], n, {"timeout": "1s"})
        case "plain":
            return Sent(id_, kind, ["plain", "last"], n)
        case _:
            return Sent(id_, kind, [kind], n)


class Embedded:
    """The NATS server that the mesh brings along, and starts again by itself."""

    url = ""

    def start(self) -> None:
        """The mesh does."""

    def close(self) -> None:
        """The mesh does."""

    def kill(self, mesh: psutil.Process) -> None:
        """Kill -9."""
        brokers = [child for child in mesh.children() if "nats-server" in child.name()]
        brokers[0].send_signal(signal.SIGKILL)


class Rabbit:
    """A RabbitMQ of our own, which nobody but us starts again."""

    def __init__(self, folder: Path) -> None:
        self.server = RabbitServer(folder, say=talk)
        self.url = self.server.url(query="heartbeat=5s")
        self.start, self.close = self.server.start, self.server.close

    def kill(self, mesh: psutil.Process) -> None:
        """Kill -9; gone for as long as it takes to start, about ten seconds."""
        self.server.kill()
        self.server.start()


def broker_of(transport: str, folder: Path) -> Embedded | Rabbit:
    """The broker that a run is about."""
    return Rabbit(folder) if transport == "rabbitmq" else Embedded()


class Soak:
    """One run."""

    def __init__(
        self, folder: Path, broker: Embedded | Rabbit, seed: int, seconds: float, envelopes: int
    ) -> None:
        self.folder = folder
        self.broker = broker
        self.seconds = seconds
        self.envelopes = envelopes
        self.dice = random.Random(seed)
        self.killer_dice = random.Random(seed + 1)
        self.sent: list[Sent] = []
        self.kills: Counter[str] = Counter()
        self.over = threading.Event()
        self.port = 0
        self.before: set[str] = set()
        self.mesh: subprocess.Popen[bytes]

    # -- the mesh ---------------------------------------------------------------------------------

    def prepare(self) -> None:
        (self.folder / "handlers.py").write_text(HANDLERS)
        for name, spec in ACTORS.items():
            manifest = {
                "apiVersion": "asya.sh/v1alpha1",
                "kind": "AsyncActor",
                "metadata": {"name": name},
                "spec": {
                    "handler": f"handlers.{name}",
                    **spec,
                    "scaling": {"maxReplicaCount": 2, **spec.get("scaling", {})},
                },
            }
            (self.folder / f"{name}.yaml").write_text(json.dumps(manifest))

    def up(self) -> None:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("ASYA_")}
        if self.broker.url:
            environ["ASYA_TRANSPORT_URL"] = self.broker.url
        with (self.folder / "mesh.stderr").open("ab") as stderr:
            self.mesh = subprocess.Popen(
                [sys.executable, "-m", "asya", "up", "--port", str(self.port), "--cooldown", "2s"],
                cwd=self.folder,
                env=environ,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
            )
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError, KeyError):
                record = json.loads((self.folder / ".asya" / "mesh.json").read_text())
                if record["pid"] == self.mesh.pid:
                    self.port = int(re.findall(r":(\d+)", record["url"])[-1])
                    if self.ask("GET", "/readyz")[0] == 200:
                        return
            if self.mesh.poll() is not None:
                raise SystemExit(f"the mesh did not start:\n{self.said()}")
            time.sleep(0.05)
        raise SystemExit(f"the mesh was not ready within 30 s:\n{self.said()}")

    def said(self) -> str:
        return (self.folder / "mesh.stderr").read_text(errors="replace")[-4000:]

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            raw = answer.read()
            return answer.status, json.loads(raw) if raw else None
        finally:
            connection.close()

    def surely(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask until the mesh answers, over all deaths."""
        until = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                status, answer = self.ask(method, path, body)
                if status not in {429, 502, 503, 507}:
                    return status, answer
            if time.monotonic() > until:
                raise SystemExit(f"no answer to {method} {path} for 60 s:\n{self.said()}")
            time.sleep(0.1)

    # -- senders and the killer -------------------------------------------------------------------

    def send(self, one: Sent) -> None:
        body = {"id": one.id, "route": one.route, "payload": one.payload, **one.options}
        status, answer = self.surely("POST", "/v1/envelopes", body)
        assert status in {200, 202}, (one.kind, status, answer)
        one.accepted = True
        if one.kind == "cancel":
            time.sleep(0.2)
            status, answer = self.surely("DELETE", f"/v1/envelopes/{one.id}")
            assert status == 204, (status, answer)
            one.canceled = True

    def send_all(self) -> None:
        kinds = self.dice.choices(list(WEIGHTS), list(WEIGHTS.values()), k=self.envelopes)
        self.sent = [make(kind, self.dice, i) for i, kind in enumerate(kinds)]
        began = time.monotonic()
        pause = self.seconds / self.envelopes

        def paced(numbered: tuple[int, Sent]) -> None:
            number, one = numbered
            early = began + number * pause - time.monotonic()
            if early > 0:
                time.sleep(early)
            self.send(one)

        with ThreadPoolExecutor(SENDERS) as pool:
            for done, _ in enumerate(pool.map(paced, enumerate(self.sent)), start=1):
                if done % 200 == 0:
                    talk(f"{done} accepted, killed so far: {dict(self.kills)}")

    def kill_at_random(self) -> None:
        first = self.killer_dice.sample(list(VICTIMS), k=len(VICTIMS))
        while not self.over.wait(self.killer_dice.uniform(*KILL_EVERY_S)) or first:
            by_dice = self.killer_dice.choices(list(VICTIMS), list(VICTIMS.values()))[0]
            victim = first.pop() if first else by_dice
            with contextlib.suppress(psutil.NoSuchProcess, OSError, ValueError, IndexError):
                self.kill(victim)
                self.kills[victim] += 1

    def kill(self, victim: str) -> None:
        if victim == "mesh":
            self.mesh.kill()
            self.mesh.wait()
            self.up()
            return
        own = psutil.Process(self.mesh.pid)
        if victim == "broker":
            self.broker.kill(own)
            return
        replicas = [child for child in own.children() if "nats-server" not in child.name()]
        self.killer_dice.choice(replicas).send_signal(signal.SIGKILL)

    # -- the reckoning ----------------------------------------------------------------------------

    def settle(self) -> dict[str, dict[str, Any]]:
        """Every envelope's end, children included."""
        until = time.monotonic() + SETTLE_S
        ends: dict[str, dict[str, Any]] = {}
        open_ids = {one.id for one in self.sent}
        while open_ids:
            for id_ in sorted(open_ids):
                _, task = self.surely("GET", f"/v1/envelopes/{id_}")
                if task["status"] in {"succeeded", "failed", "canceled"}:
                    ends[id_] = task
                    open_ids.discard(id_)
            if open_ids and time.monotonic() > until:
                raise SystemExit(self.stuck(open_ids))
            time.sleep(0.2)
        while self.depth():
            if time.monotonic() > until:
                raise SystemExit(f"queues did not empty: {self.surely('GET', '/v1/actors')[1]}")
            time.sleep(0.2)
        return ends

    def stuck(self, ids: set[str]) -> str:
        some = [self.surely("GET", f"/v1/envelopes/{id_}")[1] for id_ in sorted(ids)[:3]]
        return f"{len(ids)} envelopes did not end:\n{json.dumps(some, indent=1)[:3000]}"

    def depth(self) -> int:
        _, answer = self.surely("GET", "/v1/actors")
        return sum(sum(actor["queue"].values()) for actor in answer["actors"])

    def listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            _, page = self.surely("GET", f"/v1/envelopes?limit=200{cursor}")
            found += page["envelopes"]
            if not page["next_cursor"]:
                return found
            cursor = f"&cursor={page['next_cursor']}"

    def check(self, ends: dict[str, dict[str, Any]]) -> Counter[str]:
        """Fail on the first end that is not what it must be."""
        tally: Counter[str] = Counter()
        problems = []
        for one in self.sent:
            task = ends[one.id]
            problem = self.problem(one, task)
            if problem:
                problems.append(f"{one.kind} {one.id}: {problem}")
            tally[f"{one.kind} {task['status']}"] += 1
        everything = self.listed()
        statuses = Counter(task["status"] for task in everything)
        if set(statuses) - {"succeeded", "failed", "canceled"}:
            problems.append(f"not all have ended: {dict(statuses)}")
        problems += self.wrong_children(everything)
        if problems:
            raise SystemExit("\n".join(problems[:20]) + f"\n{len(problems)} problems")
        return tally

    def problem(self, one: Sent, task: dict[str, Any]) -> str | None:
        reason = (task["error"] or {}).get("reason")
        if reason == POISON:
            # five kills met the same message: that is what must happen then
            return None
        want, result = self.expected(one)
        if one.kind == "cancel":
            return None if task["status"] == "canceled" else f"is {task['status']}"
        if one.kind == "expired":
            return None if reason == "DeadlineExceeded" else f"{task['status']} {reason}"
        if task["status"] != want:
            return f"is {task['status']} ({task['error']}), not {want}"
        if want == "succeeded" and task["result"] != result:
            return f"has the result {str(task['result'])[:200]}, not {str(result)[:200]}"
        return None

    def expected(self, one: Sent) -> tuple[str, Any]:
        match one.kind:
            case "plain":
                return "succeeded", {"n": one.payload["n"] * 2 + 1}
            case "scheduled":
                return "succeeded", {"n": one.payload["n"] * 2}
            case "spread":
                return "succeeded", {"n": 1}
            case "flaky":
                return "succeeded", {"n": one.payload["attempts"] + 1}
            case "big":
                text = one.payload["text"]
                return "succeeded", {"n": len(text), "text": text[::-1]}
            case _:
                return "failed", None

    def wrong_children(self, everything: list[dict[str, Any]]) -> list[str]:
        """Each fan-out of width w must have made w - 1 children, each ended well."""
        children: dict[str, list[dict[str, Any]]] = {}
        known = {one.id for one in self.sent} | self.before
        problems = []
        for task in everything:
            if task["id"] not in known:
                children.setdefault(task["parent_id"], []).append(task)
        for one in self.sent:
            made = children.pop(one.id, [])
            wanted = one.payload["width"] - 1 if one.kind == "spread" else 0
            if len(made) != wanted:
                problems.append(f"{one.kind} {one.id} made {len(made)} children, not {wanted}")
            bad = [task for task in made if task["status"] != "succeeded"]
            problems += [f"child {task['id']} is {task['status']}: {task['error']}" for task in bad]
        problems += [
            f"children of nobody: {parent} {len(made)}" for parent, made in children.items()
        ]
        return problems

    def footprint(self) -> tuple[int, float]:
        """Open files, and resident MiB, of the mesh's own process."""
        own = psutil.Process(self.mesh.pid)
        return own.num_fds(), own.memory_info().rss / 2**20

    def quiet(self) -> None:
        """Until all replicas are gone."""
        until = time.monotonic() + 40
        while stay := [a for a in self.surely("GET", "/v1/actors")[1]["actors"] if a["replicas"]]:
            if time.monotonic() > until:
                about = json.dumps(stay, indent=1)
                raise SystemExit(f"replicas stay although nothing waits:\n{about}\n{self.said()}")
            time.sleep(0.2)

    def warm_up(self) -> None:
        """Use every actor once, so that what is opened at the first use is open."""
        payload = {"n": 1, "width": 1, "attempts": 1, "text": "x" * 400_000}
        for name in ACTORS:
            body = {"route": [name], "payload": payload, "timeout": "3s"}
            self.surely("POST", "/v1/envelopes?wait=20s", body)

    def run(self) -> None:
        self.prepare()
        self.broker.start()
        self.up()
        self.warm_up()
        self.quiet()
        before = self.footprint()
        self.before = {task["id"] for task in self.listed()}
        killer = threading.Thread(target=self.kill_at_random)
        killer.start()
        try:
            self.send_all()
        finally:
            self.over.set()
            killer.join()
        talk(f"all accepted; killed {dict(self.kills)}; waiting for every end")
        ends = self.settle()
        tally = self.check(ends)
        for line, count in sorted(tally.items()):
            talk(f"  {line}: {count}")
        self.quiet()
        after = self.footprint()
        talk(
            f"open files {before[0]} then {after[0]}, memory {before[1]:.0f} then {after[1]:.0f} MiB"
        )
        if after[0] > before[0] + HANDLES_MORE:
            raise SystemExit(f"{after[0] - before[0]} file handles more than at the beginning")
        if after[1] > before[1] * 2 + 40:
            raise SystemExit(f"memory went from {before[1]:.0f} to {after[1]:.0f} MiB")

    def close(self) -> None:
        """Stop everything, whatever state it is in."""
        self.over.set()
        try:
            self.stop()
        finally:
            self.broker.close()

    def stop(self) -> None:
        """Stop the mesh; what does not end is killed."""
        if not hasattr(self, "mesh"):
            return
        tree = []
        with contextlib.suppress(psutil.NoSuchProcess):
            own = psutil.Process(self.mesh.pid)
            tree = [own, *own.children(recursive=True)]
        self.mesh.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.mesh.wait(20)
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def talk(line: str) -> None:
    """Tell a person."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--envelopes", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--transport", choices=("nats", "rabbitmq"), default="nats")
    options = parser.parse_args()
    talk(f"seed {options.seed}, on {options.transport}")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name) / "project"
        folder.mkdir()
        broker = broker_of(options.transport, Path(name) / "broker")
        soak = Soak(folder, broker, options.seed, options.seconds, options.envelopes)
        try:
            soak.run()
        finally:
            soak.close()
    result = {
        "transport": options.transport,
        "seed": options.seed,
        "envelopes": len(soak.sent),
        "kills": dict(soak.kills),
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
