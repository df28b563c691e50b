"""The table of commands, the help, and how errors become texts and exit codes."""

import importlib
import subprocess
import sys

import pytest
import typer

from asya.cli import app
from asya.codes import Code
from asya.errors import (
    AsyaError,
    Complaint,
    ManifestError,
    MeshUnreachable,
    StoreError,
    UsageError,
    how_to_install,
)


@pytest.mark.parametrize("name", app.COMMANDS)
def test_every_command_loads_and_says_what_the_overview_says(name: str) -> None:
    command = app.COMMANDS[name]
    function = app.load(command)
    assert (function.__doc__ or "").startswith(command.summary.rstrip("."))


def test_without_a_command_the_overview_is_printed_as_wrong_use(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert app.run([]) == app.EXIT_USAGE
    assert "asya COMMAND --help" in capsys.readouterr().out


def test_the_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--help"]) == 0
    listed = [line[2:] for line in capsys.readouterr().out.splitlines() if line[:2] == "  "]
    assert len(listed) == len(app.COMMANDS)
    assert all(map(str.startswith, listed, app.COMMANDS))


@pytest.mark.parametrize(("arguments", "code"), [(["dead"], 2), (["dead", "--help"], 0)])
def test_the_first_word_of_commands_lists_them(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int
) -> None:
    assert app.run(arguments) == code
    assert "asya dead retry  Send dead letters again." in capsys.readouterr().out


def test_the_overview_imports_no_library() -> None:
    script = (
        "import sys\n"
        "from asya.cli.app import run\n"
        "run(['--help'])\n"
        "heavy = {'typer', 'rich', 'pydantic', 'msgspec', 'asyncio', 'http.client'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stderr.strip() == "[]"


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["vallidate"]) == app.EXIT_USAGE
    assert "did you mean validate?" in capsys.readouterr().err


def test_help_of_a_command_is_its_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["send", "--help"]) == 0
    assert "the envelope is stored" in capsys.readouterr().out


def test_a_wrong_option_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["send", "--urk"]) == app.EXIT_USAGE
    printed = capsys.readouterr().err
    assert printed.startswith("error ASYA-1001: No such option: --urk")
    assert "`asya send --help`" in printed


@pytest.mark.parametrize("code", [0, 1, 3])
def test_the_code_of_a_command_is_that_of_its_exit(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end() -> None:
        raise typer.Exit(code)

    monkeypatch.setattr(importlib.import_module("asya.cli.send"), "send", end)
    assert app.run(["send"]) == code


def test_a_library_that_is_missing_says_how_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def need() -> None:
        raise ModuleNotFoundError(name="uvicorn.config")

    monkeypatch.setattr(importlib.import_module("asya.cli.send"), "send", need)
    assert app.run(["send"]) == app.EXIT_USAGE
    printed = capsys.readouterr().err
    said = f"uvicorn is not installed; {how_to_install('gateway')} brings it"
    assert f"error ASYA-1308: {said}" in printed


def test_a_library_of_somebody_else_is_not_explained_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def need() -> None:
        importlib.import_module("no_such_library")

    monkeypatch.setattr(importlib.import_module("asya.cli.send"), "send", need)
    with pytest.raises(ModuleNotFoundError):
        app.run(["send"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("wrong"), app.EXIT_USAGE),
        (MeshUnreachable("gone"), app.EXIT_UNREACHABLE),
        (StoreError("full"), app.EXIT_FAILED),
    ],
)
def test_errors_are_one_text_and_a_code(
    error: AsyaError, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    module = importlib.import_module("asya.cli.send")
    monkeypatch.setattr(module, "send", fail)

    assert app.run(["send"]) == code

    printed = capsys.readouterr()
    page = f"docs/reference/errors/{error.code}.md"
    assert printed.err == f"error {error.code}: {error}\n  asya explain {error.code}  ({page})\n"
    assert printed.out == ""


def test_each_problem_has_its_code_and_the_codes_stand_once() -> None:
    lines = [
        Complaint("a.yaml: x", Code.FIELD_UNKNOWN),
        Complaint("a.yaml: y", Code.FIELD_MISSING),
        Complaint("b.yaml: z", Code.FIELD_UNKNOWN),
    ]
    assert app.rendered(ManifestError(lines)).splitlines() == [
        "error ASYA-1105: a.yaml: x",
        "error ASYA-1106: a.yaml: y",
        "error ASYA-1105: b.yaml: z",
        "  asya explain ASYA-1105 ASYA-1106  (docs/reference/errors/index.md)",
    ]


def test_output_that_nobody_reads_is_no_error() -> None:
    script = f"{sys.executable} -m asya --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "0"
    assert "Traceback" not in done.stderr
