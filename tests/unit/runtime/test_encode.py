"""Results as JSON: every type, every refusal with its place."""

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import types
import typing
import uuid
from datetime import date
from typing import Any

import numpy as np
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asya.runtime.encode import DEPTH_MAX, encode

texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
)


class Point(typing.NamedTuple):
    x: int
    y: int


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Word(str):
    __slots__ = ()


@dataclasses.dataclass
class Item:
    name: str
    when: dt.date
    kind: typing.ClassVar[str] = "k"
    more: list[typing.Any] = dataclasses.field(default_factory=list)


class Model(pydantic.BaseModel):
    raw: bytes
    link: pydantic.AnyUrl
    when: dt.datetime


@given(values)
def test_json_values_come_back_as_they_were(value: dict[str, Any] | list[Any] | str | None) -> None:
    assert json.loads(encode(value)) == value


@given(values)
def test_both_ways_of_encoding_agree(value: dict[str, Any] | list[Any] | str | None) -> None:
    wrapped = collections.OrderedDict(value=value)

    assert encode(wrapped) == encode({"value": value})


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ((1, 2), [1, 2]),
        (Point(1, 2), {"x": 1, "y": 2}),
        ([Point(1, 2)], [{"x": 1, "y": 2}]),
        (Color.RED, "red"),
        (Level.HIGH, 3),
        (Word("w"), "w"),
        ({Word("k"): 1}, {"k": 1}),
        (Item("a", dt.date(2024, 1, 2)), {"name": "a", "when": "2024-01-02", "more": []}),
        (dt.datetime(2024, 1, 2, tzinfo=dt.UTC), "2024-01-02T00:00:00+00:00"),
        (dt.time(1, 2), "01:02:00"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (decimal.Decimal("1.10"), "1.10"),
        (b"\xff", "/w=="),
        (bytearray(b"a"), "YQ=="),
        (memoryview(b"a"), "YQ=="),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({"b", 1, "a"}), ["a", "b", 1]),
        (np.float32(0.5), 0.5),
        (np.float64(0.25), 0.25),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("s"), "s"),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (np.array(5), 5),
        (np.array(["2024-01-02"], dtype="datetime64[D]"), ["2024-01-02"]),
        (collections.defaultdict(int, a=1), {"a": 1}),
        (collections.deque, None),
    ],
)
def test_types_that_become_json(value: Any, plain: Any) -> None:
    if plain is None:
        with pytest.raises(TypeError, match=r"^\$: a value of type"):
            encode(value)
        return
    assert json.loads(encode(value)) == plain
    assert json.loads(encode({"in": [value]})) == {"in": [plain]}


def test_a_pydantic_model() -> None:
    model = Model(raw=b"\xff", link="https://a.b/c", when="2024-01-02T00:00:00Z")  # type: ignore[arg-type]

    assert json.loads(encode([model])) == [
        {"raw": "/w==", "link": "https://a.b/c", "when": "2024-01-02T00:00:00+00:00"}
    ]


def _cycle() -> typing.Any:
    value: list[typing.Any] = []
    value.append({"again": value})
    return value


def _deep(levels: int) -> typing.Any:
    value: typing.Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ({"items": [0, {"x": object()}]}, TypeError, "$.items[1].x: a value of type object"),
        ({"a b": [1j]}, TypeError, '$["a b"][0]: a value of type complex'),
        ([Item("a", object())], TypeError, "$[0].when: a value of type object"),  # type: ignore[arg-type]
        ({"a": {1: 2}}, TypeError, "$.a: the key 1 is of type int"),
        ({None: 2}, TypeError, "$: the key None"),
        ({"a": [float("nan")]}, ValueError, "$.a[0]: nan is no JSON number"),
        (float("-inf"), ValueError, "$: -inf"),
        (np.array([1.0, np.inf]), ValueError, "$[1]: inf"),
        (np.float32("nan"), ValueError, "$: nan"),
        ({"d": decimal.Decimal("NaN")}, ValueError, "$.d: NaN"),
        (np.array([1j]), TypeError, "$[0]: a value of type complex"),
        (_cycle(), ValueError, "$[0].again: holds itself"),
        (_deep(DEPTH_MAX + 2), ValueError, f"deeper than {DEPTH_MAX} levels"),
        (_deep(100_000), ValueError, f"deeper than {DEPTH_MAX} levels"),
        ({"t": "a\ud800"}, ValueError, "$.t: a text with a lone surrogate at character 1"),
        ({"\ud800": 1}, ValueError, "lone surrogate"),
        (types.SimpleNamespace(a=1), TypeError, "types.SimpleNamespace"),
        ({"f": print}, TypeError, "$.f: a value of type builtin_function_or_method"),
        ((x for x in [1]), TypeError, "generator"),
        (dt.timedelta(1), TypeError, "datetime.timedelta"),
    ],
)
def test_refusals_name_the_type_and_the_place(value: Any, error: type[Any], text: str) -> None:
    with pytest.raises(error) as raised:
        encode(value)
    assert text in str(raised.value)


@pytest.mark.parametrize("leaf", [1, dt.date(2024, 1, 2), Item("a", dt.date.min)])
def test_values_of_the_greatest_depth_pass(leaf: date | int | Item) -> None:
    value: Any = leaf
    for _ in range(DEPTH_MAX - 2):
        value = [value]

    assert encode(value)


def test_the_same_value_twice_is_no_cycle() -> None:
    shared = {"when": dt.date(2024, 1, 2)}

    assert json.loads(encode([shared, shared])) == [{"when": "2024-01-02"}] * 2
