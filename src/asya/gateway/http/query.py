"""Parameters of a request, declared once: how their text is read, and how the document shows them.

A struct of `requests` names the parameters of an operation. Each field is annotated with a
`Parameter`. `read` makes the struct from a query or from headers, and `parameters` makes the
OpenAPI entries from the same struct.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, get_type_hints

import msgspec

from asya.errors import nearest
from asya.tasks.admission import duration_s
from asya.tasks.refusals import Fault, Kind, Refusal

NUMBER_MAX: Final = 2**62
"""The largest whole number that is read; SQLite has 64 bits."""

S = TypeVar("S", bound=msgspec.Struct)


@dataclass(frozen=True)
class Parameter:
    """How one parameter is read, and how the document shows it.

    Attributes:
        description: For the document.
        schema: JSON Schema for the document.
        read: Makes the value from the text. Raises `ValueError`, which says what was expected.
        name: In the request, if that is not the name of the field.
    """

    description: str
    schema: Mapping[str, Any]
    read: Callable[[str], Any]
    name: str | None = None


def text(description: str, *, pattern: str | None = None, name: str | None = None) -> Parameter:
    """Any text. The `pattern` is for the document: whoever uses the value checks it."""
    schema = {"type": "string"} | ({"pattern": pattern} if pattern else {})
    return Parameter(description, schema, str, name)


def choice(
    description: str, words: Sequence[str], *, name: str | None = None, strip: bool = False
) -> Parameter:
    """One of several words. `strip` is for headers: the server keeps the blanks behind a value."""

    def read(given: str) -> str:
        given = given.strip() if strip else given
        if given in words:
            return given
        close = nearest(given, words)
        hint = f"; did you mean {close}?" if close else ""
        raise ValueError(f"expected one of {', '.join(words)}, got {given!r}{hint}")

    return Parameter(description, {"type": "string", "enum": list(words)}, read, name)


def whole(
    description: str, least: int, most: int = NUMBER_MAX, *, name: str | None = None
) -> Parameter:
    """A whole number within bounds."""
    upper = {"maximum": most} if most < NUMBER_MAX else {}

    def read(given: str) -> int:
        number = int(given) if given.isascii() and given.isdigit() and len(given) < 20 else -1
        if least <= number <= most:
            return number
        bounds = f"from {least} to {most}" if upper else f"of at least {least}"
        raise ValueError(f"expected a whole number {bounds}, got {given!r}")

    return Parameter(description, {"type": "integer", "minimum": least, **upper}, read, name)


def cursor(description: str) -> Parameter:
    """Where a page begins: a number that means nothing to clients."""

    def read(given: str) -> int:
        number = int(given) if given.isascii() and given.isdigit() and len(given) < 20 else 0
        if 0 < number <= NUMBER_MAX:
            return number
        raise ValueError(f"expected `next_cursor` of the page before, got {given!r}")

    return Parameter(description, {"type": "string"}, read)


def flag(description: str) -> Parameter:
    """`true` or `false`."""

    def read(given: str) -> bool:
        if given not in {"true", "false"}:
            raise ValueError(f"expected true or false, got {given!r}")
        return given == "true"

    return Parameter(description, {"type": "boolean"}, read)


def duration(description: str) -> Parameter:
    """A duration such as `30s`, or a number of seconds; the value is in seconds."""
    return Parameter(description, {"type": "string"}, duration_s)


def read(kind: type[S], given: Mapping[str, str], where: str = "?") -> S:
    """The parameters of a request.

    Args:
        kind: The struct that declares them.
        given: Query parameters or headers by name.
        where: What stands before a name in refusals: `?` for a query, nothing for headers.

    Raises:
        Refusal: A value cannot be read.
    """
    values = {}
    for field, name, parameter in _declared(kind):
        found = given.get(name)
        if found is not None:
            values[field] = read_value(parameter, f"{where}{name}", found)
    return kind(**values)


def read_value(parameter: Parameter, path: str, given: str) -> Any:
    """The value of one parameter.

    Raises:
        Refusal: It cannot be read; the fault is at `path`.
    """
    try:
        return parameter.read(given)
    except ValueError as error:
        raise Refusal.invalid(f"{path}: {error}", path, str(error)) from error


def refuse_unknown(given: Mapping[str, str], known: frozenset[str]) -> None:
    """Refuse a query with names that an operation does not declare.

    Raises:
        Refusal: Names each of them, and the nearest one that is known.
    """
    unknown = [name for name in given if name not in known]
    if not unknown:
        return
    faults = []
    for name in unknown:
        close = nearest(name, known)
        hint = f"did you mean {close}?" if close else f"there are {_names(known)}"
        faults.append(Fault(f"?{name}", f"is no parameter here; {hint}"))
    detail = "; ".join(f"{fault.path}: {fault.message}" for fault in faults)
    raise Refusal(Kind.INVALID, detail, faults=faults, nearest=nearest(unknown[0], known))


def _names(known: frozenset[str]) -> str:
    return ", ".join(sorted(known)) or "none"


def names(kind: type[msgspec.Struct] | None) -> frozenset[str]:
    """Names of the parameters that a struct declares."""
    return frozenset() if kind is None else frozenset(name for _, name, _ in _declared(kind))


def parameters(kind: type[msgspec.Struct] | None, place: str) -> list[dict[str, Any]]:
    """The OpenAPI entries of a struct; `place` is `query` or `header`."""
    if kind is None:
        return []
    defaults = {each.name: each.default for each in msgspec.structs.fields(kind)}
    made = []
    for field, name, parameter in _declared(kind):
        default = defaults[field]
        shown = {} if default is None else {"default": default}
        made.append(entry(name, place, parameter, shown))
    return made


def entry(
    name: str, place: str, parameter: Parameter, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The OpenAPI entry of one parameter; `more` is added to its schema."""
    return {
        "name": name,
        "in": place,
        "description": parameter.description,
        "required": place == "path",
        "schema": {**parameter.schema, **(more or {})},
    }


@functools.cache
def _declared(kind: type[msgspec.Struct]) -> tuple[tuple[str, str, Parameter], ...]:
    """Field, name in the request, and parameter, in their order."""
    made = []
    for field, hint in get_type_hints(kind, include_extras=True).items():
        parameter: Parameter = hint.__metadata__[0]
        made.append((field, parameter.name or field, parameter))
    return tuple(made)
