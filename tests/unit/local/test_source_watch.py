from __future__ import annotations

import asyncio
import os
import py_compile
from pathlib import Path

import pytest

from asya.local import source_watch
from asya.local.source_watch import SourceWatch, drop_bytecode


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_watch, "LOOK_S", 0.01)


def test_python_files_and_manifests_count_and_nothing_hidden_or_installed(tmp_path: Path):
    for name in (
        "a.py", "b/c.py", "d.yaml", "e.txt", ".git/f.py", "g/__pycache__/h.py", "node_modules/i.py",
        "data/j.py", "env/k.py", "env/pyvenv.cfg",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    seen = SourceWatch([tmp_path], frozenset({tmp_path / "data"})).look()
    assert sorted(seen) == [str(tmp_path / name) for name in ("a.py", "b/c.py", "d.yaml")]


async def test_what_was_changed_made_or_removed_is_told(tmp_path: Path):
    one, two, three = (tmp_path / name for name in ("one.py", "two.py", "three.py"))
    for each in (one, two):
        each.write_text("")
    watch = SourceWatch([tmp_path])
    await watch.begin()
    async with asyncio.timeout(10):
        os.utime(one, ns=(1, 1))
        assert await watch.changes() == {str(one)}
        two.unlink()
        assert await watch.changes() == {str(two)}
        three.write_text("")
        assert await watch.changes() == {str(three)}


def test_what_was_compiled_of_changed_files_is_removed_and_nothing_else(tmp_path: Path):
    one, other = tmp_path / "one.py", tmp_path / "one_more.py"
    compiled = []
    for path in (one, other):
        path.write_text("x = 1")
        made = [py_compile.compile(str(path), optimize=level) for level in (0, 2)]
        compiled += [Path(str(each)) for each in made]
    drop_bytecode([str(one), str(tmp_path / "never_compiled.py"), str(tmp_path / "one_more.yaml")])
    assert [each.exists() for each in compiled] == [False, False, True, True]
    assert one.exists()
