"""`asya explain`: codes as they are typed, all of them, and none."""

import json

import pytest

from asya.cli.app import run
from asya.codes import Code
from asya.error_pages import pages


@pytest.mark.parametrize("typed", ["ASYA-1105", "asya-1105", "1105"])
def test_a_code_gives_its_page(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", typed]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("ASYA-1105: ")
    assert pages()[Code.FIELD_UNKNOWN].example.splitlines()[-1] in printed
    assert "\x1b" not in printed


def test_several_come_one_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "1105", "1106"]) == 0
    printed = capsys.readouterr().out
    assert printed.index("ASYA-1105: ") < printed.index("ASYA-1106: ")


def test_without_a_code_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ASYA-")] == list(map(str, Code))


def test_json_is_a_list_of_pages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "1105", "--json"]) == 0
    (page,) = json.loads(capsys.readouterr().out)
    assert page["code"] == "ASYA-1105"
    assert set(page) == {"code", "title", "cause", "example", "remedy"}


@pytest.mark.parametrize("typed", ["ASYA-1", "9999999", "", "nonsense"])
def test_what_is_no_code_is_wrong_use(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", typed]) == 2
    assert "error ASYA-1006: there is no code" in capsys.readouterr().err
