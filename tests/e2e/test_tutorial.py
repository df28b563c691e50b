"""The tutorial, followed to the letter: every command that it shows, every output that it promises.

The page marks its blocks with HTML comments, which readers do not see:

- `run`, `run: CODE`    a shell command, which must end with this exit code (0)
- `output`, `errors`    what the last command printed on stdout, or on stderr
- `start`               `asya up`, left running; the one that ran before is stopped by Ctrl-C
- `kill`                a command that kills it
- `file: NAME`, `append: NAME`    text for a file

One shell runs everything, so `cd` and variables hold as they do for the reader.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEP = re.compile(r"^<!-- (\w+)(?:: (\S+))? -->\n```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
READY_MAX_S = 30

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Reader:
    """Someone who does what the page says, with two terminals."""

    def __init__(self, home: Path) -> None:
        commands = home / "bin"
        commands.mkdir()
        asya = commands / "asya"
        asya.write_text(f'#!/bin/sh\nexec {sys.executable} -m asya "$@"\n')
        asya.chmod(0o755)
        self.folder = home / "projects"
        self.folder.mkdir()
        self.environment = {
            "HOME": str(home),
            "PATH": f"{commands}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "ASYA_PORT": "0",  # the reader's machine has 8080 free, this one may not
        }
        self.mesh: subprocess.Popen[bytes] | None = None
        self.output = self.errors = ""

    def do(self, kind: str, argument: str, text: str) -> None:
        if kind == "run":
            self.run(text, int(argument or 0))
        elif kind == "output":
            assert self.output == text
        elif kind == "errors":
            assert self.errors == text
        elif kind == "start":
            self.start(text)
        elif kind == "kill":
            self.run(text, 0)
            assert self.mesh is not None
            assert self.mesh.wait(timeout=10) == -signal.SIGKILL
        else:
            mode = {"file": "w", "append": "a"}[kind]
            with (self.folder / argument).open(mode) as file:
                file.write(text)

    def run(self, commands: str, code: int) -> None:
        where = self.folder.parent / "where"
        script = f"set -e\n{commands}\npwd > {where}\n"
        done = subprocess.run(
            ["bash", "-c", script],
            check=False, capture_output=True, text=True, timeout=60,
            cwd=self.folder, env=self.environment,
        )  # fmt: skip
        self.output, self.errors = done.stdout, done.stderr
        assert done.returncode == code, f"{commands}{done.stdout}{done.stderr}"
        if code == 0:
            self.folder = Path(where.read_text().strip())

    def start(self, command: str) -> None:
        self.stop()
        self.mesh = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.environment
        )
        give_up = time.monotonic() + READY_MAX_S
        while subprocess.run(
            ["asya", "ps"], check=False, capture_output=True, cwd=self.folder, env=self.environment
        ).returncode:
            assert self.mesh.poll() is None, "the mesh ended"
            assert time.monotonic() < give_up, "the mesh is not ready"
            time.sleep(0.1)

    def stop(self) -> None:
        if self.mesh is not None and self.mesh.poll() is None:
            self.mesh.send_signal(signal.SIGINT)
            self.mesh.wait(timeout=40)


@pytest.fixture
def reader() -> Iterator[Reader]:
    with tempfile.TemporaryDirectory(prefix="tutorial-") as folder:
        someone = Reader(Path(folder))
        yield someone
        if someone.mesh is not None and someone.mesh.poll() is None:
            someone.mesh.kill()
            someone.mesh.wait()


def test_the_tutorial_works_to_the_letter(reader: Reader) -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    steps = STEP.findall(page)
    assert len(steps) == page.count("<!-- "), "a mark stands before something that is no block"

    for kind, argument, text in steps:
        reader.do(kind, argument, text)

    reader.stop()
    assert reader.mesh is not None
    assert reader.mesh.returncode == 0


def test_the_first_steps_of_the_readme_work(reader: Reader) -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    handler = re.search(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    commands = re.search(r"^```\n(asya up .*)\n(asya call .*)\n```$", page, re.MULTILINE)
    assert handler
    assert commands

    reader.do("file", "handlers.py", handler[1])
    reader.start(commands[1])
    reader.run(commands[2], 0)

    assert '"vector": [' in reader.output
    reader.stop()
