"""Payloads are checked to be JSON and sent as they were written."""

import pytest

from asya.cli.payload import check_json, read_payload
from asya.errors import UsageError


@pytest.mark.parametrize(
    "text", ['{"a": 1.0}', "[1,  2]", '"ö"', "null", "1e999999999", "12345678901234567890123"]
)
def test_json_goes_as_it_is(text: str) -> None:
    assert read_payload(text) == text.encode()


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", "NaN", '{"a": Infinity}', "[" * 100_000])
def test_what_is_not_json_says_where(text: str) -> None:
    with pytest.raises(UsageError, match=r"^line 3 is not JSON: "):
        check_json(text.encode(), "line 3")


def test_bytes_that_are_not_text_are_refused() -> None:
    with pytest.raises(UsageError, match="is not JSON"):
        check_json(b'"\xff"', "stdin")
