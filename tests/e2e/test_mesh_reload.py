"""`asya up --reload`: code and manifests that change while envelopes run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

CODE = """
import os, time

def one(payload):
    while payload and not os.path.exists(payload):
        time.sleep(0.01)
    return {"version": VERSION, "pid": os.getpid()}
"""

OTHER = """
import os

def two(payload):
    from lazily import value
    return {"value": value, "pid": os.getpid()}
"""


def code(version: int) -> str:
    return CODE.replace("VERSION", str(version))


@pytest.fixture
def project(mesh: Any) -> Any:
    mesh.environ["PYTHONDONTWRITEBYTECODE"] = ""  # bytecode as users have it
    mesh.code(code(1), "one.py")
    mesh.code(OTHER, "two.py")
    mesh.code("value = 1\n", "lazily.py")
    mesh.actor("one", "one.one", scaling={"minReplicaCount": 1})
    mesh.actor("two", "two.two", scaling={"minReplicaCount": 1})
    return mesh


def result(mesh: Any, actor: str, payload: Any = None) -> dict[str, Any]:
    found: dict[str, Any] = mesh.call(actor, payload)["result"]
    return found


def test_changed_code_takes_over_and_what_runs_is_finished_by_the_old(
    project: Any, wait_until: Any, is_alive: Any, tmp_path: Path
) -> None:
    project.up("--reload")
    old, other = result(project, "one")["pid"], result(project, "two")["pid"]
    gate = tmp_path / "gate"
    running = project.send("one", str(gate))
    wait_until(lambda: project.pids("one", "busy") == [old], 30, project.said)

    project.code(code(2), "one.py")
    wait_until(lambda: "with the new code" in project.said(), 30, project.said)
    # the old one still works on its envelope; the new one takes the next
    new = result(project, "one")
    assert new["version"] == 2
    assert new["pid"] != old
    assert project.envelope(running)["status"] == "running"
    gate.touch()
    assert project.ended(running)["result"] == {"version": 1, "pid": old}
    wait_until(lambda: not is_alive(old), 30, project.said)
    # nobody else was touched
    assert result(project, "two")["pid"] == other

    # what a handler imported as it ran counts too
    project.code("value = 2000\n", "lazily.py")
    wait_until(lambda: result(project, "two")["value"] == 2000, 30, project.said)
    assert result(project, "one")["pid"] == new["pid"]


def test_code_that_cannot_be_loaded_leaves_the_old_in_place(project: Any, wait_until: Any) -> None:
    project.up("--reload")
    old = result(project, "one")["pid"]
    project.code("def one(payload:\n", "one.py")
    wait_until(lambda: "the code before go on" in project.said(), 30, project.said)
    assert "SyntaxError" in project.said()
    assert result(project, "one") == {"version": 1, "pid": old}

    # the module that is missing is a file nobody has told of; it is the remedy all the same
    project.code("import missing\n" + code(3), "one.py")
    wait_until(lambda: "'missing'" in project.said(), 30, project.said)
    project.code("", "missing.py")
    wait_until(lambda: result(project, "one")["version"] == 3, 30, project.said)
    assert project.said().count("SyntaxError") == 1


def test_the_last_envelope_is_replayed_through_the_new_code(project: Any, wait_until: Any) -> None:
    project.up("--replay")
    first = project.call(["one", "two"])
    assert first["status"] == "succeeded"
    project.code(code(2), "one.py")
    wait_until(lambda: f"replay of {first['id']} as " in project.said(), 30, project.said)
    line = next(line for line in project.said().splitlines() if "replay of" in line)
    assert 'succeeded: {"value":1' in line
    again = line.partition(" as ")[2].partition(":")[0]
    envelope = project.envelope(again)
    assert envelope["parent_id"] == first["id"]
    assert envelope["headers"]["x-asya-replay"] is True
    assert envelope["route"]["prev"] == ["one", "two"]

    project.code("def one(payload):\n    raise ValueError('not this')\n", "one.py")
    wait_until(lambda: "failed: ValueError: not this" in project.said(), 30, project.said)


def test_a_changed_manifest_replaces_its_actor(
    project: Any, wait_until: Any, tmp_path: Path
) -> None:
    project.up("--reload")
    old = result(project, "one")["pid"]
    other = result(project, "two")["pid"]
    project.actor("one", "one.one", scalling={"minReplicaCount": 1})
    wait_until(lambda: "the manifests cannot be used" in project.said(), 30, project.said)
    assert result(project, "one")["pid"] == old

    project.actor(
        "one", "two.two", scaling={"minReplicaCount": 1}, env=[{"name": "A", "value": "1"}]
    )
    project.actor("three", "two.two")
    (tmp_path / "two.yaml").unlink()
    wait_until(lambda: "value" in result(project, "one"), 30, project.said)
    assert "one: its manifest changed" in project.said()
    assert "start the mesh again for the new three and the end of two" in project.said()
    assert result(project, "two")["pid"] == other
