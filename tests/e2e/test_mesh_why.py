"""Why, trace, top and logs of a real mesh, by its commands and over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Mesh

HANDLERS = """
import os
import time

def greet(payload):
    print("greeting", payload["name"])
    return {"greeting": "hello " + payload["name"], "password": payload["password"]}

def hold(payload):
    print("holding", payload["gate"], flush=True)
    while not os.path.exists(payload["gate"]):
        time.sleep(0.02)

def fail(payload):
    raise ConnectionError("the other side is gone")

def fan(payload):
    for number in range(payload):
        yield {"name": str(number), "password": "x"}
"""


@pytest.fixture
def running(mesh: Any) -> Any:
    mesh.code(HANDLERS)
    mesh.actor("greet", "handlers.greet")
    mesh.actor("fan", "handlers.fan", capture="none")
    mesh.actor("hold", "handlers.hold", scaling={"maxReplicaCount": 1})
    once = {"policies": {"default": {"maxAttempts": 1}}}
    later = {"policies": {"default": {"maxAttempts": 3, "initialDelay": "1h", "maxInterval": "2h"}}}
    mesh.actor("dies", "handlers.fail", resiliency=once)
    mesh.actor("fails", "handlers.fail", resiliency=later)
    mesh.actor("broken", "handlers.nothing")
    mesh.environ = {"ASYA_CAPTURE_MASK": ".password"}
    mesh.up()
    return mesh


def why(mesh: Any, id_: str) -> dict[str, Any]:
    found: dict[str, Any] = mesh.get(f"/v1/envelopes/{id_}/why")[1]
    return found


def test_every_cause_is_told(running: Any, wait_until: Callable[..., None], tmp_path: Path) -> None:
    mesh = running
    gate = tmp_path / "gate"
    ids = {
        name: mesh.send(name, {"gate": str(gate)}) for name in ("hold", "dies", "fails", "broken")
    }
    kinds = {"hold": "running", "dies": "dead", "fails": "retry", "broken": "broken"}

    def told() -> dict[str, str]:
        return {name: why(mesh, id_)["kind"] for name, id_ in ids.items()}

    wait_until(lambda: told() == kinds, 20, lambda: f"{told()}")
    behind = mesh.send("hold", {"gate": str(gate)})
    wait_until(lambda: why(mesh, behind)["kind"] == "queued", 30, lambda: f"{why(mesh, behind)}")
    assert "Queued behind about 1 other at hold" in why(mesh, behind)["cause"]
    assert why(mesh, ids["dies"])["cause"].endswith("ConnectionError: the other side is gone")
    assert "attempt 2 of 3 at fails" in why(mesh, ids["fails"])["cause"]
    assert "cannot start" in why(mesh, ids["broken"])["cause"]
    later = mesh.send("greet", {}, delay="1h")
    assert why(mesh, later)["kind"] == "delayed"
    unknown = why(mesh, f"{later[:-1]}x")
    assert (unknown["status"], unknown["nearest"]) == (None, later)
    assert why(mesh, later[:8])["id"] == later

    screen = mesh.command("why", ids["hold"]).splitlines()
    (pid,) = mesh.pids("hold")
    assert screen[2].startswith("Running for ")
    assert f" in replica {pid} of hold" in screen[2]
    assert f"  asya cancel {ids['hold']}" in "\n".join(screen)
    as_json = json.loads(mesh.command("why", ids["dies"], "--json"))
    assert as_json["remedy"][0]["command"] == f"asya dead retry {ids['dies']}"
    gate.touch()
    assert mesh.ended(behind)["status"] == "succeeded"
    assert why(mesh, behind)["kind"] == "done"


def test_a_trace_shows_hops_payloads_and_lines(running: Any) -> None:
    mesh = running
    done = mesh.call(["greet", "greet"], {"name": "Ada", "password": "secret"})
    assert done["status"] == "failed"  # the greeting has no name
    id_ = mesh.send("greet", {"name": "Bob", "password": "secret"})
    done = mesh.ended(id_)
    assert done["result"] == {"greeting": "hello Bob", "password": "secret"}
    first = mesh.envelope(id_)["hops"][0]
    assert first["sent_at"] is None  # the end is stored, no queue is in between
    lines = mesh.command("trace", id_, "--payloads").splitlines()
    assert lines[0].startswith(f"{id_}  succeeded, ")
    assert lines[2].split()[:3] == ["0", "greet", "1"]
    assert lines[3:] == [
        '      in  {"name": "Bob", "password": "***"}',
        '      out {"greeting": "hello Bob", "password": "***"}',
    ]
    status, kept = mesh.get(f"/v1/envelopes/{id_}/hops/0/payload?side=out")
    assert (status, kept) == (200, {"greeting": "hello Bob", "password": "***"})
    assert mesh.get(f"/v1/envelopes/{id_}/hops/5/payload", ok=(404,))[1]["code"]
    assert mesh.get(f"/v1/envelopes/{id_}/hops/0/payload?side=up", ok=(422,))[1]["errors"]
    printed = mesh.command("logs", "greet", "--envelope", id_).splitlines()
    assert [line.partition(" | ")[2] for line in printed] == ["greeting Bob"]


def test_children_are_summed_up_and_shown(running: Any, wait_until: Callable[..., None]) -> None:
    mesh = running
    root = mesh.send(["fan", "greet"], 4)
    mesh.ended(root)
    wait_until(lambda: mesh.states() == {"succeeded": 4}, 20, lambda: f"{mesh.states()}")
    lines = mesh.command("trace", root).splitlines()
    assert lines[-1] == "fan-out: 3 children (3 succeeded); --children shows them"
    assert "PUBLISH" in lines[1]
    assert mesh.envelope(root)["hops"][0]["sent_at"] is not None
    shown = mesh.command("trace", root[:8], "--children").splitlines()
    assert sum(f"child of {root}" in line for line in shown) == 3
    answer = json.loads(mesh.command("trace", root, "--json", "--payloads"))
    assert [(each["n"], each["side"]) for each in answer["payloads"]] == [(1, "in"), (1, "out")]

    table = mesh.command("top").splitlines()
    assert table[0].split()[:2] == ["ACTOR", "READY"]
    assert table[-1].startswith(f"{len(table) - 2} actors")
    total = json.loads(mesh.command("top", "--json"))["total"]
    assert (total["succeeded"], total["failed"]) == (5, 0)
    paced = mesh.status("greet")
    assert paced["p99_ms"] is not None
    assert paced["replicas_max"] == 10


def test_a_mask_that_is_no_path_stops_the_start(mesh: Mesh) -> None:
    mesh.code(HANDLERS)
    mesh.actor("greet", "handlers.greet")
    mesh.environ = {"ASYA_CAPTURE_MASK": ".a..b"}
    process = mesh.popen()
    assert process.wait(20) == 2
    assert "captureMask: '.a..b'" in mesh.said()
