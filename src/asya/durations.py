"""Durations as people write them: Go style, `500ms`, `30s`, `5m`, `1h30m`.

The grammar is that of Go's `time.ParseDuration` without signs; the finest step is a nanosecond.
Read by manifests, settings, the command line and the gateway; inside, a duration is always a
number of seconds.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

DURATION_PATTERN: Final = "^(([0-9]+(\\.[0-9]*)?|\\.[0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h))+$"
DURATION_MAX_S: Final = float(2**63 // 10**9)
"""Go's longest duration, 292 years."""

_NS: Final = {
    "ns": 1,
    "us": 10**3,
    "\u00b5s": 10**3,  # the micro sign
    "\u03bcs": 10**3,  # the Greek letter; Go takes both
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PART: Final = re.compile("([0-9]+(?:\\.[0-9]*)?|\\.[0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_WHOLE: Final = re.compile(DURATION_PATTERN)
_NUMBER: Final = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")
_TEXT_MAX: Final = 64


def parse_duration(text: str) -> float:
    """Seconds of a Go-style duration: `parse_duration("1h30m") == 5400.0`.

    Raises:
        ValueError: Not a duration; the text says what was expected, with a hint where one helps.
    """
    if not isinstance(text, str) or len(text) > _TEXT_MAX or not _WHOLE.fullmatch(text):
        raise ValueError(_complaint(text))
    total = sum(Fraction(number) * _NS[unit] for number, unit in _PART.findall(text))
    seconds = int(total) / 10**9
    if seconds > DURATION_MAX_S:
        raise ValueError(f"expected a duration of at most 292 years, got {text!r}")
    return seconds


def _complaint(text: object) -> str:
    expected = 'expected a duration such as "500ms", "30s" or "1h30m"'
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        return f'{expected}, got the number {text}; write the unit, for example "{text}s"'
    if not isinstance(text, str):
        return expected
    if _NUMBER.fullmatch(text):
        return f'{expected}, got "{text}" without a unit; write "{text}s" for seconds'
    if text.startswith("-"):
        return f'{expected}, got the negative "{text[:_TEXT_MAX]}"'
    return f'{expected}, got "{text[:_TEXT_MAX]}"'


def format_duration(seconds: float) -> str:
    """The shortest Go-style text: `5400.0` is `1h30m`, `0.0005` is `500us`, `0` is `0s`.

    `parse_duration` gives back the same number, to the nanosecond.

    Raises:
        ValueError: Negative, not finite, or over 292 years.
    """
    if not 0 <= seconds <= DURATION_MAX_S:
        raise ValueError(f"{seconds} seconds are no duration")
    rest = round(Fraction(seconds) * 10**9)
    if rest < 10**9:
        for unit in ("ms", "us", "ns"):
            if rest and rest % _NS[unit] == 0:
                return f"{rest // _NS[unit]}{unit}"
        return "0s"
    hours, rest = divmod(rest, _NS["h"])
    minutes, rest = divmod(rest, _NS["m"])
    whole, nanos = divmod(rest, 10**9)
    tail = f"{whole}.{nanos:09d}".rstrip("0").rstrip(".") if nanos else str(whole)
    parts = [f"{hours}h" * bool(hours), f"{minutes}m" * bool(minutes)]
    return "".join(parts) + (f"{tail}s" if rest else "")
