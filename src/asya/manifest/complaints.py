"""What pydantic found wrong, said in the words of the manifest.

Each error becomes one line that names the path, what was expected there and what stood there; for
an unknown field the nearest known one. Called by `loading` for every document.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import BaseModel, ValidationError

from asya.codes import Code
from asya.document import Document, Loc, Problem, shown, unknown


def complaints(
    error: ValidationError, model: type[BaseModel], data: Any, document: Document
) -> Iterator[Problem]:
    """One problem per error, in the order of the fields."""
    for item in error.errors(include_url=False, include_context=True, include_input=False):
        loc: Loc = tuple(step for step in item["loc"] if step != "[key]")
        kind = item["type"]
        if kind == "extra_forbidden":
            parent = annotation_at(model, loc[:-1])
            text = unknown("field", str(loc[-1]), list(field_names(parent)))
            yield document.problem(loc, text, key=True, code=Code.FIELD_UNKNOWN)
        elif kind == "missing":
            text = f"is required: {expectation(annotation_at(model, loc))}"
            yield document.problem(loc, text, code=Code.FIELD_MISSING)
        elif kind == "asya":
            yield document.problem(loc, item["msg"])
        else:
            expected = expectation(annotation_at(model, loc))
            yield document.problem(loc, f"expected {expected}, got {shown(_at(data, loc))}")


def _at(data: Any, loc: Loc) -> Any:
    for step in loc:
        data = data[step]
    return data


def field_names(annotation: Any) -> Iterator[str]:
    """The fields of a model as the user writes them."""
    model = _model(annotation)
    if model is not None:
        for name, field in model.model_fields.items():
            yield field.alias or name


def annotation_at(annotation: Any, loc: Loc) -> Any:
    """The type of the value at `loc`, with its limits; None where the model does not reach."""
    for step in loc:
        model = _model(annotation)
        if model is not None:
            field = next((f for f in model.model_fields.values() if f.alias == step), None)
            if field is None:
                return None
            annotation = field.annotation
            if field.metadata:
                annotation = Annotated[(annotation, *field.metadata)]
            continue
        arguments = get_args(_bare(annotation))
        if not arguments:
            return None
        annotation = arguments[-1]
    return annotation


def _bare(annotation: Any) -> Any:
    """Without `Annotated` and `| None`."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in {Union, types.UnionType}:
            annotation = next(a for a in get_args(annotation) if a is not types.NoneType)
        else:
            return annotation


def _model(annotation: Any) -> type[BaseModel] | None:
    bare = _bare(annotation)
    return bare if isinstance(bare, type) and issubclass(bare, BaseModel) else None


def _limits(annotation: Any) -> list[Any]:
    found: list[Any] = []
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            for item in annotation.__metadata__:
                found += getattr(item, "metadata", None) or [item]
            annotation = get_args(annotation)[0]
        elif origin in {Union, types.UnionType}:
            annotation = next(a for a in get_args(annotation) if a is not types.NoneType)
        else:
            return found


def expectation(annotation: Any) -> str:
    """What a field takes, in words: `a whole number from 0 to 10`, `true or false`."""
    bare = _bare(annotation)
    limits = _limits(annotation)
    if get_origin(bare) is Literal:
        return " or ".join(shown(choice) for choice in get_args(bare))
    if bare is bool:
        return "true or false"
    if bare is int:
        return "a whole number" + _bounds(limits)
    if bare is float:
        return 'a duration such as "30s"'
    if bare is str:
        return "a text that is not empty" if _least(limits) else "a text"
    if get_origin(bare) is list:
        most = next((limit.max_length for limit in limits if isinstance(limit, MaxLen)), None)
        least = " with one item at least" if _least(limits) else ""
        return f"a list{least}" + (f" (at most {most})" if most else "")
    return "a mapping"


def _least(limits: list[Any]) -> bool:
    return any(isinstance(limit, MinLen) and limit.min_length for limit in limits)


def _bounds(limits: list[Any]) -> str:
    low = next((limit.ge for limit in limits if isinstance(limit, Ge)), None)
    high = next((limit.le for limit in limits if isinstance(limit, Le)), None)
    if low is None:
        return ""
    return f" >= {low}" if high is None else f" from {low} to {high}"
