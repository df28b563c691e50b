"""Decides which errors are the same error. Pure; used by every store.

The fingerprint of an error is a hash of its type, of its message without what differs from case to
case, and of the names of the innermost functions of the user's code. Numbers, ids, quoted values,
paths and addresses in the message do not count, nor do lines: neither another payload nor an edit
above the function makes another error of it. `docs/how-to/dead-letters.md` tells users.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from asya.envelope import ErrorInfo

FRAMES: Final = 3
"""Functions that count, the innermost; a longer way to the same place is the same error."""

MESSAGE_MAX: Final = 500
"""Characters of a message that count."""

_SIZE: Final = 6
_READ_MAX: Final = 4 * MESSAGE_MAX
_VARYING: Final = (
    (re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"`]+"), "<url>"),
    (re.compile(r"(?<!\w)'[^'\n]*'(?!\w)|\"[^\"\n]*\"|`[^`\n]*`"), "<value>"),
    (re.compile(r"(?<![\w<])(?:[A-Za-z]:)?(?:[\\/][\w.@%+~-]+)+[\\/]?"), "<path>"),
    (re.compile(r"\b[\w.@%+~-]+(?:/[\w.@%+~-]+)+"), "<path>"),
    (re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"), "<id>"),
    (re.compile(r"(?<![\w.])[-+]?\d[\d_,.]*(?:[eE][-+]?\d+)?(?![\w-])"), "<number>"),
    # a word of eight characters and more with a digit in it is somebody's id
    (re.compile(r"\b(?=[\w-]*\d)\w[\w-]{6,}\w\b"), "<id>"),
    (re.compile(r"\d+"), "<number>"),
    (re.compile(r"\s+"), " "),
)
_FRAME: Final = re.compile(r'^[ |]*File "(?P<file>.*)", line \d+, in (?P<name>.+)$', re.MULTILINE)
_HEAD: Final = "Traceback (most recent call last):"
_FOREIGN: Final = re.compile(
    r"[\\/](?:site-packages|dist-packages|lib[\\/]python3[^\\/]*)[\\/]|^<frozen "
)


def fingerprint(reason: str, error: ErrorInfo | None) -> str:
    """Twelve hexadecimal digits that errors of one cause share.

    Args:
        reason: The mesh's word; all that counts where there is no error.
        error: What was raised.
    """
    if error is None:
        parts = [reason]
    else:
        parts = [error.type, normalised(error.message), *top_functions(error.traceback)]
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=_SIZE).hexdigest()


def normalised(message: str) -> str:
    """A message without what differs from case to case."""
    text = message[:_READ_MAX]
    for pattern, stand_in in _VARYING:
        text = pattern.sub(stand_in, text)
    return text.strip()[:MESSAGE_MAX]


def top_functions(traceback: str) -> list[str]:
    """Names of the innermost functions of a traceback, the innermost last.

    Of a chain the last error counts. Frames of installed packages and of the standard library are
    passed over, where there are others; a function that calls itself counts once.
    """
    frames = _FRAME.findall(traceback.rpartition(_HEAD)[2])
    own = [name for file, name in frames if not _FOREIGN.search(file)]
    names = own or [name for _, name in frames]
    once = [name for at, name in enumerate(names) if at == 0 or names[at - 1] != name]
    return once[-FRAMES:]
