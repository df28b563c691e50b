"""The rows that `make bench` is asked for are measured, or refused."""

import importlib.util
import shutil
import subprocess
import sys
import types
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def runner(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_run", root / "benchmarks" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_are_named_as_in_the_table_of_results(runner: types.ModuleType, root: Path) -> None:
    assert runner.wanted_of("P3 P9") == ["p3", "p9"]
    assert runner.wanted_of("p3,transport") == ["p3", "transport"]
    assert runner.rows_of(Path("p3_p4_durable_hop.py")) == ["p3", "p4"]
    assert runner.rows_of(Path("p13_big_payload.py")) == ["p13"]
    assert runner.rows_of(Path("transport_hops.py")) == ["transport"]


def test_a_row_that_nothing_measures_is_refused_with_those_that_there_are(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, root / "benchmarks" / "run.py", "--rows", "P9 P99"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "no script measures p99; there are p3, p4" in done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_hands_the_rows_on(root: Path) -> None:
    done = subprocess.run(
        ["make", "--dry-run", "bench", "ROWS=P3 P9"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert '--rows "P3 P9"' in done.stdout
