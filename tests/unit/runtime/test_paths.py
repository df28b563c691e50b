"""The grammar of paths."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asya.runtime.paths import PATH_MAX, parse_path


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        (".id", ("id",)),
        (".headers.trace_id", ("headers", "trace_id")),
        (".headers.x-trace", ("headers", "x-trace")),
        ('.headers["a.b"]', ("headers", "a.b")),
        ('.headers."a b"', ("headers", "a b")),
        ('.["headers"]', ("headers",)),
        ('.headers["\\"\\u00e4\\n"]', ("headers", '"ä\n')),
        (".route.next[-1]", ("route", "next", -1)),
        (".route.next[:0]", ("route", "next", slice(None, 0))),
        (".route.next[99:]", ("route", "next", slice(99, None))),
        (".route.next[1:-1][0]", ("route", "next", slice(1, -1), 0)),
        (".route.next[:]", ("route", "next", slice(None, None))),
        (".headersfoo", ("headersfoo",)),
    ],
)
def test_paths_of_the_grammar(path: str, steps: tuple[Any, ...]) -> None:
    assert parse_path(path) == steps


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "headers",
        "..headers",
        ".headers.",
        ".headers[",
        ".headers[]",
        '.headers["a]',
        '.headers["\\q"]',
        ".headers['a']",
        ".headers[1.5]",
        ".headers[ 1 ]",
        ".route.next[::2]",
        ".1",
        ".headers a",
        ".headers.a\n",
        "." + "a" * PATH_MAX,
    ],
)
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        parse_path(path)


def test_a_path_is_a_text() -> None:
    with pytest.raises(TypeError, match="int"):
        parse_path(5)  # type: ignore[arg-type]


@given(st.lists(st.text(max_size=10), min_size=1, max_size=5))
def test_any_key_can_be_quoted(keys: list[str]) -> None:
    path = "." + "".join(f"[{json.dumps(key)}]" for key in keys)

    assert parse_path(path) == tuple(keys)


@given(st.text('.[]":-\\ahe19', max_size=30))
def test_any_text_is_a_path_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_path(text)
