"""The grammar of the paths in `yield "GET", path`: jq-like, rooted at the envelope.

    path    = step, { step }
    step    = "." name | [ "." ] "[" index "]" | "." string
    name    = letter or "_", then letters, digits, "_" and "-"
    index   = string | integer | [ integer ] ":" [ integer ]
    string  = a JSON string, in double quotes, with its escapes

`.headers.trace_id`, `.headers["a.b"]`, `.route.next[-1]`, `.route.next[:0]`. What a path may reach
is the business of `scope`.
"""

from __future__ import annotations

import functools
import json
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Tuple, Union

    Step = Union[str, int, slice]

PATH_MAX = 4096
"""Characters in a path."""

_NAME = r"\.(?P<name>[^\W\d][\w-]*)"
_STRING = r'"(?:[^"\\\x00-\x1f]|\\.)*"'
_INTEGER = r"-?[0-9]{1,9}"
_STEP = re.compile(
    rf"{_NAME}|\.(?P<dotted>{_STRING})|\.?\[(?:(?P<quoted>{_STRING})|(?P<index>{_INTEGER})"
    rf"|(?P<start>{_INTEGER})?:(?P<stop>{_INTEGER})?)\]"
)


def parse_path(path: str) -> Tuple[Step, ...]:
    """The steps of a path: texts for keys, integers and slices for places in a list.

    Raises:
        TypeError: `path` is no text.
        ValueError: `path` is not of the grammar; the text names the place where it ends to be.
    """
    if not isinstance(path, str):
        raise TypeError(f"a path is a text such as '.route.next', not {type(path).__name__}")
    return _parse(path)


@functools.lru_cache(maxsize=256)
def _parse(path: str) -> Tuple[Step, ...]:
    if len(path) > PATH_MAX:
        raise ValueError(f"a path of {len(path)} characters; allowed are {PATH_MAX}")
    steps = []
    at = 0
    while at < len(path) or not at:
        match = _STEP.match(path, at)
        if match is None:
            raise ValueError(
                f"{path!r} is no path: not understood from character {at} on ({path[at:][:20]!r}); "
                'paths look like .headers.trace_id, .headers["a.b"], .route.next[0]'
            )
        steps.append(_step(path, match))
        at = match.end()
    return tuple(steps)


def _step(path: str, match: re.Match[str]) -> Step:
    name = match["name"]
    if name is not None:
        return name
    quoted = match["dotted"] or match["quoted"]
    if quoted is not None:
        try:
            return str(json.loads(quoted))
        except ValueError as error:
            raise ValueError(f"{path!r} is no path: {quoted} is no JSON string: {error}") from None
    if match["index"] is not None:
        return int(match["index"])
    start, stop = match["start"], match["stop"]
    return slice(int(start) if start else None, int(stop) if stop else None)
