"""The probe of a handler: as a replica loads it, but nothing is made or called."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MODULE = """
import sys
print("imported")
sys.stderr.write("noise")

class Model:
    def __init__(self):
        raise SystemExit("made")

    def run(self, payload):
        raise SystemExit("called")
"""


@pytest.fixture
def probe(tmp_path: Path) -> Callable[..., Any]:
    (tmp_path / "wares.py").write_text(MODULE)

    def run(handler: str) -> tuple[Any, ...]:
        done = subprocess.run(
            [sys.executable, "-B", "-m", "asya.runtime.probe", handler, str(tmp_path)],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        return done.returncode, json.loads(done.stdout), done.stderr

    return run


def test_a_handler_is_found_and_its_class_not_made(probe: Callable[..., Any]) -> None:
    code, said, printed = probe("wares.Model.run")
    assert (code, said["error"]) == (0, None)
    assert said["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "imported" in printed, "what the module prints is no part of the answer"


@pytest.mark.parametrize(
    ("handler", "kind"),
    [("wares.Model.walk", "HandlerMissing"), ("wares", "BadName"), ("worse.f", "ModuleMissing")],
)
def test_what_is_no_handler_is_told_as_the_protocol_has_it(
    probe: Callable[..., Any], handler: str, kind: str
) -> None:
    code, said, _ = probe(handler)
    assert (code, said["error"]["type"]) == (3, f"asya.runtime.loading.{kind}")
    assert set(said["error"]) == {"type", "mro", "message", "args", "traceback"}
