import json
from pathlib import Path

import pytest

from asya.cli.app import run

ACTOR = """\
apiVersion: asya.sh/v1alpha1
kind: AsyncActor
metadata: {name: embedder}
spec: {handler: handler.embed}
"""
NOT_IMPORTED = " (handlers are not imported here; `asya doctor` does that)"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("ASYA_PORT", "ASYA_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "a.yaml").write_text(ACTOR)
    return tmp_path


def test_a_valid_folder_exits_with_0_and_prints_nothing_on_stdout(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["validate"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"1 actor, 0 flows: valid{NOT_IMPORTED}\n")


def test_problems_go_to_stderr_and_exit_with_2(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a.yaml").write_text(ACTOR.replace("handler:", "handlr:"))
    assert run(["validate", "a.yaml"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "a.yaml:4: spec.handler: is required: a text  [ASYA-1106]",
        "a.yaml:4: spec.handlr: unknown field 'handlr'; did you mean 'handler'?  [ASYA-1105]",
        "2 problems",
    ]


def test_warnings_and_notes_are_shown_and_do_not_count(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a.yaml").write_text(ACTOR.replace("handler.embed", "handler.embed, group: gpu"))
    (folder / "b.yaml").write_text("apiVersion: apps/v1\nkind: Deployment\n")
    assert run(["validate", "."]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("note: b.yaml:2: kind: unknown kind 'Deployment'")
    assert lines[1].startswith("warning: a.yaml:4: spec.group: ")
    assert lines[2] == f"1 actor, 0 flows, 1 warning: valid{NOT_IMPORTED}"


def test_a_broker_without_an_address_is_a_warning(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a.yaml").write_text(ACTOR.replace("embed}", "embed, transport: rabbitmq}"))
    monkeypatch.delenv("ASYA_RABBITMQ_URL", raising=False)
    assert run(["validate", "."]) == 0
    (warning, _) = capsys.readouterr().err.splitlines()
    assert warning.startswith(
        "warning: a.yaml:1: actor embedder: rabbitmq has no address; set rabb"
    )
    monkeypatch.setenv("ASYA_RABBITMQ_URL", "amqp://h")
    assert run(["validate", "."]) == 0
    assert "warning" not in capsys.readouterr().err


def test_json_is_one_object_on_stdout(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", "--json", "."]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == {
        "ok": True,
        "actors": ["embedder"],
        "flows": [],
        "schedules": [],
        "problems": [],
        "codes": [],
        "warnings": [],
        "notes": [],
    }


def test_json_tells_problems_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", "--json", "missing"]) == 2
    result = json.loads(capsys.readouterr().out)
    assert (result["ok"], result["problems"]) == (False, ["missing: no such file or folder"])


@pytest.mark.parametrize("arguments", [["."], ["asya.yaml"], [".", "asya.yaml"]])
def test_settings_are_checked_with_the_folder_and_alone(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    (folder / "asya.yaml").write_text("prot: 1\n")
    assert run(["validate", *arguments]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "asya.yaml:1: prot: unknown setting 'prot'; did you mean 'port'?  [ASYA-1202]",
        "1 problem",
    ]


def test_variables_are_checked_as_asya_up_would(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYA_PORT", "http")
    assert run(["validate", "."]) == 2
    assert 'ASYA_PORT: expected a whole number, got "http"' in capsys.readouterr().err


def test_a_settings_file_that_is_not_there_is_a_problem(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["validate", "asya.yaml"]) == 2
    assert "asya.yaml: no such file" in capsys.readouterr().err


def test_functions_are_checked_without_importing_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "handlers.py").write_text("raise SystemExit(9)\ndef embed(p): ...\n")
    assert run(["validate", "handlers.py:embed"]) == 0
    assert run(["validate", "handlers.py:embd"]) == 2
    assert "did you mean 'embed'?" in capsys.readouterr().err
