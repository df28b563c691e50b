"""Fingerprints: what differs from case to case does not count, everything else does."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asya.envelope import ErrorInfo
from asya.tasks.fingerprint import fingerprint, normalised, top_functions

WORDS = st.lists(st.sampled_from(["cannot", "read", "page", "of", "don't"]), min_size=1, max_size=5)
VARYING = {
    "numbers": st.one_of(
        st.integers().map(str), st.floats(allow_nan=False, allow_infinity=False).map(repr)
    ),
    "uuids": st.uuids().map(str),
    "hashes": st.binary(min_size=8, max_size=20).map(bytes.hex).filter(lambda text: text[0] > "a"),
    "quoted": st.text("abc xyz/0.-", max_size=20).map(lambda text: f"'{text}'"),
    "paths": st.lists(st.text("abcxyz_.1", min_size=1, max_size=8), min_size=2, max_size=4).map(
        lambda parts: "/" + "/".join(parts)
    ),
    "addresses": st.integers(0, 2**64 - 1).map(lambda number: f"{number:#018x}"),
    "urls": st.text("abcxyz", min_size=1).map(lambda host: f"https://{host}.example/a?b={host}"),
}


@pytest.mark.parametrize("kind", VARYING)
@settings(max_examples=40)
@given(words=WORDS, data=st.data())
def test_what_varies_does_not_count(kind: str, words: list[str], data: Any) -> None:
    one, other = (data.draw(VARYING[kind], label=kind) for _ in range(2))
    before = " ".join(words)
    assert normalised(f"{before} {one} here") == normalised(f"{before} {other} here")
    assert normalised(f"{before} {one} here") != normalised(f"{before} here")


@given(st.text())
def test_any_text_is_taken_and_normalised_once(message: str) -> None:
    once = normalised(message)
    assert fingerprint("Failed", ErrorInfo("E", message, traceback=message))
    assert len(once) <= 500
    assert "\n" not in once


@given(WORDS)
def test_what_is_normal_stays(words: list[str]) -> None:
    once = normalised(f"{' '.join(words)} 17 '/a/b' 0f8fad5b-d9cb-469f-a165-70867728950e")
    assert normalised(once) == once


@given(st.lists(WORDS.map(" ".join), min_size=2, max_size=2, unique=True))
def test_other_words_are_another_error(messages: list[str]) -> None:
    one, other = (fingerprint("Failed", ErrorInfo("E", message)) for message in messages)
    assert one != other


def error_of(call: Callable[..., Any]) -> ErrorInfo:
    try:
        call()
    except Exception as error:
        return ErrorInfo(type(error).__name__, str(error), traceback=traceback.format_exc())
    raise AssertionError("nothing was raised")


def fall(depth: int) -> None:
    if depth:
        fall(depth - 1)
    raise ValueError(f"row {depth}")


def chained() -> None:
    try:
        fall(0)
    except ValueError as error:
        raise ValueError("row 7") from error


def test_depth_and_lines_do_not_count() -> None:
    def from_here() -> None:
        fall(1)

    deep, deeper = error_of(from_here), error_of(lambda: fall(5))
    moved = ErrorInfo(
        deep.type, deep.message, traceback=deep.traceback.replace(", line ", ", line 9")
    )
    assert fingerprint("Failed", deep) == fingerprint("Failed", moved)
    assert top_functions(deeper.traceback)[-1] == "fall"


def test_of_a_chain_the_last_error_counts() -> None:
    assert top_functions(error_of(chained).traceback)[-1] == "chained"
    assert fingerprint("Failed", error_of(chained)) != fingerprint("Failed", error_of(fall_once))


def fall_once() -> None:
    fall(0)


def test_the_frames_of_libraries_are_passed_over() -> None:
    text = (
        "Traceback (most recent call last):\n"
        '  File "/shop/handlers.py", line 3, in charge\n    get()\n'
        '  File "/v/lib/python3.11/site-packages/httpx/_api.py", line 9, in get\n    x\n'
    )
    assert top_functions(text) == ["charge"]
    assert top_functions(text.replace("/shop/", "/v/lib/python3.11/")) == ["charge", "get"]


def test_type_and_reason_count() -> None:
    assert fingerprint("ParseError", None) != fingerprint("HopLimit", None)
    assert fingerprint("Failed", ErrorInfo("A")) != fingerprint("Failed", ErrorInfo("B"))
    assert fingerprint("Failed", ErrorInfo("A")) == fingerprint("PolicyExhausted", ErrorInfo("A"))
