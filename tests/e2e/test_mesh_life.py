"""`asya up` from start to stop: what it refuses, what it leaves behind, how it scales."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asya.local.broker import NatsServer

HANDLERS = """
import os, time

def echo(payload):
    return {"echo": payload, "pid": os.getpid(), "env": dict(os.environ)}

def slow(gate):
    while gate and not os.path.exists(gate):
        time.sleep(0.01)
    return gate
"""


@pytest.fixture
def project(mesh: Any) -> Any:
    mesh.code(HANDLERS)
    mesh.actor("echo", "handlers.echo")
    mesh.actor(
        "slow",
        "handlers.slow",
        scaling={"minReplicaCount": 0, "maxReplicaCount": 3, "queueLength": 1, "cooldownPeriod": 1},
    )
    return mesh


def test_replicas_go_from_zero_to_many_and_back_to_zero(
    project: Any, wait_until: Any, tmp_path: Path
) -> None:
    project.up()
    assert project.pids("slow") == []
    gate = tmp_path / "gate"
    ids = project.send_many("slow", [str(gate)] * 15)
    wait_until(lambda: len(project.pids("slow")) == 3, 30, project.said)
    gate.touch()
    assert project.all_ended(15) == {"succeeded": 15}
    wait_until(lambda: project.pids("slow") == [], 30, project.said)
    assert project.envelope(ids[0])["result"] == str(gate)
    # and again, from zero
    assert project.call("slow", "")["result"] == ""


def test_a_minimum_runs_at_once_and_stays(project: Any, wait_until: Any) -> None:
    project.actor("warm", "handlers.echo", scaling={"minReplicaCount": 2, "cooldownPeriod": 0})
    project.actor("fixed", "handlers.echo", scaling={"enabled": False}, replicas=1)
    project.up()
    wait_until(lambda: len(project.pids("warm", "idle")) == 2, 30, project.said)
    wait_until(lambda: len(project.pids("fixed", "idle")) == 1, 30, project.said)
    before = set(project.pids("warm"))
    assert project.call("warm", 1)["result"]["pid"] in before
    os.kill(project.pids("fixed")[0], signal.SIGKILL)
    wait_until(lambda: len(project.pids("fixed", "idle")) == 1, 30, project.said)
    assert set(project.pids("warm")) == before


def test_a_second_mesh_on_the_same_folder_is_refused_with_the_pid_of_the_first(
    project: Any,
) -> None:
    project.up()
    second = project.popen()
    assert second.wait(30) == 2
    assert f"(pid {project.process.pid})" in project.said()
    assert project.call("echo", 1)["status"] == "succeeded"


def test_a_port_in_use_is_told_before_anything_starts(project: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = project.popen("--port", str(port))
        assert refused.wait(30) == 2
    assert f"port {port} " in project.said()
    assert "--port" in project.said()
    assert not (project.data / "nats").exists()


def test_a_data_folder_without_write_permission_is_named(project: Any, left_running: Any) -> None:
    folder = project.folder / "data"
    folder.mkdir(mode=0o555)
    refused = project.popen("--data", str(folder), preexec=_obey_permissions())
    assert refused.wait(30) == 2
    said = project.said()
    assert f"{folder} cannot be used" in said
    assert "Permission denied" in said
    assert "--data" in said
    assert left_running(project.folder) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.yaml"], "nothing.yaml: no such file"),
        (["handlers.py:eco"], "did you mean 'echo'"),
        (["--host", "0.0.0.0"], "--insecure"),
        (["--port", "x"], "--port"),
        (["--cooldown", "5"], "--cooldown"),
    ],
)
def test_wrong_use_is_told_and_starts_nothing(
    arguments: list[str], said: str, project: Any
) -> None:
    refused = project.popen(*arguments)
    assert refused.wait(30) == 2
    assert said in project.said()
    assert "Traceback" not in project.said()
    assert not project.data.exists()


def test_a_folder_without_manifests_is_told_of_init(mesh: Any) -> None:
    assert mesh.popen().wait(30) == 2
    assert "asya init" in mesh.said()


def test_what_a_manifest_asks_for_and_cannot_get_is_named_with_its_line(project: Any) -> None:
    project.actor("greedy", "handlers.echo", resources={"limits": {"memory": "lots"}})
    assert project.popen().wait(30) == 2
    assert "greedy.yaml:1: actor greedy: resources.limits.memory: 'lots'" in project.said()


def test_functions_need_no_manifest_and_the_commands_find_the_mesh(project: Any) -> None:
    for manifest in project.folder.glob("*.yaml"):
        manifest.unlink()
    project.up("handlers.py:echo", "--data", str(project.folder / "elsewhere" / "data"))
    assert project.command("call", "echo", "[1]", "--compact").startswith('{"echo": [1]')
    assert [line.split()[:2] for line in project.command("ps").splitlines()[1:]] == [["echo", "1"]]
    assert json.loads(project.command("ps", "--json"))["actors"][0]["name"] == "echo"
    assert "echo: replica" in project.command("logs", "x-mesh")
    assert (project.folder / "elsewhere" / "data" / "tasks.db").exists()


async def test_a_broker_that_runs_already_is_used_and_left_alone(
    project: Any, tmp_path: Any
) -> None:
    broker = NatsServer(tmp_path / "broker")
    await broker.start()
    try:
        await asyncio.to_thread(project.up, "--transport", broker.url)
        end = await asyncio.to_thread(project.call, "echo", 1)
        assert end["status"] == "succeeded"
        assert not (project.data / "nats").exists()
        assert await asyncio.to_thread(project.stop) == 0
        assert broker.running
    finally:
        await broker.stop()


def test_a_broker_that_is_not_there_is_named(project: Any) -> None:
    refused = project.popen("--transport", "nats://127.0.0.1:9")
    assert refused.wait(20) != 0
    assert "127.0.0.1:9" in project.said()
    assert "Traceback" not in project.said()


def _obey_permissions() -> Callable[[], None] | None:
    """What makes a child of root obey permissions like everybody else, after its exec."""
    if os.getuid() != 0:
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    drop_from_bounding_set, may_override_permissions = 24, 1
    return lambda: libc.prctl(drop_from_bounding_set, may_override_permissions, 0, 0, 0)


def test_a_stop_ends_everything_and_leaves_nothing_behind(
    project: Any, left_running: Any, wait_until: Any, tmp_path: Path
) -> None:
    project.up()
    assert project.call("echo", 1)["status"] == "succeeded"
    gate = tmp_path / "gate"
    running = project.send("slow", str(gate))
    wait_until(lambda: project.pids("slow", "busy"), 30, project.said)
    assert len(left_running(project.folder)) >= 3
    project.process.send_signal(signal.SIGTERM)
    # no new work from now on, while the old one is finished
    wait_until(lambda: "1 envelope is being finished" in project.said(), 30, project.said)
    status, problem = project.ask("POST", "/v1/envelopes", {"route": ["echo"], "payload": 1})
    assert status == 503
    assert "stopping" in problem["detail"]
    gate.touch()
    assert project.process.wait(25) == 0
    assert left_running(project.folder) == []
    assert not (project.data / "mesh.json").exists()
    assert not (project.data / "children.jsonl").exists()
    # and it was finished within the grace time
    project.up()
    assert project.envelope(running)["status"] == "succeeded"


def test_a_second_signal_does_not_wait_for_handlers(
    project: Any, wait_until: Any, left_running: Any, tmp_path: Path
) -> None:
    project.up()
    stuck = project.send("slow", str(tmp_path / "never"))
    wait_until(lambda: project.pids("slow", "busy"), 30, project.said)
    project.process.send_signal(signal.SIGINT)
    wait_until(lambda: "stopping" in project.said(), 30)
    assert project.stop(signal.SIGINT, within_s=25) == 0
    assert left_running(project.folder) == []
    # the envelope is back in its queue, not blamed for the death of its replica
    project.up()
    assert "of the last run" not in project.said()
    assert project.envelope(stuck)["status"] in {"pending", "running"}
    wait_until(lambda: project.pids("slow", "busy"), 30, project.said)


def test_what_a_replica_sees_of_the_environment(project: Any) -> None:
    project.actor(
        "secretive",
        "handlers.echo",
        env=[{"name": "LEVEL", "value": "debug"}],
        secretRefs=[
            {"secretName": "openai", "keys": [{"key": "key", "envVar": "API_KEY"}]},
            {"secretName": "hf", "keys": [{"key": "token", "envVar": "HF_TOKEN"}]},
        ],
    )
    refused = project.popen()
    assert refused.wait(30) == 2
    assert "actor secretive: the secret openai, key key, is missing" in project.said()

    (project.folder / ".env").write_text('export API_KEY="from file" # comment\nOTHER=x\n')
    project.environ = {"HF_TOKEN": "from environment", "ASYA_QUEUE_MAX": "77", "PLAIN": "1"}
    project.up()
    seen = project.call("secretive")["result"]["env"]
    assert seen["API_KEY"] == "from file"
    assert seen["HF_TOKEN"] == "from environment"
    assert seen["LEVEL"] == "debug"
    assert seen["PLAIN"] == "1"
    assert "OTHER" not in seen
    assert "ASYA_QUEUE_MAX" not in seen
    assert "API_KEY" not in project.call("echo")["result"]["env"]


def test_an_actor_that_is_no_longer_part_of_the_mesh_keeps_its_envelopes(
    project: Any, wait_until: Any, tmp_path: Path
) -> None:
    project.up("--grace", "0s")
    gate = tmp_path / "gate"
    left = project.send("slow", str(gate))
    project.call("echo")
    project.stop()
    manifest = (project.folder / "slow.yaml").read_text()
    (project.folder / "slow.yaml").unlink()
    project.up()
    wait_until(lambda: "slow: 1 envelope for this actor" in project.said(), 30, project.said)
    project.stop()
    (project.folder / "slow.yaml").write_text(manifest)
    project.up()
    gate.touch()
    assert project.ended(left)["status"] == "succeeded"
