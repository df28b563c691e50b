"""The table of the transports' contract: collected over processes, written only when it is whole."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.contract_table import (
    FAILED,
    PASSED,
    SKIPPED,
    kit_tests,
    markdown,
    missing,
    to_json,
    transport_classes,
)

NAMES = [name for tests in kit_tests().values() for name, _ in tests]

CONFTEST = """
from pathlib import Path
import tests.support.contract_table as table
from asya.testing.virtual_time import VirtualLoop
from asya.transports.memory.transport import MemoryTransport

HERE = Path(__file__).parent
if {alone}:
    table.transport_classes = lambda: {{"memory": MemoryTransport}}

def pytest_configure(config):
    made = table.ContractTable(
        config, HERE / "kit", results=HERE / "made.json", page=HERE / "made.md", strict=True
    )
    config.pluginmanager.register(made)

def pytest_asyncio_loop_factories(config, item):
    return {{"virtual": VirtualLoop}}
"""
MEMORY = Path(__file__).resolve().parents[1] / "contract" / "test_memory.py"
ROOT = MEMORY.parents[2]


def results(**classes: Any) -> dict[str, Any]:
    """Everything passed, in every class."""
    return {
        cls: {"transport": name, "broker": f"{name} 1.2", "tests": dict.fromkeys(NAMES, PASSED)}
        for cls, name in classes.items()
    }


def whole() -> dict[str, Any]:
    return results(**{f"Test{name.title()}": name for name in transport_classes()})


def test_the_kit_tells_what_its_tests_mean() -> None:
    assert len(NAMES) == len(set(NAMES)) > 25
    assert all(meaning for tests in kit_tests().values() for _, meaning in tests)


def test_a_whole_table_lacks_nothing() -> None:
    assert missing(whole()) == []


def test_what_is_missing_is_told() -> None:
    seen = whole()
    del seen["TestNats"]
    seen["TestMemory"]["tests"][NAMES[0]] = FAILED
    del seen["TestMemory"]["tests"][NAMES[1]]
    seen["TestMemory"]["broker"] = ""
    assert missing(seen) == [
        "nats was not tested",
        f"TestMemory: {NAMES[1]} did not run",
        f"TestMemory: {NAMES[0]} failed",
        "TestMemory: its harness does not say which broker it is",
    ]


def test_the_order_of_a_run_leaves_no_trace() -> None:
    seen = whole()
    turned = {
        cls: {**one, "tests": dict(reversed(one["tests"].items()))}
        for cls, one in reversed(seen.items())
    }
    assert to_json(seen) == to_json(turned)
    assert markdown(seen) == markdown(json.loads(to_json(turned)))


def test_the_page_says_what_passed_and_why_not() -> None:
    seen = whole()
    for name in NAMES[:2]:
        seen["TestNats"]["tests"][name] = SKIPPED + "this broker forgets"
    page = markdown(seen)
    assert f"| `memory` | memory 1.2 | {len(NAMES)} | 0 |" in page
    assert f"| `nats` (NATS) | nats 1.2 | {len(NAMES) - 2} | 2 |" in page
    assert "1. This broker forgets.\n" in page
    assert "2. " not in page
    assert "levels of the header `priority`" in page


def test_two_classes_of_one_transport_have_a_name_each() -> None:
    page = markdown(whole() | results(TestNatsOther="nats"))
    assert "`nats` (Nats)" in page
    assert "`nats` (NatsOther)" in page


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    """A run of the memory transport's contract, in processes of its own."""
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "test_memory.py").write_text(MEMORY.read_text("utf-8"))
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")

    def go(*arguments: Any, alone: bool) -> subprocess.CompletedProcess[str]:
        (tmp_path / "conftest.py").write_text(CONFTEST.format(alone=alone))
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
            cwd=tmp_path, check=False, capture_output=True, text=True, timeout=100,
            env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
            | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    return go


def test_a_whole_run_writes_the_page(run: Callable[..., Any], tmp_path: Path) -> None:
    done = run("-n", "2", "--dist", "worksteal", alone=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "made.md: commit it" in done.stdout
    seen = json.loads((tmp_path / "made.json").read_text("utf-8"))
    assert list(seen["TestMemory"]["tests"]) == NAMES
    assert seen["TestMemory"]["transport"] == "memory"
    outcomes = set(seen["TestMemory"]["tests"].values())
    assert outcomes == {PASSED, SKIPPED + "this broker forgets"}
    assert "| `memory` | none: it is in the process" in (tmp_path / "made.md").read_text("utf-8")


def test_a_run_without_a_transport_fails(run: Callable[..., Any], tmp_path: Path) -> None:
    done = run(alone=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "transport contract: nats was not tested" in done.stdout
    assert not (tmp_path / "made.md").exists()


@pytest.mark.parametrize("some", [["-k", "delete"], ["kit/test_memory.py"]])
def test_a_run_of_some_tests_writes_nothing(
    run: Callable[..., Any], tmp_path: Path, some: list[str]
) -> None:
    done = run(*some, alone=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (tmp_path / "made.md").exists()
