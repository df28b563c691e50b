"""Returns the memory of big payloads to the system when they are done with.

glibc gives each buffer above a threshold a mapping of its own, which it unmaps when the buffer is
freed. But it raises the threshold to the largest buffer freed so far. Later buffers then come from
the heap, where whatever is behind them keeps them from being returned. After payloads of 20 MB a mesh
stayed at 160 MB; with a fixed threshold it stays at 80 MB.
"""

from __future__ import annotations

import ctypes
from typing import Final

APART_BYTES: Final = 1024 * 1024
"""Buffers from this size on are mapped apart, and unmapped when they are freed."""

_MMAP_THRESHOLD: Final = -3
_TRIM_THRESHOLD: Final = -1


def return_big_buffers() -> bool:
    """Fix the size, for this process. False where the C library knows nothing of the kind."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, APART_BYTES)) and bool(
        mallopt(_TRIM_THRESHOLD, APART_BYTES)
    )
