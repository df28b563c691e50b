"""Which source files a process has imported, and whether they have changed since.

`Teller` tells the sidecar of a mesh that reloads; `stamps` and `changed` keep a template from
forking code that is not on the disk any more. Files below the given folders count, but not those
of packages that are installed there.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

    Stamps = Dict[str, Tuple[int, int]]

FILES_MAX = 5000
"""Files that are told of at most."""


def imported(folders: Sequence[str]) -> List[str]:
    """The source files below `folders` of the modules that are imported, sorted."""
    starts = [os.path.join(os.path.abspath(folder), "") for folder in folders]
    found = set()
    for module in list(sys.modules.values()):
        path: Any = getattr(module, "__file__", None)
        if isinstance(path, str) and any(_is_below(path, start) for start in starts):
            found.add(path)
    return sorted(found)[:FILES_MAX]


def _is_below(path: str, start: str) -> bool:
    if not path.startswith(start):
        return False
    rest = path[len(start) :]
    return "site-packages" not in rest and not rest.startswith(".") and f"{os.sep}." not in rest


def stamps(files: Sequence[str]) -> Stamps:
    """Time of change and size of files; those that are gone have zeros."""
    found = {}
    for path in files:
        try:
            status = os.stat(path)
            found[path] = (status.st_mtime_ns, status.st_size)
        except OSError:
            found[path] = (0, 0)
    return found


def changed(before: Stamps) -> Optional[str]:
    """The first file that is not as it was, or None."""
    now = stamps(list(before))
    return next((path for path, stamp in before.items() if now[path] != stamp), None)


class Teller:
    """Tells the sidecar what was imported, and again when a handler imports more as it runs.

    Attributes:
        tell: Sends a header; None until `start`.
    """

    def __init__(self, folders: Sequence[str]) -> None:
        self.tell: Optional[Callable[[Dict[str, Any]], None]] = None
        self._folders = folders
        self._count = 0
        self._told: List[str] = []

    def start(self, tell: Callable[[Dict[str, Any]], None]) -> None:
        """The `hello` is out: tell what there is, and from now on what comes."""
        self.tell = tell
        self.tick()

    def tick(self) -> None:
        """Look; called every now and then, by one thread."""
        count = len(sys.modules)
        if self.tell is None or count == self._count:
            return
        self._count = count
        files = imported(self._folders)
        if files != self._told:
            self._told = files
            self.tell({"k": "files", "files": files})
