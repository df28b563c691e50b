"""Nothing that was accepted is lost: every process killed, under load, for real."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.slow

HANDLERS = """
import os, signal, time

JOURNAL = os.path.join(os.path.dirname(__file__), "journal")

def first_time(name):
    try:
        os.close(os.open(JOURNAL + "." + name, os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def work(payload):
    name = yield "GET", ".id"
    time.sleep((payload or {}).get("sleep", 0) if isinstance(payload, dict) else 0)
    with open(JOURNAL, "a") as journal:
        journal.write(name + "\\n")
    yield payload

def pass_on(payload):
    return payload

def slow(gate):
    while not os.path.exists(gate):
        time.sleep(0.01)
    return os.getpid()

def fan(count):
    for number in range(count):
        yield number

def die_between_frames(count):
    for number in range(count):
        if number == count - 1 and first_time("frames"):
            die()
        yield number

def flaky(payload):
    attempt = yield "GET", ".status.attempt"
    if attempt == 1:
        raise ConnectionError("not yet")
    yield {"attempt": attempt}
"""


@pytest.fixture
def project(mesh: Any) -> Any:
    mesh.code(HANDLERS)
    fast = {"maxReplicaCount": 2, "queueLength": 50}
    for name in ("work", "pass-on", "fan", "die-between-frames", "slow"):
        mesh.actor(name, f"handlers.{name.replace('-', '_')}", scaling=fast)
    policies = {"default": {"maxAttempts": 3, "backoff": "constant", "initialDelay": "3s"}}
    mesh.actor("flaky", "handlers.flaky", resiliency={"policies": policies})
    return mesh


def worked(project: Any) -> Counter[str]:
    """How often each envelope was worked on to the end of its handler."""
    return Counter((project.folder / "journal").read_text().split())


def kill_everything(project: Any) -> None:
    """The supervisor first, so that it replaces nothing; then the broker and all replicas."""
    replicas = [pid for actor in ("work", "slow", "flaky") for pid in project.pids(actor)]
    broker = project.broker_pid
    project.kill()
    for pid in (broker, *replicas):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_the_supervisor_is_killed_with_500_envelopes_under_way(
    project: Any, wait_until: Any, is_alive: Any
) -> None:
    project.up()
    ids = [f"e-{number}" for number in range(500)]
    sending = [project.sending(["pass-on", "work"], ids[n::2], {"sleep": 0.002}) for n in (0, 1)]
    wait_until(lambda: project.states()["succeeded"] >= 50, 30, project.said)
    before = project.pids("work") + project.pids("pass-on") + [project.broker_pid]
    project.kill()
    project.up()
    for each in sending:
        each.result(60)
    assert project.all_ended(500) == {"succeeded": 500}
    assert set(worked(project)) == set(ids)
    # once each, but for the few that were in a replica when it died
    assert worked(project).total() <= 500 + 100
    assert not any(is_alive(pid) for pid in before)


@pytest.mark.parametrize("point", ["before-publish", "after-publish", "before-ack", "after-store"])
def test_the_sidecars_process_is_killed_at(point: str, project: Any, wait_until: Any) -> None:
    project.environ = {"ASYA_TEST_CRASH": f"{point}:7"}
    project.up()
    project.environ = {}
    ids = [f"e-{number}" for number in range(30)]
    sending = project.sending(["pass-on", "work"], ids, 1)
    assert project.process.wait(40) == -signal.SIGKILL
    project.up()
    sending.result(60)
    assert project.all_ended(30) == {"succeeded": 30}
    assert set(worked(project)) == set(ids)


def test_the_broker_is_killed_under_load(project: Any, wait_until: Any) -> None:
    project.up()
    ids = [f"e-{number}" for number in range(400)]
    sending = project.sending(["pass-on", "work"], ids, {"sleep": 0.001})
    for count in (50, 150):
        wait_until(lambda count=count: project.states()["succeeded"] >= count, 30, project.said)
        os.kill(project.broker_pid, signal.SIGKILL)
    sending.result(60)
    assert project.all_ended(400) == {"succeeded": 400}
    assert set(worked(project)) == set(ids)
    assert project.said().count("broker gone (SIGKILL)") == 2
    assert project.said().count("broker back after") == 2


def test_a_runtime_is_killed_in_its_handler(project: Any, wait_until: Any, tmp_path: Path) -> None:
    project.up()
    gate = tmp_path / "gate"
    running = project.send("slow", str(gate))
    wait_until(lambda: project.pids("slow", "busy"), 30, project.said)
    killed = project.pids("slow", "busy")[0]
    os.kill(killed, signal.SIGKILL)
    gate.touch()
    end = project.ended(running)
    assert end["status"] == "succeeded"
    assert end["result"] != killed
    assert f"slow: replica {killed} was ended by SIGKILL" in project.said()


@pytest.mark.parametrize("frames", [2, 300], ids=["before the bound", "past the bound"])
def test_a_runtime_is_killed_between_two_frames(frames: int, project: Any) -> None:
    project.up()
    first = project.send(["die-between-frames", "work"], frames)
    assert project.all_ended(frames) == {"succeeded": frames}
    assert (project.folder / "journal.frames").exists()
    children = [each for each in project.envelopes() if each["id"] != first]
    assert len(children) == frames - 1
    assert {each["parent_id"] for each in children} == {first}
    results = sorted(project.envelope(each["id"])["result"] for each in project.envelopes())
    assert results == list(range(frames))


def test_a_stop_with_10000_envelopes_in_flight(
    project: Any, wait_until: Any, left_running: Any
) -> None:
    count = 10_000
    project.up()
    project.send(["fan", "pass-on"], count)
    wait_until(lambda: project.status("pass-on")["queue"]["ready"] >= 3000, 60, project.said)
    assert project.stop() == 0
    assert left_running(project.folder) == []
    project.up()
    assert project.all_ended(count, wait_s=90) == {"succeeded": count}


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_retry_waits_while_everything_is_ended_and_started_again(
    how: str, project: Any, wait_until: Any
) -> None:
    project.up()
    waiting = project.send("flaky", 1)
    wait_until(lambda: project.status("flaky")["queue"]["delayed"] == 1, 30, project.said)
    if how == "kill":
        kill_everything(project)
    else:
        assert project.stop() == 0
    project.up()
    end = project.ended(waiting)
    assert end["status"] == "succeeded"
    assert end["result"] == {"attempt": 2}
    assert project.all_ended(1) == {"succeeded": 1}


def test_what_a_killed_mesh_left_is_ended_at_the_next_start(
    project: Any, wait_until: Any, is_alive: Any, tmp_path: Path
) -> None:
    project.up()
    gate = tmp_path / "gate"
    running = project.send("slow", str(gate))
    wait_until(lambda: project.pids("slow", "busy"), 30, project.said)
    replica, broker = project.pids("slow")[0], project.broker_pid
    # a replica that cannot notice the end of its supervisor
    os.kill(replica, signal.SIGSTOP)
    project.kill()
    noted = [json.loads(line) for line in children(project).read_text().splitlines()]
    assert replica in [each["pid"] for each in noted]
    project.up()
    assert not is_alive(replica)
    assert not is_alive(broker)
    assert f"slow: ended replica {replica}, left behind" in project.said()
    gate.touch()
    assert project.ended(running)["status"] == "succeeded"


def test_a_replica_that_a_killed_mesh_could_not_note_is_sent_away(
    project: Any, wait_until: Any
) -> None:
    # given one that was started for another run, on the same socket
    project.up()
    assert project.call("slow", 0)["status"] == "succeeded"
    environ = psutil.Process(project.pids("slow")[0]).environ() | {"ASYA_TOKEN": "of another run"}
    stranger = subprocess.Popen(
        [sys.executable, "-P", "-m", "asya.runtime"], env=environ, cwd=project.folder
    )
    # then it ends, and the mesh's own replicas do the work
    stranger.wait(30)
    assert f"the process {stranger.pid} is no replica of this run" in project.log("x-mesh")
    assert project.call("slow", 0)["status"] == "succeeded"
    assert stranger.pid not in project.pids("slow")


def children(project: Any) -> Path:
    return Path(project.data / "children.jsonl")
