"""Parameters: one declaration gives the reading, the refusals and the document."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest

from asya.gateway.http.query import (
    Parameter,
    choice,
    cursor,
    duration,
    flag,
    names,
    parameters,
    read,
    refuse_unknown,
    text,
    whole,
)
from asya.tasks.refusals import Kind, Refusal


class Asked(msgspec.Struct, frozen=True):
    side: Annotated[str, choice("Which side", ("in", "out"))] = "in"
    limit: Annotated[int, whole("How many", 1, 500)] = 50
    key: Annotated[str | None, text("A key", name="X-Key")] = None


def test_what_is_not_given_has_its_default() -> None:
    assert read(Asked, {}) == Asked("in", 50, None)
    assert read(Asked, {"limit": "7", "X-Key": "k", "side": "out"}) == Asked("out", 7, "k")


def test_a_value_that_cannot_be_read_names_its_place() -> None:
    with pytest.raises(Refusal) as caught:
        read(Asked, {"limit": "0"})
    assert caught.value.kind is Kind.INVALID
    assert [fault.path for fault in caught.value.faults] == ["?limit"]
    with pytest.raises(Refusal) as caught:
        read(Asked, {"side": "up"}, where="")
    assert [fault.path for fault in caught.value.faults] == ["side"]


@pytest.mark.parametrize(
    ("parameter", "given", "value"),
    [
        (text(""), " as it is ", " as it is "),
        (choice("", ("a", "b")), "b", "b"),
        (choice("", ("a", "b"), strip=True), " b  ", "b"),
        (whole("", 0), "0", 0),
        (whole("", 0), str(2**62), 2**62),
        (whole("", 1, 500), "500", 500),
        (cursor(""), "17", 17),
        (flag(""), "true", True),
        (flag(""), "false", False),
        (duration(""), "1m30s", 90.0),
        (duration(""), "1.5", 1.5),
    ],
)
def test_values(parameter: Parameter, given: str, value: Any) -> None:
    found = parameter.read(given)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("parameter", "given"),
    [
        (choice("", ("a", "b")), "c"),
        (choice("", ("a", "b")), " a"),
        (whole("", 1, 500), "501"),
        (whole("", 1, 500), "0"),
        (whole("", 0), "-1"),
        (whole("", 0), ""),
        (whole("", 0), "1e3"),
        (whole("", 0), "\u0663"),
        (whole("", 0), "9" * 30),
        (cursor(""), "0"),
        (cursor(""), "x"),
        (cursor(""), "9" * 30),
        (flag(""), "yes"),
        (flag(""), ""),
        (duration(""), "soon"),
        (duration(""), "-1"),
        (duration(""), "400d"),
    ],
)
def test_what_cannot_be_read_is_said_to_be(parameter: Parameter, given: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parameter.read(given)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    known = names(Asked)
    assert known == {"side", "limit", "X-Key"}
    refuse_unknown({"limit": "1"}, known)
    with pytest.raises(Refusal) as caught:
        refuse_unknown({"limt": "1", "zzz": "2"}, known)
    assert (caught.value.kind, caught.value.nearest) == (Kind.INVALID, "limit")
    assert [fault.path for fault in caught.value.faults] == ["?limt", "?zzz"]
    with pytest.raises(Refusal):
        refuse_unknown({"x": "1"}, names(None))


def test_the_document_shows_what_is_declared() -> None:
    side, limit, key = parameters(Asked, "query")
    assert side["schema"] == {"type": "string", "enum": ["in", "out"], "default": "in"}
    assert limit["schema"] == {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}
    assert key == {
        "name": "X-Key",
        "in": "query",
        "description": "A key",
        "required": False,
        "schema": {"type": "string"},
    }
    assert parameters(None, "query") == []
