"""Where the workers of a task queue note when chains began and ended, for `chains.py`.

A mark is (when, what it was sent with): 16 bytes appended to one file in one write, from any process.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

BEGIN = -1.0
_MARK = struct.Struct("dd")
_state: dict[str, int] = {}


def mark(sent: float) -> None:
    """A chain ended; `sent` is when it was sent."""
    if "file" not in _state:
        flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
        _state["file"] = os.open(os.environ["MARKS"], flags, 0o600)
    os.write(_state["file"], _MARK.pack(time.time(), sent))


def begin() -> None:
    """The first chain began in this process; later calls do nothing."""
    if "begun" not in _state:
        _state["begun"] = 1
        mark(BEGIN)


def count() -> int:
    """Marks so far."""
    path = Path(os.environ["MARKS"])
    return path.stat().st_size // _MARK.size if path.exists() else 0


def read() -> list[tuple[float, float]]:
    """All marks: when, and when it was sent or `BEGIN`."""
    return list(_MARK.iter_unpack(Path(os.environ["MARKS"]).read_bytes()))


def clear() -> None:
    """Forget them."""
    Path(os.environ["MARKS"]).write_bytes(b"")
