"""`asya init`: what it makes, and what it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest

from asya.cli.app import EXIT_USAGE, run
from asya.cli.init import make_project
from asya.errors import UsageError


def test_the_project_is_whole_and_its_own_tests_pass(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    make_project(folder)

    names = {path.name for path in folder.iterdir()}
    assert names == {
        ".gitignore", "README.md", "digest.yaml", "flow.yaml", "handlers.py", "normalize.yaml",
        "test_handlers.py",
    }  # fmt: skip
    assert (folder / "README.md").read_text().startswith("# shop\n")
    tests = [sys.executable, "-I", "-m", "unittest", "discover"]
    subprocess.run(tests, cwd=folder, check=True, capture_output=True, timeout=60)


def test_handlers_import_nothing_of_ours(tmp_path: Path) -> None:
    make_project(tmp_path / "shop")
    assert "asya" not in (tmp_path / "shop" / "handlers.py").read_text()


def test_the_manifests_are_valid(tmp_path: Path) -> None:
    from asya import manifest

    make_project(tmp_path / "shop")
    found = manifest.load([tmp_path / "shop"])
    assert {actor.name for actor in found.actors} == {"normalize", "digest"}
    assert [flow.name for flow in found.flows] == ["summary"]


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    make_project(tmp_path)
    assert (tmp_path / "handlers.py").exists()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        make_project(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "shop").write_text("mine")
    with pytest.raises(UsageError, match="cannot create the project"):
        make_project(tmp_path / "shop")


@pytest.mark.parametrize("name", ["Shop", "a shop", "-shop", "x" * 64, ""])
def test_a_bad_name_makes_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["init", "--", name]) == EXIT_USAGE
    assert "is not a valid project name" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
