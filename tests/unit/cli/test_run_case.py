"""`asya run`: a handler by hand, with a mesh's environment and a terminal."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SOURCES = Path(__file__).parents[3] / "src"
HANDLERS = """
import os
def price(order):
    print("working")
    attempt = yield "GET", ".status.attempt"
    yield "FLY", {"attempt": attempt}
    rate = {"EUR": 1}[order["currency"]]
    yield order | {"total": rate, "key": os.environ["KEY"], "level": os.environ["LEVEL"]}
async def ship(order):
    raise ValueError("no ship")
"""
MANIFEST = """
apiVersion: asya.sh/v1alpha1
kind: AsyncActor
metadata: {name: %s}
spec:
  handler: shop.%s
  env: [{name: LEVEL, value: high}]
  secretRefs: [{secretName: bank, keys: [{key: key, envVar: KEY}]}]
---
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(HANDLERS)
    (tmp_path / "shop.yaml").write_text(MANIFEST % ("price", "price") + MANIFEST % ("ship", "ship"))
    (tmp_path / ".env").write_text("KEY=secret\n")
    case = {"id": "e1", "route": {"curr": "price"}, "status": {"attempt": 3}}
    (tmp_path / "case.json").write_text(json.dumps(case | {"payload": {"currency": "EUR"}}))
    (tmp_path / "bad.json").write_text(json.dumps(case | {"payload": {"currency": "GBP"}}))
    return tmp_path


def run(folder: Path, *arguments: Any, **more: Any) -> subprocess.CompletedProcess[str]:
    environ = {name: text for name, text in os.environ.items() if not name.startswith("ASYA_")}
    return subprocess.run(
        [sys.executable, "-m", "asya", "run", *arguments],
        cwd=folder,
        env=environ | {"PYTHONPATH": str(SOURCES), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output="stdin" not in more,
        text=True,
        check=False,
        timeout=60,
        **more,
    )


def test_frames_are_printed_and_the_rest_goes_to_stderr(folder: Path) -> None:
    done = run(folder, "price", "case.json")
    assert (done.returncode, done.stderr) == (0, 'working\nFLY {"attempt":3}\n')
    expected = {"currency": "EUR", "total": 1, "key": "secret", "level": "high"}
    assert json.loads(done.stdout) == expected


@pytest.mark.parametrize(
    ("actor", "file", "text"),
    [("price", "bad.json", "KeyError: 'GBP'"), ("ship", "case.json", "ValueError: no ship")],
)
def test_a_handler_that_raises(folder: Path, actor: str, file: str, text: str) -> None:
    done = run(folder, actor, file)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(f"{text}\n")
    assert "asya/runtime" not in done.stderr


@pytest.mark.parametrize(
    ("actor", "file", "code", "text"),
    [
        ("prize", "case.json", 2, "did you mean price?"),
        ("price", "none.json", 2, "`asya pull ID > none.json`"),
        ("price", "shop.py", 2, "error ASYA-1005: shop.py cannot be read as JSON"),
        ("price", "list.json", 2, "error ASYA-1005: list.json is not an envelope"),
        ("broken", "case.json", 3, "did you mean 'price'"),
    ],
)
def test_what_cannot_be_run(folder: Path, actor: str, file: str, code: int, text: str) -> None:
    (folder / "list.json").write_text("[]")
    (folder / "broken.yaml").write_text(MANIFEST % ("broken", "prise"))
    done = run(folder, actor, file)
    assert done.returncode == code
    assert text in done.stderr


def test_an_actor_without_a_manifest_is_named_as_for_asya_up(folder: Path) -> None:
    (folder / "plain.py").write_text("def half(order):\n    return order['currency'][:1]\n")
    done = run(folder, "plain.py:half", "case.json")
    assert (done.returncode, done.stdout, done.stderr) == (0, '"E"\n', "")
    done = run(folder, "plain.py:hlf", "case.json")
    assert done.returncode == 2
    assert "did you mean 'half'?" in done.stderr


def test_a_missing_secret_is_named(folder: Path) -> None:
    (folder / ".env").unlink()
    done = run(folder, "price", "case.json")
    assert done.returncode == 2
    assert "set KEY" in done.stderr


def with_keyboard(folder: Path, keys: bytes, *arguments: Any) -> tuple[Any, ...]:
    """Run with a terminal at which somebody types; gives exit code and all that was printed."""
    keyboard, terminal = pty.openpty()
    os.write(keyboard, keys)
    read, write = os.pipe()
    done = run(folder, *arguments, stdin=terminal, stdout=write, stderr=write)
    os.close(write)
    with os.fdopen(read) as said:
        text = said.read()
    os.close(keyboard)
    os.close(terminal)
    return done.returncode, text


def test_the_debugger_stands_where_the_handler_raised(folder: Path) -> None:
    keys = b'p "currency " + order["currency"]\nquit\n'
    code, text = with_keyboard(folder, keys, "price", "bad.json", "--debug")
    assert code == 1
    assert "'currency GBP'" in text


def test_a_breakpoint_stops_at_the_terminal(folder: Path) -> None:
    (folder / "shop.py").write_text("def price(order):\n    breakpoint()\n    return order\n")
    keys = b'order["currency"] = "CHF"\ncontinue\n'
    code, text = with_keyboard(folder, keys, "price", "case.json")
    assert code == 0
    assert '{"currency":"CHF"}' in text
