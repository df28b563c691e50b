from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from asya.local import leftovers
from asya.local.leftovers import Child, ChildRecord, create_time, end_leftovers

FORK_AND_GO = """
import os, sys, time
pid = os.fork()
if pid == 0:
    time.sleep(600)
print(pid, flush=True)
sys.stdin.read()
os._exit(0)
"""


def start(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def record(tmp_path: Path) -> ChildRecord:
    return ChildRecord(tmp_path / "children.jsonl")


def test_what_lives_is_ended_with_what_it_forked(record: ChildRecord) -> None:
    with start(FORK_AND_GO) as child:
        assert child.stdout is not None
        forked = int(child.stdout.readline())
        record.add(child.pid, "embedder")

        ended = end_leftovers(ChildRecord(record.path).read())

        assert [each.name for each in ended] == ["embedder"]
        assert child.wait(30) < 0
        assert create_time(forked) is None


def test_what_a_dead_child_forked_is_ended_too(record: ChildRecord) -> None:
    with start(FORK_AND_GO) as child:
        assert child.stdout is not None
        forked = int(child.stdout.readline())
        record.add(child.pid, "embedder")
        assert child.stdin is not None
        child.stdin.close()
        child.wait(30)
        assert create_time(forked) is not None

        end_leftovers(record.read())

        assert create_time(forked) is None


def test_one_that_does_not_run_is_ended(record: ChildRecord) -> None:
    with start("print(1, flush=True); input()") as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGSTOP)
        record.add(child.pid, "deaf")
        end_leftovers(record.read())
        assert child.wait(30) == -signal.SIGKILL


def test_another_process_with_the_same_number_is_left_alone() -> None:
    with start("input()") as child:
        created = create_time(child.pid)
        assert created is not None
        assert end_leftovers([Child(child.pid, created - 100, "long gone")]) == []
        assert psutil.Process(child.pid).is_running()
        child.communicate("\n")


def test_lines_that_were_cut_off_are_skipped(record: ChildRecord) -> None:
    record.path.write_text(
        '{"pid": 1}\nnot json\n{"pid": 7, "create_time": 1.5, "name": "a"}\n{"pi'
    )
    assert record.read() == [Child(7, 1.5, "a")]


def test_no_file_is_no_children(record: ChildRecord) -> None:
    assert record.read() == []
    record.clear()


def test_the_file_is_bounded(record: ChildRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "COMPACT_AT", 10)
    with start("input()") as child:
        for _ in range(100):
            record.add(child.pid, "a")
        assert len(record.read()) <= 10
        child.communicate("\n")
