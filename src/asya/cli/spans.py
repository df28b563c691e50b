"""Times as `asya trace` and `asya top` show them."""

from __future__ import annotations

from datetime import datetime


def parse(text: str | None) -> datetime | None:
    """The moment of a time in an answer."""
    return None if text is None else datetime.fromisoformat(text)


def short(seconds: float | None) -> str:
    """A duration in at most seven columns: `0.8 ms`, `12 ms`, `3.21 s`, `5m12s`."""
    if seconds is None:
        return "-"
    seconds = max(0.0, seconds)
    if seconds < 0.01:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"
