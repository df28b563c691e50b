"""The search example: the demo from nothing to nothing, and what its actors answer."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "01-search"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder with a short path, as Unix sockets want it."""
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        yield Path(folder)


def bare_environment(home: Path) -> dict[str, str]:
    """What a process of its own needs; temporary files go into `home`."""
    return {
        "HOME": str(home),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(ROOT / "src"),
        "TMPDIR": str(home),
    }


def processes_of(folder: Path) -> list[str]:
    """Command lines of processes that work on something below `folder`."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if str(folder) in line:
            found.append(line)
    return found


def test_the_demo_answers_scales_and_leaves_nothing(home: Path) -> None:
    environment = bare_environment(home)

    done = subprocess.run(
        [sys.executable, EXAMPLE / "demo.py"],
        check=False, capture_output=True, text=True, timeout=90, env=environment, cwd=home,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["query"] for answer in answers] == [
        json.loads(line)["query"] for line in (EXAMPLE / "questions.jsonl").read_text().splitlines()
    ]
    best = [[result["name"] for result in answer["results"][:3]] for answer in answers]
    assert "csv.reader" in best[0]
    assert "collections.Counter" in best[1]
    assert "subprocess.run" in best[2]
    for actor in ("embedder", "reranker"):
        changes = re.findall(rf"{actor}: (\d+) → (\d+) replicas", done.stderr)
        assert changes[0] == ("0", "1"), "a mesh starts with no replica"
        assert changes[-1][1] == "0", "and goes back to none"
    assert "✓ embedder" in done.stderr
    assert processes_of(home) == []
    assert list(home.iterdir()) == []


def test_a_demo_that_is_stopped_leaves_nothing(home: Path) -> None:
    environment = bare_environment(home)
    demo = subprocess.Popen(
        [sys.executable, EXAMPLE / "demo.py", "--stay"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert demo.stderr is not None
    said = iter(demo.stderr.readline, "")
    assert any("embedder: 0 → 1" in line for line in said)

    demo.terminate()
    demo.stderr.read()
    demo.stderr.close()

    assert demo.wait(timeout=30) != 0
    assert processes_of(home) == []
    assert list(home.iterdir()) == []


def test_the_handlers_import_nothing_of_ours() -> None:
    for name in ("corpus", "embedder", "model", "reranker"):
        assert "asya" not in (EXAMPLE / f"{name}.py").read_text()
