from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from asya.local.run_file import FILE, RunFile, find, read

HERE = RunFile(
    pid=os.getpid(),
    url="http://127.0.0.1:1",
    started_at="2026-11-23T18:25:00.000Z",
    data="/data",
    logs="/data/logs",
    actors=("a", "b"),
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    HERE.write(tmp_path / "new" / FILE)
    assert read(tmp_path / "new" / FILE) == HERE
    assert [each.name for each in (tmp_path / "new").iterdir()] == [FILE]


def test_it_is_found_from_folders_below(tmp_path: Path) -> None:
    HERE.write(tmp_path / ".asya" / FILE)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert find(below) == HERE


def test_one_whose_process_is_gone_does_not_count(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    replace(HERE, pid=gone.pid).write(tmp_path / FILE)
    assert read(tmp_path / FILE) is None


def test_what_is_not_a_run_file_does_not_count(tmp_path: Path) -> None:
    assert read(tmp_path / FILE) is None
    for text in ("", "[]", "{}", '{"pid": "x"}'):
        (tmp_path / FILE).write_text(text)
        assert read(tmp_path / FILE) is None


def test_a_second_mesh_in_a_folder_does_not_take_the_record_of_the_first(tmp_path: Path) -> None:
    """Given a mesh that runs, when another one starts and ends beside it, then the record stays."""
    path = tmp_path / ".asya" / "mesh.json"
    first = replace(HERE, pid=os.getppid(), url="http://127.0.0.1:2")
    assert first.place(path)
    assert not HERE.place(path)
    HERE.remove(path)
    assert read(path) == first
    first.remove(path)
    assert not path.exists()
