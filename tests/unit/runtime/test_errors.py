"""Exceptions on the wire: names, texts, tracebacks of the user's frames, bounds."""

import json
from typing import Any

import pytest

from asya.runtime.driver import Call, drive
from asya.runtime.errors import MESSAGE_MAX, TRACEBACK_MAX, describe
from asya.runtime.loading import Handler


class Base(Exception):
    pass


class Shop(Base, LookupError):
    pass


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught
    raise AssertionError


def test_names_and_arguments() -> None:
    found = describe(raised(Shop("text", 1, None, 2.5, float("nan"), [1], 1 << 80)))

    assert found["type"] == f"{__name__}.Shop"
    assert found["mro"] == [
        f"{__name__}.Shop",
        f"{__name__}.Base",
        "LookupError",
        "Exception",
        "BaseException",
    ]
    assert found["args"] == ["text", 1, None, 2.5, "nan", "[1]", str(1 << 80)]
    json.dumps(found, allow_nan=False)


def test_causes_contexts_and_groups_are_shown() -> None:
    def fail() -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ExceptionGroup("group", [raised(ValueError("inner"))]) from error

    with pytest.raises(ExceptionGroup) as caught:
        fail()
    text = describe(caught.value)["traceback"]

    assert "KeyError: 'first'" in text
    assert "direct cause" in text
    assert "ValueError: inner" in text


def test_errors_that_cannot_be_shown() -> None:
    found = describe(raised(Unprintable([Unprintable()])))

    assert "raised ValueError" in found["message"]
    assert found["args"] == ["(list)"]
    assert "Unprintable" in found["traceback"]


def test_texts_are_bounded() -> None:
    def deep(n: int) -> None:
        if n:
            other(n)
        raise ValueError("x" * 1_000_000)

    def other(n: int) -> None:
        deep(n - 1)

    with pytest.raises(ValueError, match="xxx") as caught:
        deep(300)
    found = describe(caught.value)

    assert len(found["message"]) <= MESSAGE_MAX
    assert len(found["traceback"]) <= TRACEBACK_MAX
    assert "characters left out" in found["traceback"]
    assert len(json.dumps(found)) < 64_000


def test_a_recursion_error_is_described() -> None:
    def forever(n: int) -> int:
        return forever(n + 1)

    with pytest.raises(RecursionError) as caught:
        forever(0)

    assert describe(caught.value)["type"] == "RecursionError"


@pytest.mark.parametrize(
    "source",
    [
        "def handle(p):\n    raise ValueError('mine')",
        "def handle(p):\n    yield 'SET', '.id', 1",
        "def handle(p):\n    yield object()",
    ],
)
def test_tracebacks_hold_the_users_frames_only(source: str) -> None:
    space: dict[str, Any] = {}
    exec(compile(source, "user.py", "exec"), space)
    seen = []

    class Port:
        def error(self, call_id: int, error: dict[str, Any]) -> None:
            seen.append(error["traceback"])

        def check_process(self, error: Any) -> None: ...

    port: Any = Port()
    drive(Handler("m.f", space["handle"], None), Call(1, {"headers": {}}, b"1", port), print)

    assert 'File "user.py", line 2, in handle' in seen[0]
    assert seen[0].count("File ") == 1
