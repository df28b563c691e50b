import json

import pytest
from jsonschema import Draft202012Validator

from asya.cli.app import run


@pytest.mark.parametrize("kind", ["AsyncActor", "Flow", "Envelope", "Settings", "flow"])
def test_the_schema_of_a_kind_goes_to_stdout(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    assert run(["schema", kind]) == 0
    out, err = capsys.readouterr()
    schema = json.loads(out)
    Draft202012Validator.check_schema(schema)
    assert (schema["title"].lower(), err) == (kind.lower(), "")


def test_without_kind_all_come_as_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema"]) == 0
    schemas = json.loads(capsys.readouterr().out)
    assert set(schemas) == {"AsyncActor", "Flow", "Schedule", "Envelope", "Settings"}
    assert all(schemas[kind]["title"] == kind for kind in schemas)


def test_an_unknown_kind_exits_with_2_and_the_nearest_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["schema", "AsyncActr"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "error ASYA-1004: unknown kind 'AsyncActr'; did you mean 'AsyncActor'?\n" in err
