"""Arguments built from payloads by the annotation of the handler's parameter."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import functools
import json
import typing
import uuid
from collections.abc import Callable
from typing import Any, Literal, Optional, Union

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asya.runtime.encode import encode
from asya.runtime.typed import PayloadMismatch, builder_for

if typing.TYPE_CHECKING:
    from nowhere import Hidden  # type: ignore[import-not-found]  # it must not exist


def make(handler: Any, payload: Any) -> Any:
    """What the handler is called with for this payload."""
    build = builder_for(handler)
    assert build is not None
    return build(payload)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Model(pydantic.BaseModel):
    size: int


class Pair(typing.NamedTuple):
    a: int
    b: str = "b"


@dataclasses.dataclass
class Leaf:
    n: int


@dataclasses.dataclass
class Tree:
    name: str
    children: list[Tree] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Full:
    text: str
    count: int
    ratio: float
    flag: bool
    color: Color
    mode: Literal["fast", "slow"]
    when: dt.datetime
    day: dt.date
    id: uuid.UUID
    price: decimal.Decimal
    leaf: Leaf
    leaves: dict[str, list[Leaf]]
    either: Union[int, str]  # noqa: UP007  the old form is under test too
    pair: tuple[int, str]
    many: tuple[int, ...]
    unique: set[int]
    raw: bytes
    model: Model
    named: Pair
    anything: Any
    maybe: Optional[Leaf] = None  # noqa: UP045  as above
    modern: int | None = None
    default: int = 7
    kind: typing.ClassVar[int] = 1


FULL = {
    "text": "t", "count": 1, "ratio": 2, "flag": True, "color": "red", "mode": "fast",
    "when": "2024-01-02T03:04:05Z", "day": "2024-01-02",
    "id": "00000000-0000-0000-0000-000000000001", "price": "1.10", "leaf": {"n": 1},
    "leaves": {"a": [{"n": 2}]}, "either": "x", "pair": [1, "a"], "many": [1, 2], "unique": [1, 1],
    "raw": "/w==", "model": {"size": 3}, "named": {"a": 1}, "anything": [None], "unknown": "left out",
}  # fmt: skip


def full(payload: Full) -> None: ...


def test_every_type_of_field() -> None:
    built = make(full, FULL)

    assert built == Full(
        "t", 1, 2.0, True, Color.RED, "fast",
        dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.UTC), dt.date(2024, 1, 2),
        uuid.UUID(int=1), decimal.Decimal("1.10"), Leaf(1), {"a": [Leaf(2)]}, "x", (1, "a"), (1, 2),
        {1}, b"\xff", Model(size=3), Pair(1), [None],
    )  # fmt: skip
    assert isinstance(built.ratio, float)


def test_all_fields_that_do_not_fit_are_named() -> None:
    wrong = {
        "text": 1, "count": "1", "ratio": "2", "flag": 1, "color": "green", "mode": "medium",
        "when": "yesterday", "day": 5, "id": "x", "price": "NaN", "leaf": [], "leaves": {"a": [{}]},
        "either": None, "pair": [1], "many": ["a"], "unique": 5, "raw": "?", "model": {"size": "x"},
        "maybe": {"n": None}, "modern": "x",
    }  # fmt: skip

    with pytest.raises(PayloadMismatch) as raised:
        make(full, wrong)

    places = [problem.split(":")[0] for problem in raised.value.problems]
    assert places == [
        "$.text", "$.count", "$.ratio", "$.flag", "$.color", "$.mode", "$.when", "$.day", "$.id",
        "$.price", "$.leaf", "$.leaves.a[0].n", "$.either", "$.pair", "$.many[0]", "$.unique",
        "$.raw", "$.model.size", "$.named", "$.anything", "$.maybe.n", "$.modern",
    ]  # fmt: skip
    assert "needs one of 'red', 'blue', not 'green'" in str(raised.value)


@given(st.recursive(st.builds(Tree, st.text(st.characters(exclude_categories=["Cs"]))),
                    lambda inner: st.builds(Tree, st.just("x"), st.lists(inner, max_size=3))))  # fmt: skip
def test_what_encode_makes_is_built_again(tree: Tree) -> None:
    def handle(payload: Tree) -> None: ...

    assert make(handle, json.loads(encode(tree))) == tree


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(list(FULL)), inner)))  # fmt: skip
def test_any_payload_is_built_or_a_mismatch(payload: Any) -> None:
    try:
        make(full, payload)
    except PayloadMismatch as error:
        assert error.problems  # noqa: PT017  whether it raises is up to the payload


def test_a_pydantic_model_validates_itself() -> None:
    def handle(payload: Model) -> None: ...

    assert make(handle, {"size": "3"}) == Model(size=3)
    with pytest.raises(pydantic.ValidationError, match="size"):
        make(handle, {})


def test_containers_of_models() -> None:
    def many(payload: list[Leaf]) -> None: ...
    def maybe(payload: Leaf | None) -> None: ...

    assert make(many, [{"n": 1}]) == [Leaf(1)]
    assert make(maybe, None) is None
    with pytest.raises(PayloadMismatch, match=r"\$\[1\]\.n: is missing"):
        make(many, [{"n": 1}, {}])


def test_the_class_itself_may_refuse() -> None:
    @dataclasses.dataclass
    class Positive:
        n: int

        def __post_init__(self) -> None:
            if self.n < 0:
                raise ValueError("n is below zero")

    def handle(payload: Any) -> None: ...

    handle.__annotations__["payload"] = Positive
    with pytest.raises(PayloadMismatch, match=r"\$: n is below zero"):
        make(handle, {"n": -1})


class Shop:
    def handle(self, payload: Leaf) -> None: ...

    def __call__(self, payload: Leaf) -> None: ...


def wrapped(payload: Leaf, more: int = 1) -> None: ...


@functools.wraps(wrapped)
def wrapper(*args: Any) -> None: ...


@pytest.mark.parametrize(
    "handler", [Shop().handle, Shop(), functools.partial(wrapped, more=2), wrapper]
)
def test_annotations_behind_methods_instances_partials_and_wrappers(
    handler: Callable[..., Any] | Shop,
) -> None:
    assert make(handler, {"n": 1}) == Leaf(1)


def test_other_annotations_are_left_alone() -> None:
    def plain(payload: dict[str, int]) -> None: ...
    def nothing(payload: Any) -> None: ...
    def hidden(payload: Hidden) -> None: ...
    def none() -> None: ...

    assert [builder_for(one) for one in (plain, nothing, hidden, none, len)] == [None] * 5


def test_a_mismatch_lists_a_bounded_number_of_problems() -> None:
    def handle(payload: list[Leaf]) -> None: ...

    with pytest.raises(PayloadMismatch, match="and 950 more"):
        make(handle, [{}] * 1000)
