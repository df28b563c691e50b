"""One bad handler never takes the mesh down, nor another handler: all of them in one mesh."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

LOG_MAX = 1024 * 1024

HANDLERS = """
import os, sys, time

def echo(payload):
    return payload

def print_much(megabytes):
    line = b"x" * 1023 + b"\\n"
    for _ in range(megabytes):
        os.write(1, line * 1024)
    return "printed"

def print_no_line(megabytes):
    for _ in range(megabytes):
        os.write(2, b"\\xff" * 2**20)
    return "printed"

def fork_and_leave(payload):
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
    return pid

def fork_and_return(payload):
    os.fork()
    return "both"

def exit_hard(payload):
    os._exit(7)

def exit_soft(payload):
    sys.exit("enough")

def eat(payload):
    eaten = []
    while True:
        eaten.append(bytearray(10_000_000))

def never(payload):
    while True:
        pass

async def never_async(payload):
    import asyncio
    await asyncio.sleep(600)
"""

NAMES = [
    "echo",
    "print_much",
    "print_no_line",
    "fork_and_leave",
    "fork_and_return",
    "exit_hard",
    "exit_soft",
    "eat",
    "never",
    "never_async",
]


@pytest.fixture
def project(shared_mesh: Any) -> Any:
    if shared_mesh.process is None:
        shared_mesh.code(HANDLERS)
        for name in NAMES:
            spec: dict[str, Any] = {"scaling": {"cooldownPeriod": 300, "maxReplicaCount": 1}}
            if name.startswith("never"):
                spec["resiliency"] = {"actorTimeout": "3s"}
            if name == "eat":
                spec["resources"] = {"limits": {"memory": "200Mi"}}
            shared_mesh.actor(name.replace("_", "-"), f"handlers.{name}", **spec)
        shared_mesh.environ = {"ASYA_LOG_MAX": str(LOG_MAX), "ASYA_COOLDOWN": "300s"}
        shared_mesh.actor("broken", "broken.handle")
        shared_mesh.code("import nothing_of_that_name\n", "broken.py")
        shared_mesh.up()
    return shared_mesh


def resident(pid: int) -> int:
    """The bytes of memory that a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
def test_one_that_prints_a_gigabyte_costs_bounded_disk_and_memory(project: Any) -> None:
    project.call("echo", 0)
    before = resident(project.process.pid)
    printing = project.send("print-much", 1024)
    # meanwhile the others are served
    for number in range(20):
        assert project.call("echo", number)["result"] == number
    assert project.ended(printing)["result"] == "printed"
    sizes = [each.stat().st_size for each in (project.data / "logs").glob("print-much.log*")]
    assert len(sizes) == 2
    assert max(sizes) <= LOG_MAX
    assert resident(project.process.pid) - before < 50 * 2**20


def test_one_that_never_ends_its_line_is_bounded_too(project: Any) -> None:
    assert project.call("print-no-line", 64)["result"] == "printed"
    sizes = [each.stat().st_size for each in (project.data / "logs").glob("print-no-line.log*")]
    assert max(sizes) <= LOG_MAX


def test_what_one_forks_ends_with_its_replica(project: Any, wait_until: Any, is_alive: Any) -> None:
    forked = project.call("fork-and-leave")["result"]
    assert is_alive(forked)
    os.kill(project.pids("fork-and-leave")[0], 9)
    wait_until(lambda: not is_alive(forked), 30, project.said)


def test_one_that_forks_and_returns_twice_ends_once(project: Any) -> None:
    id_ = project.send("fork-and-return")
    assert project.ended(id_)["result"] == "both"
    assert project.call("fork-and-return")["result"] == "both"
    assert project.envelope(id_)["result"] == "both"


def test_one_that_exits_is_a_poison_message_and_hurts_nobody(project: Any) -> None:
    end = project.call("exit-hard")
    assert end["status"] == "failed"
    assert end["error"]["reason"] == "PoisonMessage"
    assert "exited with code 7" in project.said()
    assert project.call("echo", 1)["status"] == "succeeded"


def test_one_that_calls_sys_exit_failed(project: Any) -> None:
    end = project.call("exit-soft")
    assert end["status"] == "failed"
    assert "enough" in end["error"]["message"]


def test_one_that_eats_memory_meets_its_limit(project: Any) -> None:
    end = project.call("eat")
    assert end["status"] == "failed"
    assert end["error"]["type"] == "MemoryError"


@pytest.mark.parametrize("name", ["never", "never-async"])
def test_one_that_never_returns_is_stopped(name: str, project: Any, wait_until: Any) -> None:
    stuck: list[int] = []

    def works() -> list[int]:
        stuck[:] = project.pids(name, "busy")
        return stuck

    running = project.send(name)
    wait_until(works, 30, project.said)
    end = project.ended(running)
    assert end["status"] == "failed"
    assert end["error"]["type"] == "asya.errors.ActorTimeout"
    wait_until(lambda: stuck[0] not in project.pids(name, "busy"), 30, project.said)


def test_one_that_cannot_be_loaded_is_named_and_tried_again_when_its_file_changes(
    project: Any, wait_until: Any
) -> None:
    waiting = project.send("broken", 21)
    said = "broken: error ASYA-3104: the handler 'broken.handle' cannot be imported"
    wait_until(lambda: said in project.said(), 30, project.said)
    assert project.call("echo", 1)["status"] == "succeeded"
    assert "nothing_of_that_name" in project.status("broken")["last_error"]
    assert "nothing_of_that_name" in project.log("broken")

    project.code("def handle(payload): return payload.twice\n", "broken.py")
    end = project.ended(waiting)
    assert end["error"]["type"] == "AttributeError"
    assert project.said().count(said) == 1
    assert "broken: the handler loads again" in project.said()
