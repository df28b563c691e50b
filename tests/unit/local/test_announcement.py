from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from asya.local.announcement import FILE, Announcement, find, read

HERE = Announcement(
    pid=os.getpid(),
    url="http://127.0.0.1:1",
    started_at="2026-11-23T18:25:00.000Z",
    data="/data",
    logs="/data/logs",
    actors=("a", "b"),
)


def test_what_is_written_is_read(tmp_path: Path):
    HERE.write(tmp_path / "new" / FILE)
    assert read(tmp_path / "new" / FILE) == HERE
    assert [each.name for each in (tmp_path / "new").iterdir()] == [FILE]


def test_it_is_found_from_folders_below(tmp_path: Path):
    HERE.write(tmp_path / ".asya" / FILE)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert find(below) == HERE


def test_one_whose_process_is_gone_does_not_count(tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    replace(HERE, pid=gone.pid).write(tmp_path / FILE)
    assert read(tmp_path / FILE) is None


def test_what_is_no_announcement_does_not_count(tmp_path: Path):
    assert read(tmp_path / FILE) is None
    for text in ("", "[]", "{}", '{"pid": "x"}'):
        (tmp_path / FILE).write_text(text)
        assert read(tmp_path / FILE) is None
