"""Checks of settings, manifests, secrets and handlers."""

import os
from pathlib import Path
from typing import Any

import pytest

from asya.codes import Code
from asya.local.doctor import project as checks
from asya.local.doctor.checks import run

ACTOR = """\
apiVersion: asya.sh/v1alpha1
kind: AsyncActor
metadata: {name: a}
spec:
  handler: handlers.f
"""
SECRET = "  secretRefs: [{secretName: openai, keys: [{key: key, envVar: OPENAI_KEY}]}]\n"


def test_settings_that_cannot_be_read_leave_the_defaults(
    project: Path, make: Any, seen: Any
) -> None:
    (project / "asya.yaml").write_text("prot: 1\nhost: 5\n")
    setup = make()
    found = seen(checks.check_settings, setup)
    assert [(each.state, each.code) for each in found] == [
        ("fail", Code.SETTING_UNKNOWN),
        ("fail", Code.SETTINGS),
    ]
    assert setup.settings.port == 8080


def test_good_settings_say_where_data_lies(project: Path, make: Any, seen: Any) -> None:
    (found,) = seen(checks.check_settings, make(namespace="lab"))
    assert (found.state, found.text) == ("ok", f"namespace lab, data in {project}/.asya")


def test_no_manifests_are_no_failure_unless_they_were_named(
    project: Path, make: Any, seen: Any
) -> None:
    assert seen(checks.check_manifests, make())[0].state == "skip"
    (found,) = seen(checks.check_manifests, make(str(project)))
    assert (found.state, found.code) == ("fail", Code.MANIFEST_MISSING)


def test_every_problem_of_the_manifests_is_a_line(project: Path, make: Any, seen: Any) -> None:
    (project / "a.yaml").write_text(ACTOR + "  concurrency: no\n  scalling: {}\n")
    found = seen(checks.check_manifests, make())
    assert [each.code for each in found] == [Code.FIELD_INVALID, Code.FIELD_UNKNOWN]


def test_warnings_of_the_manifests_are_warnings(project: Path, make: Any, seen: Any) -> None:
    (project / "a.yaml").write_text(ACTOR + "  group: g\n")
    found = seen(checks.check_manifests, make())
    assert [each.state for each in found] == ["warn", "ok"]
    assert found[1].text == "1 actor, 0 flows"


def test_a_missing_secret_says_what_to_set(project: Path, make: Any, seen: Any) -> None:
    (project / "a.yaml").write_text(ACTOR + SECRET)
    (found,) = seen(checks.check_secrets, make())
    assert (found.state, found.code) == ("fail", Code.VALUE_MISSING)
    assert "set OPENAI_KEY" in found.text
    assert seen(checks.check_secrets, make(environ={"OPENAI_KEY": "x"}))[0].text == (
        "all 1 are there"
    )


def test_the_interpreter_has_the_runtime(
    make: Any, seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert seen(checks.check_runtime, make(environ=dict(os.environ)))[0].state == "ok"
    monkeypatch.setattr("sys.executable", "/bin/false")
    (found,) = seen(checks.check_runtime, make())
    assert (found.state, found.code) == ("fail", Code.PYTHON_UNUSABLE)


@pytest.fixture
def handler_of(project: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is found of a handler."""

    def found(code: str, spec: str = "", handler: str = "handlers.f") -> Any:
        (project / "handlers.py").write_text(code)
        (project / "a.yaml").write_text(ACTOR.replace("handlers.f", handler) + spec)
        setup = make(environ=dict(os.environ))
        (one,) = run(checks.handler_checks(setup), setup)
        assert sorted(path.name for path in project.iterdir()) == ["a.yaml", "handlers.py"]
        return one

    return found


def test_a_handler_that_can_be_loaded_though_its_module_prints(handler_of: Any) -> None:
    found = handler_of("print('hello')\ndef f(payload): ...\n")
    assert found.state == "ok"
    assert found.text.startswith("a: handlers.f can be loaded (Python 3.")


def test_the_class_of_a_handler_is_not_made(handler_of: Any) -> None:
    code = "class Model:\n  def __init__(self): raise SystemExit\n  def f(self, payload): ...\n"
    assert handler_of(code, handler="handlers.Model.f").state == "ok"


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        ("import surely_missing\n", Code.HANDLER_IMPORT, "No module named 'surely_missing'"),
        ("def g(payload): ...\n", Code.HANDLER_MISSING, "has no 'f'"),
        ("def f(a, b): ...\n", Code.HANDLER_SIGNATURE, "needs 2 arguments"),
        ("import os; print('bye', flush=True); os._exit(9)\n", Code.HANDLER_LOAD, "code 9): bye"),
    ],
)
def test_what_keeps_a_handler_from_loading_has_its_code(
    handler_of: Any, code: Any, kind: Any, text: Any
) -> None:
    found = handler_of(code)
    assert (found.state, found.code) == ("fail", kind)
    assert text in found.text
    assert found.text.startswith("a: ")


def test_an_import_that_takes_long_is_ended(
    handler_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "HANDLER_S", 0.5)
    found = handler_of("import time; time.sleep(60)\ndef f(payload): ...\n")
    assert (found.state, found.code) == ("warn", Code.HANDLER_SLOW)


def test_without_its_secrets_a_handler_is_not_looked_at(handler_of: Any) -> None:
    assert handler_of("", SECRET).state == "skip"
