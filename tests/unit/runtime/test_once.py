"""A handler by hand: `python3 -m asya.runtime --once`."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SOURCES = Path(__file__).parents[3] / "src"
HANDLERS = """
def handle(p):
    print("printed")
    yield "FLY", {"token": "t"}
    yield p
    yield "SET", ".headers.a", 1
    yield [p]
async def later(p): return {"later": p}
def failing(p): raise ValueError("as meant")
def slow(p):
    import time
    print("busy", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    (tmp_path / "shop.py").write_text(HANDLERS)

    def command(*arguments: Any, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "asya.runtime", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(SOURCES), "PYTHONDONTWRITEBYTECODE": "1"},
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return command


def test_frames_on_stdout_and_the_rest_on_stderr(run: Callable[..., Any]) -> None:
    done = run("--once", '{"a": 1}', "--handler", "shop.handle")

    assert done.returncode == 0
    assert done.stdout == '{"a":1}\n[{"a":1}]\n'
    assert done.stderr == 'printed\nFLY {"token":"t"}\n'


@pytest.mark.parametrize("arguments", [["--once"], ["--once", "-"]])
def test_the_payload_from_stdin(run: Callable[..., Any], arguments: list[str]) -> None:
    done = run(*arguments, "--handler", "shop.later", given="[1]")

    assert (done.returncode, done.stdout) == (0, '{"later":[1]}\n')


def test_an_error(run: Callable[..., Any]) -> None:
    done = run("--once", "1", "--handler", "shop.failing")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("ValueError: as meant\n")
    assert "asya/runtime" not in done.stderr


def test_a_handler_that_does_not_exist(run: Callable[..., Any]) -> None:
    done = run("--once", "1", "--handler", "shop.handel")

    assert done.returncode == 3
    assert "did you mean 'handle'" in done.stderr


@pytest.mark.parametrize("arguments", [["--once", "1"], ["--handler", "a.b"], ["--nonsense"]])
def test_wrong_use(run: Callable[..., Any], arguments: list[str]) -> None:
    assert run(*arguments).returncode == 2


def test_the_version(run: Callable[..., Any]) -> None:
    assert run("--version").stdout.startswith("asya runtime ")


def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(HANDLERS)
    with subprocess.Popen(
        [sys.executable, "-m", "asya.runtime", "--once", "1", "--handler", "shop.slow"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(SOURCES), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"busy\n"

        process.send_signal(signal.SIGINT)

        assert process.wait(30) == 1
        assert b"KeyboardInterrupt" in process.stderr.read()
