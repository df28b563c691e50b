from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asya.errors import MeshRunning, UsageError
from asya.local.lock import FolderLock

HOLD = """
import sys, pathlib
from asya.local.lock import FolderLock
FolderLock(pathlib.Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Any:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_one_is_refused_with_the_pid_of_the_first(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    with pytest.raises(MeshRunning) as caught:
        FolderLock(tmp_path).acquire()
    assert caught.value.pid == holder.pid
    assert str(tmp_path) in str(caught.value)


def test_a_killed_holder_holds_nothing(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.kill()
    holder.wait()
    FolderLock(tmp_path).acquire()


def test_given_back_it_can_be_taken_again(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path / "new" / "data"), FolderLock(tmp_path / "new" / "data")
    first.acquire()
    with pytest.raises(MeshRunning) as caught:
        second.acquire()
    assert caught.value.pid == os.getpid()
    first.release()
    first.release()
    second.acquire()
    second.release()


def test_a_child_does_not_inherit_it(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.acquire()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        lock.release()
        again = FolderLock(tmp_path)
        again.acquire()
        again.release()
        child.communicate(b"\n")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--data") as caught:
        FolderLock(tmp_path / "file" / "data").acquire()
    assert str(tmp_path / "file" / "data") in str(caught.value)
