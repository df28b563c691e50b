"""Builds the handler's argument from the payload where its annotation is a dataclass or a model.

`builder_for(function)` looks at the annotation of the first parameter, once, when the handler is
loaded. A dataclass, a pydantic model (known by its shape: `model_validate`), or a container of
them is built; any other annotation is left alone and the handler gets the payload as it came.
What does not fit fails with every field that does not, not only the first.
"""

from __future__ import annotations

import sys
import typing
from typing import Any, Callable, Dict, List, Optional, Tuple

Build = Callable[[Any, str, List[str]], Any]
"""(value, its place, problems to add to) -> what was built; worthless where problems were added."""

PROBLEMS_MAX = 50
"""Problems listed in one error."""

_EXACT: Dict[Any, str] = {str: "a text", bool: "true or false", type(None): "null"}
_LISTS = (list, set, frozenset)


class PayloadMismatch(ValueError):
    """The payload does not fit the annotation of the handler's parameter.

    Attributes:
        problems: One text per field that does not fit, each beginning with its place.
    """

    def __init__(self, name: str, problems: List[str]) -> None:
        self.problems = problems
        more = len(problems) - PROBLEMS_MAX
        shown = problems[:PROBLEMS_MAX] + ([f"and {more} more"] if more > 0 else [])
        super().__init__(f"the payload is no {name}: " + "; ".join(shown))


def builder_for(function: Any) -> Optional[Callable[[Any], Any]]:
    """What makes the argument of `function` from a payload, or None where nothing is to be made.

    The function that is returned raises `PayloadMismatch`, or what pydantic raises.
    """
    annotation = _annotation(function)
    if annotation is None or not _has_model(annotation, set()):
        return None
    if _is_pydantic(annotation):
        validate: Callable[[Any], Any] = annotation.model_validate
        return validate
    build = _Builders().build(annotation)
    name = _name(annotation)

    def make(payload: Any) -> Any:
        problems: List[str] = []
        made = build(payload, "$", problems)
        if problems:
            raise PayloadMismatch(name, problems)
        return made

    return make


def _annotation(function: Any) -> Any:
    import inspect

    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    if not parameters or parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:
        return None
    annotation = parameters[0].annotation
    if annotation is inspect.Parameter.empty:
        return None
    if not isinstance(annotation, str):
        return annotation
    return _evaluate(annotation, _globals(function), None)


def _globals(function: Any) -> Dict[str, Any]:
    import inspect

    while True:
        if hasattr(function, "func") and hasattr(function, "keywords"):
            function = function.func
        elif hasattr(function, "__func__"):
            function = function.__func__
        elif hasattr(function, "__wrapped__"):
            function = inspect.unwrap(function)
        elif hasattr(function, "__globals__"):
            return dict(function.__globals__)
        else:
            return dict(getattr(type(function).__call__, "__globals__", {}))


def _evaluate(text: str, names: Dict[str, Any], otherwise: Any) -> Any:
    """The type that an annotation names; `otherwise` where its names are for type checkers only."""
    holder = type("_Holder", (), {"__annotations__": {"it": text}})
    try:
        return typing.get_type_hints(holder, names, names)["it"]
    except Exception:
        return otherwise


def _has_model(annotation: Any, seen: set[int]) -> bool:
    if id(annotation) in seen:
        return False
    seen.add(id(annotation))
    if isinstance(annotation, type) and (_is_dataclass(annotation) or _is_pydantic(annotation)):
        return True
    inner = (*typing.get_args(annotation), getattr(annotation, "__value__", None))
    return any(_has_model(part, seen) for part in inner if part is not None)


def _is_dataclass(kind: Any) -> bool:
    return isinstance(kind, type) and hasattr(kind, "__dataclass_fields__")


def _is_pydantic(kind: Any) -> bool:
    return isinstance(kind, type) and hasattr(kind, "model_validate")


class _Builders:
    """One builder per type, so that types which hold themselves come to an end."""

    def __init__(self) -> None:
        self._known: Dict[Any, Build] = {}

    def build(self, annotation: Any) -> Build:
        """The builder of any annotation; one that is not understood takes what comes."""
        if annotation is None:
            annotation = type(None)
        try:
            known = self._known.get(annotation)
        except TypeError:  # Annotated with something that cannot be hashed
            return self._make(annotation)
        if known is not None:
            return known

        def later(value: Any, place: str, problems: List[str]) -> Any:
            return self._known[annotation](value, place, problems)

        self._known[annotation] = later
        self._known[annotation] = made = self._make(annotation)
        return made

    def _make(self, annotation: Any) -> Build:
        if hasattr(annotation, "__supertype__"):  # a NewType
            return self.build(annotation.__supertype__)
        if type(annotation).__name__ == "TypeAliasType":
            return self.build(annotation.__value__)
        origin, args = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is None:
            return self._plain(annotation)
        if _is_dataclass(origin):
            return self._dataclass(origin)
        if origin is typing.Literal:
            return _literal(args)
        if origin is typing.Union or type(annotation).__name__ == "UnionType":
            return self._union(args)
        if hasattr(annotation, "__metadata__") or origin in (typing.ClassVar, typing.Final):
            return self.build(args[0])
        if isinstance(origin, type):
            return self._generic(origin, args)
        return _anything

    def _plain(self, kind: Any) -> Build:
        if not isinstance(kind, type) or kind is object:
            return _anything
        if kind in _EXACT:
            return _exact(kind, _EXACT[kind])
        if kind is int:
            return _integer
        if kind is float:
            return _number
        if kind in (list, tuple, set, frozenset, dict):
            return self._generic(kind, ())
        if kind in (bytes, bytearray):
            return _bytes
        if _is_pydantic(kind):
            return _pydantic(kind)
        if _is_dataclass(kind):
            return self._dataclass(kind)
        if issubclass(kind, tuple) and hasattr(kind, "_fields"):
            return self._named_tuple(kind)
        return _scalar(kind)

    def _generic(self, origin: type, args: Tuple[Any, ...]) -> Build:
        import collections.abc as kinds

        if issubclass(origin, tuple):
            if len(args) == 2 and args[1] is Ellipsis:
                return _sequence(self.build(args[0]), tuple)
            return (
                _fixed([self.build(arg) for arg in args]) if args else _sequence(_anything, tuple)
            )
        if issubclass(origin, kinds.Mapping):
            key, item = args if len(args) == 2 else (Any, Any)
            return _mapping(self.build(key), self.build(item))
        if issubclass(origin, kinds.Set):
            made = frozenset if origin is frozenset else set
            return _sequence(self.build(args[0]) if args else _anything, made)
        if issubclass(origin, (list, kinds.Sequence)) or origin in (
            kinds.Iterable,
            kinds.Collection,
        ):
            return _sequence(self.build(args[0]) if args else _anything, list)
        return _anything

    def _union(self, args: Tuple[Any, ...]) -> Build:
        builds = [(arg, self.build(arg)) for arg in args]
        names = " or ".join(_name(arg) for arg in args)

        def build(value: Any, place: str, problems: List[str]) -> Any:
            likely = sorted(builds, key=lambda pair: pair[0] is not type(value))
            nearest: List[str] = []
            for arg, one in likely:
                found: List[str] = []
                made = one(value, place, found)
                if not found:
                    return made
                if isinstance(value, dict) and _has_model(arg, set()) and not nearest:
                    nearest = found
            problems += nearest or [f"{place}: needs {names}, not {_short(value)}"]
            return None

        return build

    def _dataclass(self, kind: Any) -> Build:
        import dataclasses

        hints = _field_hints(kind)
        fields = [
            (
                field.name,
                self.build(hints.get(field.name, Any)),
                _needed(field, dataclasses.MISSING),
            )
            for field in kind.__dataclass_fields__.values()
            if field.init and field._field_type.name != "_FIELD_CLASSVAR"  # noqa: SLF001  InitVars are in
        ]
        return _object(kind, fields)

    def _named_tuple(self, kind: Any) -> Build:
        hints = _field_hints(kind)
        fields = [
            (name, self.build(hints.get(name, Any)), name not in kind._field_defaults)
            for name in kind._fields
        ]
        return _object(kind, fields)


def _needed(field: Any, missing: Any) -> bool:
    return field.default is missing and field.default_factory is missing


def _field_hints(kind: Any) -> Dict[str, Any]:
    """The annotations of a class as types; one that cannot be evaluated counts as Any."""
    try:
        return {name: _unwrapped(hint) for name, hint in typing.get_type_hints(kind).items()}
    except Exception:
        hints: Dict[str, Any] = {}
        for base in reversed(kind.__mro__):
            module = sys.modules.get(base.__module__)
            names = dict(vars(module)) if module else {}
            for name, hint in vars(base).get("__annotations__", {}).items():
                found = _evaluate(hint, names, Any) if isinstance(hint, str) else hint
                hints[name] = _unwrapped(found)
        return hints


def _unwrapped(hint: Any) -> Any:
    return hint.type if type(hint).__name__ == "InitVar" else hint


def _object(kind: Any, fields: List[Tuple[str, Build, bool]]) -> Build:
    def build(value: Any, place: str, problems: List[str]) -> Any:
        if not isinstance(value, dict):
            problems.append(f"{place}: needs an object ({kind.__name__}), not {_short(value)}")
            return None
        before = len(problems)
        made = {}
        for name, one, needed in fields:
            if name in value:
                made[name] = one(value[name], _at(place, name), problems)
            elif needed:
                problems.append(f"{_at(place, name)}: is missing")
        if len(problems) > before:
            return None
        return _called(kind, made, place, problems)

    return build


def _called(kind: Any, made: Dict[str, Any], place: str, problems: List[str]) -> Any:
    try:
        return kind(**made)
    except (TypeError, ValueError) as error:
        problems.append(f"{place}: {error}")
        return None


def _anything(value: Any, place: str, problems: List[str]) -> Any:
    return value


def _exact(kind: type, name: str) -> Build:
    def build(value: Any, place: str, problems: List[str]) -> Any:
        if type(value) is not kind:
            problems.append(f"{place}: needs {name}, not {_short(value)}")
        return value

    return build


def _integer(value: Any, place: str, problems: List[str]) -> Any:
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    problems.append(f"{place}: needs an integer, not {_short(value)}")
    return value


def _number(value: Any, place: str, problems: List[str]) -> Any:
    if type(value) is float:
        return value
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            pass
    problems.append(f"{place}: needs a number, not {_short(value)}")
    return value


def _bytes(value: Any, place: str, problems: List[str]) -> Any:
    import base64

    try:
        return base64.b64decode(value, validate=True) if isinstance(value, str) else _refuse()
    except ValueError:
        problems.append(f"{place}: needs bytes as a base64 text, not {_short(value)}")
        return value


def _refuse() -> Any:
    raise ValueError("no such value")


def _literal(args: Tuple[Any, ...]) -> Build:
    def build(value: Any, place: str, problems: List[str]) -> Any:
        for arg in args:
            if value == getattr(arg, "value", arg) and isinstance(value, bool) == isinstance(
                arg, bool
            ):
                return arg
        names = ", ".join(repr(arg) for arg in args)
        problems.append(f"{place}: needs one of {names}, not {_short(value)}")
        return value

    return build


def _sequence(item: Build, made: Any) -> Build:
    def build(value: Any, place: str, problems: List[str]) -> Any:
        if not isinstance(value, list):
            problems.append(f"{place}: needs a list, not {_short(value)}")
            return value
        before = len(problems)
        items = [item(one, f"{place}[{at}]", problems) for at, one in enumerate(value)]
        if len(problems) > before:
            return None
        try:
            return made(items)
        except TypeError as error:  # a set of what cannot be hashed
            problems.append(f"{place}: {error}")
            return None

    return build


def _fixed(items: List[Build]) -> Build:
    def build(value: Any, place: str, problems: List[str]) -> Any:
        if not isinstance(value, list) or len(value) != len(items):
            problems.append(f"{place}: needs a list of {len(items)}, not {_short(value)}")
            return value
        return tuple(item(value[at], f"{place}[{at}]", problems) for at, item in enumerate(items))

    return build


def _mapping(key: Build, item: Build) -> Build:
    def build(value: Any, place: str, problems: List[str]) -> Any:
        if not isinstance(value, dict):
            problems.append(f"{place}: needs an object, not {_short(value)}")
            return value
        return {
            _mapping_key(key, name, _at(place, name), problems): item(
                one, _at(place, name), problems
            )
            for name, one in value.items()
        }

    return build


def _mapping_key(key: Build, name: str, place: str, problems: List[str]) -> Any:
    """Keys of objects are texts; a mapping from integers reads them as what they say."""
    if key is _integer and name.lstrip("-").isdigit():
        return int(name)
    found: List[str] = []
    made = key(name, place, found)
    problems += [f"{problem} (the key)" for problem in found]
    return name if found else made


def _pydantic(kind: Any) -> Build:
    def build(value: Any, place: str, problems: List[str]) -> Any:
        try:
            return kind.model_validate(value)
        except ValueError as error:
            listed = getattr(error, "errors", None)
            if listed is None:
                problems.append(f"{place}: {error}")
                return None
            for one in listed():
                where = place
                for step in one["loc"]:
                    where = f"{where}[{step}]" if isinstance(step, int) else _at(where, step)
                problems.append(f"{where}: {one['msg']}")
            return None

    return build


def _scalar(kind: Any) -> Build:
    """Dates, times, UUIDs, decimals, enums; anything else must be an instance already."""
    import decimal
    import enum
    import uuid
    from datetime import date, datetime, time

    makers: List[Tuple[Any, str, Callable[[Any], Any]]] = [
        (enum.Enum, "", kind),
        (datetime, "a date and time (RFC 3339)", lambda text: _moment(kind, text)),
        (date, "a date (2024-12-31)", lambda text: _day(kind, text)),
        (time, "a time (23:59:59)", lambda text: _moment(kind, text)),
        (uuid.UUID, "a UUID", kind),
        (decimal.Decimal, "a decimal number", lambda number: _decimal(kind, number)),
    ]
    for base, name, make in makers:
        if issubclass(kind, base):
            values = ", ".join(repr(one.value) for one in list(kind)[:20]) if not name else ""
            return _made(make, name or f"one of {values}")
    return _instance(kind)


def _made(make: Callable[[Any], Any], name: str) -> Build:
    def build(value: Any, place: str, problems: List[str]) -> Any:
        try:
            return make(value)
        except (ValueError, TypeError, ArithmeticError, AttributeError):
            problems.append(f"{place}: needs {name}, not {_short(value)}")
            return None

    return build


def _instance(kind: type) -> Build:
    def build(value: Any, place: str, problems: List[str]) -> Any:
        if not _fits(value, kind):
            problems.append(f"{place}: needs {_name(kind)}, which JSON cannot give")
        return value

    return build


def _fits(value: Any, kind: type) -> bool:
    try:
        return isinstance(value, kind)
    except TypeError:  # a protocol or a TypedDict: nothing that could be looked at
        return True


def _moment(kind: Any, text: Any) -> Any:
    if isinstance(text, str) and text[-1:] in ("Z", "z"):
        text = text[:-1] + "+00:00"  # not understood before Python 3.11
    return kind.fromisoformat(text)


def _day(kind: Any, text: Any) -> Any:
    return kind.fromisoformat(text)


def _decimal(kind: Any, number: Any) -> Any:
    if isinstance(number, bool) or not isinstance(number, (str, int, float)):
        raise TypeError(number)
    made = kind(str(number))
    if not made.is_finite():
        raise ValueError(number)
    return made


def _at(place: str, name: Any) -> str:
    import json

    text = str(name)
    return f"{place}.{text}" if text.isidentifier() else f"{place}[{json.dumps(text)}]"


def _name(annotation: Any) -> str:
    if annotation is None or annotation is type(None):
        return "null"
    if typing.get_origin(annotation) is None and isinstance(annotation, type):
        return annotation.__name__
    return str(annotation).replace("typing.", "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
