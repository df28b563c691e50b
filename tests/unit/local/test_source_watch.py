from __future__ import annotations

import asyncio
import os
import py_compile
import threading
from pathlib import Path
from typing import Any

import pytest

from asya.local import source_watch
from asya.local.source_watch import FolderWatch, SourceWatch, drop_bytecode, fingerprint


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_watch, "POLL_S", 0.01)
    monkeypatch.setattr(source_watch, "FOLDER_POLL_S", 0.01)


def test_python_files_and_manifests_count_and_nothing_hidden_or_installed(tmp_path: Path) -> None:
    for name in (
        "a.py", "b/c.py", "d.yaml", "e.txt", ".git/f.py", "g/__pycache__/h.py", "node_modules/i.py",
        "data/j.py", "env/k.py", "env/pyvenv.cfg",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    seen = SourceWatch([tmp_path], frozenset({tmp_path / "data"})).inspect()
    assert sorted(seen) == [str(tmp_path / name) for name in ("a.py", "b/c.py", "d.yaml")]


async def test_what_was_changed_made_or_removed_is_told(tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in ("one.py", "two.py", "three.py"))
    for each in (one, two):
        each.write_text("")
    watch = SourceWatch([tmp_path])
    await watch.begin()
    async with asyncio.timeout(60):
        os.utime(one, ns=(1, 1))
        assert await watch.changes() == {str(one)}
        two.unlink()
        assert await watch.changes() == {str(two)}
        three.write_text("")
        assert await watch.changes() == {str(three)}


def test_what_was_compiled_of_changed_files_is_removed_and_nothing_else(tmp_path: Path) -> None:
    one, other = tmp_path / "one.py", tmp_path / "one_more.py"
    compiled = []
    for path in (one, other):
        path.write_text("x = 1")
        made = [py_compile.compile(str(path), optimize=level) for level in (0, 2)]
        compiled += [Path(str(each)) for each in made]
    drop_bytecode([str(one), str(tmp_path / "never_compiled.py"), str(tmp_path / "one_more.yaml")])
    assert [each.exists() for each in compiled] == [False, False, True, True]
    assert one.exists()


async def test_any_file_of_a_watched_folder_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, polled = asyncio.Event(), threading.Event()

    def poll(folder: Path, ignore: frozenset[Path]) -> Any:
        found = fingerprint(folder, ignore)
        polled.set()
        return found

    monkeypatch.setattr(source_watch, "fingerprint", poll)
    watch = FolderWatch(tmp_path, frozenset(), changed.set)
    watch.switch(on=True)
    # Changes are measured by the first poll.
    assert await asyncio.to_thread(polled.wait, 60)
    (tmp_path / "weights.bin").write_text("new")
    await asyncio.wait_for(changed.wait(), 60)
    watch.switch(on=False)


def test_the_fingerprint_sees_changes_but_not_those_of_caches(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    for name in (".git", "__pycache__", "data"):
        (tmp_path / name).mkdir()
    ignore = frozenset({tmp_path / "data"})
    before = fingerprint(tmp_path, ignore)
    for name in (".git", "__pycache__", "data"):
        (tmp_path / name / "x").write_text("1")
    assert fingerprint(tmp_path, ignore) == before
    (tmp_path / "a.py").write_text("22")
    assert fingerprint(tmp_path, ignore) != before
