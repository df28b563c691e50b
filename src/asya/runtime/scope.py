"""What a handler may see and change of its envelope: GET, SET and DEL with their permissions.

One `Scope` per call holds the envelope's metadata as plain JSON values. Values are copied on the
way out and on the way in, so nothing that a handler keeps is shared with the envelope. `changes`
tells what differs from what came; the driver sends it with every frame.
"""

from __future__ import annotations

import json
import re

from asya.runtime import encode
from asya.runtime.paths import parse_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, FrozenSet, List, Optional, Tuple

    from asya.runtime.paths import Step

READABLE = ("id", "parent_id", "route", "headers", "status")
SYSTEM_PREFIX = "x-asya-"
END_ACTORS = ("x-sink", "x-sump")
ROUTE_MAX = 1000
"""Actors in `route.next`."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

_MAY = {
    "GET": "GET may read .id, .parent_id, .route, .headers, .status and what is in them",
    "SET": "SET may write .route.next (also items and slices), .headers.* and .status.*",
    "DEL": "DEL may remove .route.next (also items and slices) and .headers.*",
}


class MissingItem(IndexError, KeyError):
    """A path names a place behind the end of a list."""

    __str__ = Exception.__str__


class Scope:
    """The metadata of one envelope during one call.

    Args:
        envelope: `id`, `parent_id`?, `route`, `headers`, `status`, as the sidecar sent them. The
            scope owns it from here on.
    """

    __slots__ = ("_came", "_del", "_envelope", "_routed", "_set", "_status")

    def __init__(self, envelope: Dict[str, Any]) -> None:
        self._envelope = envelope
        self._routed = False
        self._set: Dict[str, Any] = {}
        self._del: Dict[str, None] = {}
        self._status: Dict[str, Any] = {}
        self._came: Optional[FrozenSet[str]] = None

    def get(self, path: str) -> Any:
        """A deep copy of what stands at `path`.

        Raises:
            PermissionError: The path is none that a handler may read.
            KeyError, MissingItem: Nothing stands there.
        """
        steps = parse_path(path)
        if steps[0] not in READABLE:
            raise _forbidden("GET", path)
        return _copy(_walk(self._envelope, steps, path))

    def set(self, path: str, value: Any) -> None:
        """Put a copy of `value`, as JSON would carry it, at `path`.

        Raises:
            PermissionError: The path is none that a handler may write.
            KeyError, MissingItem: A place on the way to it is missing.
            TypeError, ValueError: The value is none for JSON, or none for a route.
        """
        steps = parse_path(path)
        section = self._section("SET", path, steps)
        plain = json.loads(encode.encode(value))
        if section == "next":
            self._set_next(path, steps[2:], plain)
            return
        _assign(_walk(self._envelope, steps[:-1], path), steps[-1], plain, path)
        name = str(steps[1])
        if section == "headers":
            self._set[name] = self._envelope["headers"][name]
            self._del.pop(name, None)
        else:
            self._status[name] = self._envelope["status"][name]

    def delete(self, path: str) -> None:
        """Remove what stands at `path`.

        Raises:
            PermissionError: The path is none that a handler may remove.
            KeyError, MissingItem: Nothing stands there.
        """
        steps = parse_path(path)
        section = self._section("DEL", path, steps)
        if section == "next":
            self._del_next(path, steps[2:])
            return
        name = str(steps[1])
        headers = self._envelope["headers"]
        _remove(_walk(self._envelope, steps[:-1], path), steps[-1], path)
        if name in headers:
            self._set[name] = headers[name]
            return
        self._set.pop(name, None)
        if self._came is not None and name in self._came:
            self._del[name] = None

    def changes(self) -> Dict[str, Any]:
        """What the call changed so far: `next`, `set`, `del`, `status`; absent = unchanged."""
        found: Dict[str, Any] = {}
        if self._routed:
            found["next"] = self._envelope["route"]["next"]
        if self._set:
            found["set"] = self._set
        if self._del:
            found["del"] = list(self._del)
        if self._status:
            found["status"] = self._status
        return found

    def _section(self, verb: str, path: str, steps: Tuple[Step, ...]) -> str:
        """Which part a change is about, where it is allowed: `next`, `headers` or `status`."""
        if steps[:2] == ("route", "next") and len(steps) <= 3:
            if len(steps) == 2 or not isinstance(steps[2], str):
                return "next"
        elif len(steps) >= 2 and isinstance(steps[1], str):
            if steps[0] == "headers":
                if steps[1].lower().startswith(SYSTEM_PREFIX):
                    raise PermissionError(
                        f"{verb} {path}: headers that start with {SYSTEM_PREFIX} belong to the "
                        f"system; {_MAY[verb]}"
                    )
                if self._came is None:
                    self._came = frozenset(self._envelope["headers"])
                return "headers"
            if steps[0] == "status" and verb == "SET":
                return "status"
        raise _forbidden(verb, path)

    def _set_next(self, path: str, steps: Tuple[Step, ...], value: Any) -> None:
        route = list(self._envelope["route"]["next"])
        place = steps[0] if steps else slice(None)
        if isinstance(place, int):
            if not isinstance(value, str):
                raise TypeError(f"SET {path}: needs the name of an actor, not {_json_kind(value)}")
            _assign(route, place, value, path)
            named = [value]
        else:
            if not isinstance(value, list):
                raise TypeError(f"SET {path}: needs a list of actors, not {_json_kind(value)}")
            route[place] = value  # type: ignore[index]  # a slice or an index, as parsed
            named = value
        for name in named:
            _check_actor(path, name)
        if len(route) > ROUTE_MAX:
            raise ValueError(f"SET {path}: a route holds {ROUTE_MAX} actors, not {len(route)}")
        self._envelope["route"]["next"] = route
        self._routed = True

    def _del_next(self, path: str, steps: Tuple[Step, ...]) -> None:
        route = list(self._envelope["route"]["next"])
        _remove(route, steps[0] if steps else slice(None), path)
        self._envelope["route"]["next"] = route
        self._routed = True


def _check_actor(path: str, name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"SET {path}: a route holds names of actors, not {_json_kind(name)}")
    if _NAME.fullmatch(name) is None:
        raise ValueError(
            f"SET {path}: {name!r} is no actor's name (a-z, 0-9 and -, at most 63 characters, "
            "a letter or digit at both ends)"
        )
    if name in END_ACTORS:
        raise ValueError(
            f"SET {path}: {name} may not stand in a route; every envelope ends there by itself "
            "(to stop here, return None or empty .route.next)"
        )


def _walk(value: Any, steps: Tuple[Step, ...], path: str) -> Any:
    for step in steps:
        if isinstance(step, str):
            if not isinstance(value, dict) or step not in value:
                raise KeyError(_missing(value, step, path))
            value = value[step]
            continue
        if not isinstance(value, list):
            raise KeyError(f"{path}: {_json_kind(value)} has no places")
        if isinstance(step, int) and not -len(value) <= step < len(value):
            raise MissingItem(f"{path}: a list of {len(value)} has no place {step}")
        value = value[step]
    return value


def _assign(container: Any, step: Step, value: Any, path: str) -> None:
    if isinstance(step, str):
        if not isinstance(container, dict):
            raise KeyError(_missing(container, step, path))
        container[step] = value
        return
    if isinstance(step, int):
        _walk(container, (step,), path)
    elif not isinstance(container, list):
        raise KeyError(f"{path}: {_json_kind(container)} has no places")
    elif not isinstance(value, list):
        raise TypeError(f"SET {path}: a slice needs a list, not {_json_kind(value)}")
    container[step] = value


def _remove(container: Any, step: Step, path: str) -> None:
    _walk(container, (step,), path)
    del container[step]


def _copy(value: Any) -> Any:
    if type(value) is dict:
        return {key: _copy(item) for key, item in value.items()}
    if type(value) is list:
        return [_copy(item) for item in value]
    return value


def _forbidden(verb: str, path: str) -> PermissionError:
    return PermissionError(f"{verb} {path}: not allowed; {_MAY[verb]}")


def _missing(value: Any, key: str, path: str) -> str:
    if not isinstance(value, dict):
        return f"{path}: {_json_kind(value)} has no keys, so no {key!r}"
    known = ", ".join(list(value)[:20]) or "nothing"
    return f"{path}: there is no {key!r}; there is: {known}"


def _json_kind(value: Any) -> str:
    kinds: List[Tuple[Any, str]] = [
        (bool, "true or false"),
        (str, "a text"),
        ((int, float), "a number"),
        (list, "a list"),
        (dict, "an object"),
    ]
    return next((name for kind, name in kinds if isinstance(value, kind)), "null")
