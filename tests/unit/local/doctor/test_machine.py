"""Checks of the machine."""

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from asya.cli import doctor
from asya.codes import Code
from asya.error_pages import pages
from asya.errors import how_to_install
from asya.local.doctor import Finding, machine

ROOT = Path(__file__).resolve().parents[4]


def line(found: Finding, check: str) -> str:
    return doctor.line(dataclasses.replace(found, check=check))


@pytest.mark.parametrize(
    "look",
    [
        machine.check_python,
        machine.check_extras,
        machine.check_files,
        machine.check_clock,
    ],
)
def test_where_the_tests_run_all_is_well(look: Any, make: Any, seen: Any) -> None:
    assert [each.state for each in seen(look, make())] == ["ok"]


def test_an_old_python_is_refused(make: Any, seen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PYTHON_MIN", (9, 0))
    (found,) = seen(machine.check_python, make())
    assert (found.state, found.code) == ("fail", Code.PYTHON_UNUSABLE)
    assert found.text.endswith("is too old; the mesh needs 9.0")


def test_a_missing_extra_says_how_to_get_it(
    make: Any, seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "EXTRAS", {"local": ("psutil", "no_such_library")})
    (found,) = seen(machine.check_extras, make())
    assert (found.state, found.code) == ("fail", Code.EXTRA_MISSING)
    assert found.text == f"no_such_library missing; {how_to_install('local')}"


def test_the_page_shows_what_is_said_of_a_missing_extra(
    make: Any, seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "nats" else object()
    )
    (found,) = seen(machine.check_extras, make())
    shown = line(found, "extras").replace(str(ROOT), "/opt/asya")
    assert shown == pages()[Code.EXTRA_MISSING].example


def test_what_only_makes_it_quicker_is_a_warning(
    make: Any, seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "QUICKER", ("no_such_library",))
    assert [each.state for each in seen(machine.check_extras, make())] == ["warn"]


def test_the_extras_are_those_of_the_project() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for extra, modules in machine.EXTRAS.items():
        listed = " ".join(extras[extra])
        for module in modules:
            assert {"nats": "nats-py"}.get(module, module) in listed


def test_the_limit_on_open_files_counts_replicas(
    project: Path, make: Any, seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "handlers.py").write_text("def f(payload): return payload\n")
    monkeypatch.setattr("resource.getrlimit", lambda what: (256, 280))
    assert seen(machine.check_files, make())[0].state == "ok"
    (found,) = seen(machine.check_files, make("handlers.py:f"))
    assert (found.state, found.code) == ("fail", Code.FILES_LIMIT)
    assert line(found, "files") == pages()[Code.FILES_LIMIT].example


def test_a_year_that_cannot_be(make: Any, seen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "YEARS", range(2100, 2200))
    (found,) = seen(machine.check_clock, make())
    assert (found.state, found.code) == ("fail", Code.CLOCK_WRONG)


def test_wall_time_that_jumps(make: Any, seen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = iter([1000.0])
    monkeypatch.setattr("time.time", lambda: next(first, 1003.0))
    (found,) = seen(machine.check_clock, make())
    assert (found.state, found.code) == ("fail", Code.CLOCK_WRONG)
    jumped = re.search(r"jumped by \+([0-9.]+) s", found.text)
    assert jumped is not None
    # less the time that it was watched, which is as long as the machine is busy
    assert machine.CLOCK_OFF_MAX_S < float(jumped[1]) < 3.0
