"""What is kept of a hop's payloads: capped, and masked, in the store's own thread.

Sidecars hand over bytes that they hold anyway; nothing is decoded on their path. A `Seen` goes
with the note of its event to the store, whose writer asks it for what shall be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw

from asya.runtime.paths import parse_path

Side = Literal["in", "out"]
SIDES: Final = ("in", "out")

MASK: Final = "***"
"""What stands in the place of a masked value."""

MASKED_MAX: Final = 256 * 1024
"""Bytes of a payload that is decoded to be masked, which stops the event loop for a millisecond or
two; of a larger one nothing is kept."""

Path = tuple[Any, ...]


class Kept(msgspec.Struct, frozen=True):
    """The part of a payload that is stored; `size` is that of the whole, in bytes."""

    size: int
    truncated: bool
    body: bytes


def read_mask(text: str) -> Path:
    """The steps of a mask such as `.user.password` or `.cards[0].number`; `[:]` is every item.

    Raises:
        ValueError: It is no path, or the whole payload.
    """
    steps = parse_path(text)
    if not steps:
        raise ValueError("a mask names a part of the payload, such as .user.password")
    return steps


@dataclass(frozen=True)
class Keeping:
    """How much of a payload is kept, and what of it is not shown.

    Attributes:
        max_bytes: The most that is stored of one payload; the rest is cut off.
        masks: Paths whose values are replaced before anything is stored.
    """

    max_bytes: int = 64 * 1024
    masks: Sequence[Path] = ()

    def keep(self, payload: Raw) -> Kept:
        """What is stored of a payload. Never raises."""
        view = memoryview(payload)
        size = len(view)
        if self.masks:
            masked = self._masked(view) if size <= MASKED_MAX else None
            if masked is None:
                return Kept(size, True, b"")
            view = memoryview(masked)
        return Kept(size, len(view) > self.max_bytes, bytes(view[: self.max_bytes]))

    def _masked(self, view: memoryview) -> bytes | None:
        """The payload with its masked values replaced, or None where it cannot be read."""
        try:
            value = msgspec.json.decode(view)
            changed = [mask(value, steps) for steps in self.masks]
            return msgspec.json.encode(value) if any(changed) else bytes(view)
        except (ValueError, RecursionError):  # a DecodeError is a ValueError
            return None


def mask(value: Any, steps: Path) -> bool:
    """Replace what a path leads to; whether it led anywhere."""
    step, rest = steps[0], steps[1:]
    if isinstance(step, slice):
        places: list[Any] = list(range(len(value)))[step] if isinstance(value, list) else []
    elif isinstance(step, int):
        inside = isinstance(value, list) and -len(value) <= step < len(value)
        places = [step] if inside else []
    else:
        places = [step] if isinstance(value, dict) and step in value else []
    if rest:
        return (
            sum(mask(value[place], rest) for place in places) > 0
        )  # every one, not only the first
    for place in places:
        value[place] = MASK
    return bool(places)


class Seen(msgspec.Struct, frozen=True):
    """A payload as a sidecar handed it over."""

    n: int
    attempt: int
    side: str
    at: str
    payload: Raw
    keeping: Keeping

    def kept(self) -> Kept:
        """What is to be stored of it."""
        return self.keeping.keep(self.payload)
