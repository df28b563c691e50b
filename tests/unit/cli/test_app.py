"""The table of commands, the help, and how errors become texts and exit codes."""

import importlib
import subprocess
import sys

import pytest

from asya.cli import app
from asya.errors import AsyaError, MeshUnreachable, StoreError, UsageError


@pytest.mark.parametrize("name", app.COMMANDS)
def test_every_command_loads_and_says_what_the_overview_says(name):
    command = app.COMMANDS[name]
    function = app.load(command)
    assert (function.__doc__ or "").startswith(command.summary.rstrip("."))


def test_without_a_command_the_overview_is_printed_as_wrong_use(capsys):
    assert app.run([]) == app.EXIT_USAGE
    assert "asya COMMAND --help" in capsys.readouterr().out


def test_the_overview_lists_every_command(capsys):
    assert app.run(["--help"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:2] == "  "]
    assert listed == list(app.COMMANDS)


def test_the_overview_imports_no_library():
    script = (
        "import sys\n"
        "from asya.cli.app import run\n"
        "run(['--help'])\n"
        "heavy = {'typer', 'rich', 'pydantic', 'msgspec', 'asyncio', 'http.client'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=30
    )
    assert done.stderr.strip() == "[]"


def test_an_unknown_command_names_the_nearest(capsys):
    assert app.run(["vallidate"]) == app.EXIT_USAGE
    assert "did you mean validate?" in capsys.readouterr().err


def test_help_of_a_command_is_its_docstring(capsys):
    assert app.run(["send", "--help"]) == 0
    assert "the envelope is stored" in capsys.readouterr().out


def test_a_wrong_option_is_wrong_use(capsys):
    assert app.run(["send", "--urk"]) == app.EXIT_USAGE
    assert "--urk" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("wrong"), app.EXIT_USAGE),
        (MeshUnreachable("gone"), app.EXIT_UNREACHABLE),
        (StoreError("full"), app.EXIT_FAILED),
    ],
)
def test_errors_are_one_text_and_a_code(error: AsyaError, code, capsys, monkeypatch):
    def fail() -> None:
        raise error

    module = importlib.import_module("asya.cli.send")
    monkeypatch.setattr(module, "send", fail)

    assert app.run(["send"]) == code

    printed = capsys.readouterr()
    assert printed.err == f"asya: {error}\n"
    assert printed.out == ""


def test_output_that_nobody_reads_is_no_error():
    script = f"{sys.executable} -m asya --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], check=True, capture_output=True, text=True, timeout=30
    )
    assert done.stdout.strip() == "0"
    assert "Traceback" not in done.stderr
