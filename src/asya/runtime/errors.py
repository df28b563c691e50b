"""Exceptions of handlers, as the wire carries them: type, mro, message, args, traceback.

Tracebacks show the user's frames: those of this package and of the import machinery are cut. Every
text is bounded. Nothing here fails, whatever an exception's methods do.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import traceback
    from typing import Any, Dict, List, Optional, Set

TRACEBACK_MAX = 16_384
"""Characters of a traceback; the middle is cut out of a longer one."""

MESSAGE_MAX = 8_192
ARGS_MAX = 16
ARG_MAX = 1_024
INTEGER_MAX = 1 << 63
"""Integers beyond this are sent as texts; not every reader of JSON holds them."""

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_IMPORTS = "<frozen importlib"


def describe(error: BaseException, shown: Optional[BaseException] = None) -> Dict[str, Any]:
    """The error as the protocol has it; the traceback is that of `shown`, where given."""
    kind = type(error)
    return {
        "type": type_name(kind),
        "mro": [type_name(base) for base in kind.__mro__ if base is not object],
        "message": _shorten(_message(error), MESSAGE_MAX),
        "args": _args(error),
        "traceback": render(error if shown is None else shown),
    }


def type_name(kind: type) -> str:
    """The dotted name of a class; builtins stand without their module."""
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def render(error: BaseException) -> str:
    """The traceback with its causes, contexts and groups, without frames that are not the user's."""
    import traceback

    try:
        found = traceback.TracebackException.from_exception(error)
        _cut(found, set())
        text = "".join(found.format())
    except Exception as failure:
        text = f"{type_name(type(error))} (its traceback cannot be shown: {type(failure).__name__})"
    return _shorten(text, TRACEBACK_MAX)


def _cut(found: traceback.TracebackException, seen: Set[int]) -> None:
    import traceback

    waiting = [found]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        kept = [frame for frame in part.stack if not _is_ours(frame.filename)]
        part.stack = traceback.StackSummary.from_list(kept)
        near = [part.__cause__, part.__context__, *(getattr(part, "exceptions", None) or ())]
        waiting += [one for one in near if one is not None]


def _is_ours(filename: str) -> bool:
    return filename.startswith((_OURS, _IMPORTS))


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as failure:
        return f"(str() of this error raised {type_name(type(failure))})"


def _args(error: BaseException) -> List[Any]:
    return [_arg(value) for value in error.args[:ARGS_MAX]]


def _arg(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if type(value) is int and abs(value) < INTEGER_MAX:
        return value
    if type(value) is float and value - value == 0:
        return value
    if type(value) is str:
        return _shorten(value, ARG_MAX)
    try:
        return _shorten(repr(value), ARG_MAX)
    except BaseException:
        return f"({type_name(type(value))})"


def _shorten(text: str, size: int) -> str:
    if len(text) <= size:
        return text
    half = size // 2 - 32
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
