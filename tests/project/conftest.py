"""The committed files, as the checks of the whole project see them."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def committed(*patterns: str) -> list[Path]:
    """Files in git that still exist, by pathspec."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--", *patterns],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    paths = [ROOT / name for name in listing.split("\0") if name]
    return [path for path in paths if path.is_file()]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def python_files() -> list[Path]:
    return committed("*.py")


@pytest.fixture(scope="session")
def source_files() -> list[Path]:
    return committed("src/*.py")


@pytest.fixture(scope="session")
def text_files() -> list[Path]:
    return [path for path in committed() if path.suffix not in {".png", ".svg", ".gz"}]


@pytest.fixture(scope="session")
def pages() -> list[Path]:
    """Every Markdown page that people read."""
    return committed("*.md")
