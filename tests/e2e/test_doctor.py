"""`asya doctor` beside a mesh that runs, that is gone, and that was killed."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def doctor(project: Any) -> Any:
    """Findings by check, and the exit code."""

    def run(*arguments: str) -> tuple[dict[str, dict[str, Any]], int]:
        environ = {key: value for key, value in os.environ.items() if not key.startswith("ASYA_")}
        done = subprocess.run(
            [sys.executable, "-m", "asya", "doctor", "--json", *arguments],
            cwd=project.folder, env=environ, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        found = {each["check"]: each for each in json.loads(done.stdout)["findings"]}
        return found, done.returncode

    return run


@pytest.fixture
def project(mesh: Any) -> Any:
    mesh.code("def double(payload): return 2 * payload\n")
    mesh.actor("double", "handlers.double")
    return mesh


def test_a_mesh_from_start_to_kill(project: Any, doctor: Any, wait_until: Any) -> None:
    # before
    found, code = doctor("--port", "0")
    assert (code, found["mesh"]["text"]) == (0, "none runs here")
    assert found["handler"]["text"].startswith("double: handlers.double can be loaded")

    # while it runs, its own port is no trouble
    project.up()
    port = project.url.rpartition(":")[2]
    found, code = doctor("--port", port)
    assert code == 0
    assert found["mesh"]["text"] == f"pid {project.process.pid} at {project.url} is ready"
    assert f"{port} is held by this folder's mesh" in found["ports"]["text"]

    # killed: what is left is named, and the next start ends it
    broker = project.broker_pid
    project.kill()
    found, code = doctor("--port", "0")
    assert (code, found["leftovers"]["state"]) == (0, "warn")
    assert f"nats-server (pid {broker})" in found["leftovers"]["text"]
    project.up()
    assert project.call("double", 21)["result"] == 42
    project.stop()
    found, _ = doctor("--port", "0")
    assert found["leftovers"]["text"] == "none"
