from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from asya.runtime import sources


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives a function that pretends to import a file."""

    def add(name: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        module = ModuleType(name)
        module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, f"sources.{name}", module)
        return str(path)

    return add


def test_files_below_the_folders_count_but_not_what_is_installed_there(
    project: Any, tmp_path: Path
) -> None:
    mine = [project("a.py"), project("package/b.py")]
    project(".venv/c.py")
    project("env/lib/site-packages/d.py")
    assert sources.imported([str(tmp_path)]) == mine
    # a folder whose own path is hidden is a folder like any other
    assert sources.imported([str(tmp_path / ".venv")]) == [str(tmp_path / ".venv/c.py")]
    assert sources.imported([]) == []


def test_a_changed_or_removed_file_is_found(project: Any) -> None:
    one, two = project("a.py"), project("b.py")
    before = sources.stamps([one, two])
    assert sources.changed(before) is None
    os.utime(two, ns=(1, 1))
    assert sources.changed(before) == two
    Path(one).unlink()
    assert sources.changed(before) == one


def test_files_are_told_once_and_again_when_there_are_more(project: Any, tmp_path: Path) -> None:
    told: list[Any] = []
    one = project("a.py")
    teller = sources.Teller([str(tmp_path)])
    teller.tick()
    assert told == []
    teller.start(told.append)
    teller.tick()
    assert told == [{"k": "files", "files": [one]}]
    two = project("b.py")
    teller.tick()
    assert told[1:] == [{"k": "files", "files": [one, two]}]
