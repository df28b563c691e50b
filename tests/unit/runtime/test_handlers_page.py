"""The examples of docs/reference/handlers.md do what the page says."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/reference/handlers.md").read_text()
MODULES = re.findall(r"```python\n# (\w+)\.py\n(.*?)```", PAGE, re.DOTALL)
EXAMPLES = re.findall(r"```console\n\$ python3 (.*?)\n(.*?)```", PAGE, re.DOTALL)


def test_every_module_of_the_page_is_run() -> None:
    assert len(MODULES) == len(EXAMPLES) >= 6


@pytest.mark.parametrize(("command", "output"), EXAMPLES)
def test_an_example_prints_what_the_page_shows(tmp_path: Path, command: str, output: str) -> None:
    for name, source in MODULES:
        (tmp_path / f"{name}.py").write_text(source)

    done = subprocess.run(
        [sys.executable, *shlex.split(command)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )

    assert done.stdout == output
