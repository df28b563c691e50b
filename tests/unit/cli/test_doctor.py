"""`asya doctor`: lines, JSON and exit codes."""

import json
from pathlib import Path

import pytest

from asya.cli.app import run
from asya.cli.doctor import line
from asya.codes import Code
from asya.local.doctor import Finding


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "handlers.py").write_text("def double(payload): return 2 * payload\n")
    return tmp_path


def test_a_good_set_up_passes_and_nothing_is_left_behind(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["doctor", "handlers.py:double", "--port", "0", "--no-handlers"]) == 0
    printed = capsys.readouterr()
    states = {row.split()[0] for row in printed.out.splitlines()}
    assert states <= {"ok", "warn", "skip"}
    assert " ok" in printed.err
    assert [path.name for path in project.iterdir()] == ["handlers.py"]


def test_what_fails_is_a_line_with_its_code_and_exit_code_1(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--port", "0", "--no-handlers", "--nats-server", "no-such-server"]
    assert run(["doctor", "handlers.py:double", *arguments]) == 1
    printed = capsys.readouterr()
    (failed,) = [row for row in printed.out.splitlines() if row.startswith("fail")]
    assert failed.startswith("fail  nats-server   no-such-server ")
    assert failed.endswith("[ASYA-4005]")
    assert "1 failed" in printed.err
    assert "asya explain ASYA-4005" in printed.err


def test_json_is_one_object(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--port", "0", "--no-handlers", "--transport", "nats://127.0.0.1:1", "--json"]
    assert run(["doctor", "handlers.py:double", *arguments]) == 1
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["ok"] is False
    broken = [each for each in result["findings"] if each["state"] == "fail"]
    assert [(each["check"], each["code"]) for each in broken] == [("broker", "ASYA-4002")]
    assert printed.err == ""


def test_handlers_are_looked_at_unless_told_not_to(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "handlers.py").write_text("import surely_missing\ndef double(payload): ...\n")
    arguments = ["doctor", "handlers.py:double", "--port", "0"]
    assert run([*arguments, "--no-handlers"]) == 0
    assert run(arguments) == 1
    assert "surely_missing" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["gone.yaml"], ["--urk"]])
def test_wrong_use(project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert run(["doctor", *arguments]) == 2
    assert capsys.readouterr().out == ""


def test_a_line_stays_one_line() -> None:
    found = Finding("it", "fail", "one\n  two", Code.USAGE)
    assert line(found) == "fail  it            one two  [ASYA-1001]"
    assert line(found, colour=True).startswith("\x1b[1;31mfail\x1b[0m  it")
