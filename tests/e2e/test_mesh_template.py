"""Replicas that a warm template forks: when they are, when not, and how they end."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="templates are for Linux")

CODE = """
import os, random, sys, threading, time

imported_in = os.getpid()
VERSION = 1

def work(payload):
    if payload == "die":
        os._exit(7)
    while payload and not os.path.exists(payload):
        time.sleep(0.01)
    print("worked in", os.getpid(), flush=True)
    return {
        "pid": os.getpid(), "parent": imported_in, "session": os.getsid(0), "version": VERSION,
        "random": random.random(), "forks": os.environ.get("ASYA_FORKS"),
        "oom": open("/proc/self/oom_score_adj").read().strip(),
    }

class Made:
    def __init__(self):
        self.made_in = os.getpid()

    async def work(self, payload):
        return {"pid": os.getpid(), "parent": imported_in, "made_in": self.made_in}
"""


@pytest.fixture
def project(mesh: Any) -> Any:
    mesh.code(CODE)
    mesh.actor("work", "handlers.work", resources={"limits": {"memory": "1Gi"}})
    return mesh


def result(mesh: Any, actor: str = "work", payload: Any = None) -> dict[str, Any]:
    found: dict[str, Any] = mesh.call(actor, payload)["result"]
    return found


def templates(mesh: Any) -> list[psutil.Process]:
    """Runtimes that are no replica: nobody of them is known to a sidecar."""
    known = {
        replica["pid"]
        for each in mesh.get("/v1/actors")[1]["actors"]
        for replica in each["replicas"]
    }
    return [
        each
        for each in psutil.Process(mesh.process.pid).children()
        if "asya.runtime" in each.cmdline() and each.pid not in known
    ]


def to_zero(mesh: Any, wait_until: Any, actor: str = "work") -> psutil.Process | None:
    """After the actor's replicas have gone, its template stands; gives it."""
    wait_until(lambda: mesh.pids(actor) == [], 30, mesh.said)
    wait_until(lambda: any(each.num_threads() == 1 for each in templates(mesh)), 30, mesh.said)
    # its socket is read when it sleeps in `poll`
    wait_until(lambda: templates(mesh)[0].status() == psutil.STATUS_SLEEPING, 30, mesh.said)
    return templates(mesh)[0]


def test_after_the_first_replica_a_template_forks_the_next(project: Any, wait_until: Any) -> None:
    project.actor("made", "handlers.Made.work")
    project.up("--cooldown", "200ms")
    assert templates(project) == []
    first = result(project)
    assert first["parent"] == first["pid"]
    template = to_zero(project, wait_until)
    assert template is not None
    wait_until(lambda: result(project)["parent"] == template.pid, 30, project.said)
    second = result(project)
    assert second["pid"] != template.pid
    assert second["session"] == second["pid"]
    assert second["oom"] == "500"
    assert second["forks"] is None
    assert f" {second['pid']} " in project.log("work")
    assert "worked in" in project.log("work")

    # one that dies is told with its exit code, and the next is forked as well
    project.send("work", "die")
    wait_until(lambda: "exited with code 7" in project.said(), 30, project.said)
    project.stop()
    assert not template.is_running()


def test_a_class_is_made_in_the_replica(project: Any, wait_until: Any) -> None:
    project.actor("made", "handlers.Made.work")
    project.up("--cooldown", "200ms")
    result(project, "made")
    to_zero(project, wait_until, "made")
    wait_until(
        lambda: (made := result(project, "made"))["parent"] != made["pid"] == made["made_in"],
        30,
        project.said,
    )


def test_changed_code_is_never_forked(project: Any, wait_until: Any) -> None:
    project.up("--cooldown", "200ms")
    result(project)
    template = to_zero(project, wait_until)
    assert template is not None
    project.code(CODE.replace("VERSION = 1", "VERSION = 2"))
    changed = result(project)
    assert changed["version"] == 2
    assert changed["parent"] == changed["pid"]
    wait_until(lambda: not template.is_running(), 30, project.said)
    # a new template takes over
    wait_until(lambda: (now := result(project))["parent"] != now["pid"], 30, project.said)
    assert result(project)["version"] == 2


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("threading.Thread(target=time.sleep, args=(600,), daemon=True).start()", "1 threads"),
        ("import socket; held = socket.socket()", "holds a socket"),
        ("held = open('written', 'w')", "open for writing"),
        ("import tempfile; held = tempfile.TemporaryDirectory()", "removed at exit"),
    ],
)
def test_what_cannot_be_shared_is_not_forked(
    more: str, why: str, project: Any, wait_until: Any
) -> None:
    project.code(f"{CODE}\n{more}\n")
    project.up("--cooldown", "100ms")
    result(project)
    wait_until(lambda: "without a template" in project.log("work"), 30, project.said)
    assert why in project.log("work")
    wait_until(lambda: project.pids("work") == [], 30, project.said)
    again = result(project)
    assert again["parent"] == again["pid"]
    wait_until(lambda: project.pids("work") == [], 30, project.said)
    assert project.log("work").count("without a template") == 1


def test_a_template_can_be_switched_off(project: Any, wait_until: Any) -> None:
    project.actor("work", "handlers.work", env=[{"name": "ASYA_TEMPLATE", "value": "off"}])
    project.up("--cooldown", "100ms")
    for _ in range(2):
        found = result(project)
        assert found["parent"] == found["pid"]
        wait_until(lambda: project.pids("work") == [], 30, project.said)
    assert templates(project) == []


def test_a_template_without_use_ends(project: Any, wait_until: Any) -> None:
    project.up("--cooldown", "100ms", "--template-idle", "3s")
    result(project)
    template = to_zero(project, wait_until)
    assert template is not None
    wait_until(lambda: not template.is_running(), 30, project.said)
    found = result(project)
    assert found["parent"] == found["pid"]


def test_replicas_outlive_their_template_and_nothing_outlives_the_mesh(
    project: Any, wait_until: Any, left_running: Any, is_alive: Any, tmp_path: Path
) -> None:
    project.up("--cooldown", "200ms")
    result(project)
    template = to_zero(project, wait_until)
    assert template is not None
    gate = tmp_path / "gate"
    running = project.send("work", str(gate))
    wait_until(lambda: len(project.pids("work", "busy")) == 1, 30, project.said)
    (forked,) = project.pids("work")
    assert forked not in {each.pid for each in psutil.Process(project.process.pid).children()}
    template.kill()
    gate.touch()
    assert project.ended(running)["result"]["pid"] == forked
    wait_until(lambda: not is_alive(forked), 30, project.said)
    assert result(project)["version"] == 1

    # the supervisor dies while a template stands and a forked replica works
    to_zero(project, wait_until)
    project.send("work", str(tmp_path / "never"))
    wait_until(lambda: len(project.pids("work", "busy")) == 1, 30, project.said)
    (forked,) = project.pids("work")
    os.kill(project.process.pid, signal.SIGKILL)
    project.process.wait()
    wait_until(lambda: not is_alive(forked), 30, project.said)
    wait_until(
        lambda: not [each for each in left_running(tmp_path) if "asya.runtime" in each.cmdline()],
        30,
        lambda: str(left_running(tmp_path)),
    )
