"""A full disk is a clear error, and no loss: a real one, filled to the last byte."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

COUNT = 1500

HANDLERS = """
import time

def work(payload):
    time.sleep(0.001)
    return payload
"""


@pytest.fixture
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 200 MB."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("making a small disk needs root and mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(file: Path) -> None:
    block = b"x" * 2**16
    with file.open("wb", buffering=0) as out, contextlib.suppress(OSError):
        while block:
            written = out.write(block)
            block = block[: written or 0]


def test_what_was_accepted_before_a_full_disk_ends_when_there_is_room(
    mesh: Any, disk: Path, wait_until: Any
) -> None:
    # given a mesh in the middle of its work
    mesh.code(HANDLERS)
    mesh.actor("first", "handlers.work", scaling={"maxReplicaCount": 1})
    mesh.actor("second", "handlers.work", scaling={"maxReplicaCount": 1})
    mesh.data = disk / "data"
    mesh.up("--data", str(mesh.data))
    ids = [f"e-{number}" for number in range(COUNT)]
    # 507 until the mesh itself has noticed, which then says 503
    again = frozenset({429, 503, 507})
    sending = mesh.sending(["first", "second"], ids, {"text": "x" * 1000}, again)
    wait_until(lambda: mesh.states()["succeeded"] >= 20, 20, mesh.said)

    # when its disk is full
    fill(disk / "ballast")

    # then nothing is accepted, and the reason is told
    wait_until(lambda: "is full" in mesh.said(), 20, mesh.said)
    status, problem = mesh.ask("POST", "/v1/envelopes", {"route": ["first"], "payload": 1})
    assert status == 503
    assert "full" in problem["detail"]
    accepted = mesh.states().total()
    assert accepted < COUNT

    # and it stays like that, however often it is tried and whatever else wants to be stored
    settled = mesh.states()
    for _ in range(30):
        assert mesh.ask("POST", "/v1/envelopes", {"route": ["first"], "payload": 1})[0] == 503
        time.sleep(0.1)
    assert mesh.states().total() == settled.total()

    # when there is room again
    (disk / "ballast").unlink()

    # then it goes on by itself, with all that was accepted and what is sent again
    wait_until(lambda: "stores messages again" in mesh.said(), 20, mesh.said)
    sending.result(60)
    assert mesh.all_ended(COUNT) == {"succeeded": COUNT}
    assert mesh.stop() == 0
