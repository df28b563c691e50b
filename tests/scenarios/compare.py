"""Expected against what happened: every difference as one line with its place in the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tests.scenarios.scenario import FIELDS, MAY_BE_LEFT_OUT, Entry, Then

TOLERANCE_S: Final = 0.0015
"""Times leave the mesh in milliseconds."""

IN_ORDER: Final = frozenset({"calls", "events"})
"""Sections whose entries of one moment have an order; no one promises who of two is sent first."""

PARTS: Final = frozenset({"headers", "status", "extra"})
"""Fields of which an entry names only what it is about; null means that it is not there."""

SHOWN_MAX: Final = 40

Happened = Mapping[str, list[Entry]]


def differences(then: Then, happened: Happened) -> list[str]:
    """What differs, as lines; empty if all is as expected."""
    found: list[str] = []
    for section in FIELDS:
        expected = getattr(then, section)
        if expected is None and section in MAY_BE_LEFT_OUT:
            continue
        wanted, seen = _unrolled(expected), happened[section]
        lines = list(_of_section(section, wanted, _in_order_of(wanted, seen, section)))
        if lines:
            shown = [f"    {_brief(entry)}" for entry in seen[:SHOWN_MAX]]
            lines += [f"  what happened ({section}):", *(shown or ["    nothing"])]
        found += lines
    return found


def _unrolled(entries: list[Entry]) -> list[Entry]:
    return [
        {key: value for key, value in entry.items() if key != "times"}
        for entry in entries
        for _ in range(entry.get("times", 1))
    ]


def _in_order_of(expected: list[Entry], actual: list[Entry], section: str) -> list[Entry]:
    """What happened, with the entries of each moment in the order in which they are expected."""
    if section in IN_ORDER:
        return actual
    left, found = list(actual), []
    for entry in expected:
        moment = [one for one in left if one["at"] == left[0]["at"]]
        if not moment:
            break
        same = (one for one in moment if all(_same(k, v, one[k]) for k, v in entry.items()))
        best = next(same, moment[0])
        left.remove(best)
        found.append(best)
    return found + left


def _of_section(section: str, expected: list[Entry], actual: list[Entry]) -> Iterator[str]:
    for index, (entry, seen) in enumerate(zip(expected, actual, strict=False)):
        for field, value in entry.items():
            if not _same(field, value, seen[field]):
                place = f"then.{section}[{index}].{field}"
                yield f"  {place}: expected {value!r}, got {seen[field]!r}"
    if len(expected) != len(actual):
        yield f"  then.{section}: expected {len(expected)} of them, got {len(actual)}"


def _same(field: str, expected: Any, actual: Any) -> bool:
    if field in PARTS and isinstance(expected, dict):
        return all(_same("", value, actual.get(name)) for name, value in expected.items())
    if field == "error" and isinstance(expected, dict) and actual is not None:
        mentioned = [str(part) for part in expected.get("mentions", [])]
        told: str = actual["message"]
        return bool(expected["type"] == actual["type"]) and all(one in told for one in mentioned)
    if field == "error" and isinstance(expected, str):
        return actual is not None and bool(actual["type"] == expected)
    if _is_number(expected) and _is_number(actual):
        return bool(abs(expected - actual) <= TOLERANCE_S)
    return bool(expected == actual)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _brief(entry: Entry) -> str:
    told = {key: value for key, value in entry.items() if value not in (None, [], {}, "")}
    return repr(told)[:400]
