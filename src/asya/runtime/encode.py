"""What handlers give, as JSON: payloads, FLY events and SET values go through here alike.

Values of plain JSON types take the fast path: one look at the types, then the C encoder. Anything
else is turned into plain values first, by type or (numpy, pydantic) by shape, without importing
their libraries. Errors name the type and the place, such as `$.items[3].x`.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

    Place = Optional[Tuple[Any, Any]]

DEPTH_MAX = 256
"""Levels of lists and objects in each other. Deeper values fail with a clear error."""

_ALLOWED = (
    "JSON values, dataclasses, pydantic models, named tuples, enums, dates, times, UUID, Decimal, "
    "bytes, sets, numpy scalars and arrays"
)
_LEAVES = frozenset((str, int, float, bool, type(None)))
_only_leaves = _LEAVES.issuperset
_only_texts = frozenset((str,)).issuperset
_dumps = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")
).encode


def encode(value: Any) -> bytes:
    """`value` as compact JSON in UTF-8.

    Raises:
        TypeError: Something in it has a type that JSON cannot hold, or a key that is no text.
        ValueError: NaN, an infinity, a cycle, more than `DEPTH_MAX` levels, or a text that UTF-8
            cannot hold.
    """
    try:
        if _is_plain(value, DEPTH_MAX):
            return _dumps(value).encode()
    except (ValueError, RecursionError):
        pass  # found again, with its place, below
    try:
        return _dumps(_Converter().convert(value, None, 0)).encode()
    except RecursionError:
        raise ValueError(
            "$: the value nests too deep for the Python stack that is left here"
        ) from None


def _is_plain(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind is dict:
        if not _only_texts(map(type, value)):
            return False
        items = value.values()
    elif kind is list or kind is tuple:
        items = value
    else:
        return kind in _LEAVES
    if _only_leaves(map(type, items)):
        return depth > 0
    if depth <= 0:
        return False
    for item in items:  # noqa: SIM110  a generator would double the depth of the stack
        if not _is_plain(item, depth - 1):
            return False
    return True


class _Converter:
    """Turns one value into plain JSON values, or fails with the place.

    Places are chains of (outer place, key or index), made into a text for errors only.
    """

    def __init__(self) -> None:
        self._open: Dict[int, Any] = {}
        self._pydantic = 0

    def convert(self, value: Any, place: Place, depth: int) -> Any:
        kind = type(value)
        if kind in _LEAVES or isinstance(value, (str, int, float)):
            return _leaf(value, place)
        if depth > DEPTH_MAX:
            raise ValueError(f"{_text(place)}: nests deeper than {DEPTH_MAX} levels")
        if id(value) in self._open:
            raise ValueError(f"{_text(place)}: holds itself (a cycle)")
        self._open[id(value)] = value
        try:
            return self._container(value, place, depth + 1)
        finally:
            del self._open[id(value)]

    def _container(self, value: Any, place: Place, depth: int) -> Any:
        kind = type(value)
        if isinstance(value, dict):
            found = {}
            for key, item in value.items():
                found[_key(key, place)] = self.convert(item, (place, key), depth)
            return found
        if isinstance(value, (list, tuple)):
            if hasattr(kind, "_fields"):
                return self._fields(value, kind._fields, place, depth)
            plain = []
            for at, item in enumerate(value):
                plain.append(self.convert(item, (place, at), depth))
            return plain
        if isinstance(value, (set, frozenset)):
            plain = [self.convert(item, (place, at), depth) for at, item in enumerate(value)]
            return _sorted(plain)
        if isinstance(value, (bytes, bytearray, memoryview)):
            import binascii

            return binascii.b2a_base64(value, newline=False).decode("ascii")
        return self._object(value, place, depth)

    def _object(self, value: Any, place: Place, depth: int) -> Any:
        kind = type(value)
        if hasattr(kind, "__dataclass_fields__"):
            import dataclasses

            names = [field.name for field in dataclasses.fields(value)]
            return self._fields(value, names, place, depth)
        if hasattr(kind, "model_dump") and hasattr(kind, "model_validate"):
            self._pydantic += 1
            try:
                return self.convert(value.model_dump(), place, depth)
            finally:
                self._pydantic -= 1
        if hasattr(kind, "dtype") and hasattr(kind, "tolist"):
            return self.convert(value.tolist(), place, depth)
        known, found = _scalar(value, place)
        if known:
            return found
        if self._pydantic:
            return self._by_pydantic(value, place, depth)
        raise _refused(value, place)

    def _fields(self, value: Any, names: Iterable[str], place: Place, depth: int) -> Any:
        found = {}
        for name in names:
            found[name] = self.convert(getattr(value, name), (place, name), depth)
        return found

    def _by_pydantic(self, value: Any, place: Place, depth: int) -> Any:
        """Types that only pydantic knows how to write (URLs, paths, secrets) inside its models."""
        import sys

        core = sys.modules.get("pydantic_core")
        if core is None:
            raise _refused(value, place)
        try:
            plain = core.to_jsonable_python(value)
        except ValueError:
            raise _refused(value, place) from None
        return self.convert(plain, place, depth)


def _leaf(value: Any, place: Place) -> Any:
    """A text, number, truth value or null; instances of their subclasses become the plain type."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        text = str.__str__(value)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{_text(place)}: a text with a lone surrogate at character {error.start}, which "
                "UTF-8 cannot hold"
            ) from None
        return text
    if isinstance(value, int):
        return int.__pos__(value)
    number = float.__pos__(value)
    if number - number != 0:
        raise ValueError(f"{_text(place)}: {number} is no JSON number")
    return number


def _scalar(value: Any, place: Place) -> Tuple[bool, Any]:
    """Whether `value` is a date, time, UUID, Decimal or enum, and what it becomes."""
    from datetime import date, time

    if isinstance(value, (date, time)):
        return True, value.isoformat()
    import enum

    if isinstance(value, enum.Enum):
        return True, _Converter().convert(value.value, place, 1)
    import decimal

    if isinstance(value, decimal.Decimal):
        if not value.is_finite():
            raise ValueError(f"{_text(place)}: {value} is no JSON number")
        return True, str(value)
    import uuid

    if isinstance(value, uuid.UUID):
        return True, str(value)
    return False, None


def _key(key: Any, place: Place) -> str:
    if isinstance(key, str):
        return str(_leaf(key, place))
    raise TypeError(
        f"{_text(place)}: the key {_short(key)} is of type {_name(type(key))}; keys must be texts"
    )


def _sorted(plain: List[Any]) -> List[Any]:
    try:
        return sorted(plain)
    except TypeError:
        by_json: Callable[[Any], str] = _dumps
        return sorted(plain, key=by_json)


def _refused(value: Any, place: Place) -> TypeError:
    return TypeError(
        f"{_text(place)}: a value of type {_name(type(value))} cannot be turned into JSON; "
        f"allowed are {_ALLOWED}"
    )


def _text(place: Place) -> str:
    """A place as a text, such as `$.items[3]["a b"]`."""
    steps = []
    while place is not None:
        place, step = place
        if isinstance(step, int):
            steps.append(f"[{step}]")
        elif step.isidentifier():
            steps.append(f".{step}")
        else:
            steps.append(f"[{_short(step)}]")
    if len(steps) > 40:
        steps[20:-20] = ["..."]
    return "$" + "".join(reversed(steps))


def _short(value: Any) -> str:
    try:
        text = json.dumps(value) if isinstance(value, str) else repr(value)
    except Exception:
        text = "(cannot be shown)"
    return text if len(text) <= 80 else text[:77] + "..."


def _name(kind: type) -> str:
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"
