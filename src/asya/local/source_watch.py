"""Looks at files again and again, and tells which have changed. Only while a mesh reloads.

No library and no inotify: three times a second a look at 200 files costs half a percent of a
processor, and works on every file system. Python files and manifests count; hidden
folders, caches, virtual environments and `node_modules` do not.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import os
from collections.abc import Iterable
from importlib.util import cache_from_source
from pathlib import Path
from typing import Final

LOOK_S: Final = 0.3
"""Time between two looks."""

COST_MAX: Final = 0.05
"""Share of the time that looks may take; in a large tree they come less often."""

FILES_MAX: Final = 5000
"""Files that are looked at, at most."""

SUFFIXES: Final = (".py", ".yaml", ".yml")
_SKIPPED: Final = (".", "__pycache__", "node_modules", "site-packages")

Seen = dict[str, tuple[int, int]]


class SourceWatch:
    """The files below some folders.

    Args:
        folders: Watched with all below them.
        ignore: Folders that are not.
    """

    def __init__(self, folders: Iterable[Path], ignore: frozenset[Path] = frozenset()) -> None:
        self._folders = sorted(set(folders))
        self._ignore = ignore
        self._seen: Seen = {}
        self._wait_s = LOOK_S

    async def begin(self) -> None:
        """What is on the disk now is what changes are measured by."""
        self._seen = await asyncio.to_thread(self.look)

    async def changes(self) -> set[str]:
        """Wait until files were changed, made or removed; gives their paths."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._wait_s)
            began_s = loop.time()
            now = await asyncio.to_thread(self.look)
            self._wait_s = max(LOOK_S, (loop.time() - began_s) / COST_MAX)
            before, self._seen = self._seen, now
            if now != before:
                return {path for path, _ in before.items() ^ now.items()}

    def look(self) -> Seen:
        """Time of change and size of every file."""
        found: Seen = {}
        for folder in self._folders:
            for root, folders, files in os.walk(folder):
                folders[:] = [each for each in sorted(folders) if self._is_watched(root, each)]
                for name in files:
                    if name.endswith(SUFFIXES):
                        with contextlib.suppress(OSError):
                            path = os.path.join(root, name)  # noqa: PTH118  ten times as fast
                            status = os.stat(path)  # noqa: PTH116  the same
                            found[path] = (status.st_mtime_ns, status.st_size)
                if len(found) >= FILES_MAX:
                    return found
        return found

    def _is_watched(self, root: str, name: str) -> bool:
        path = Path(root, name)
        return (
            not name.startswith(_SKIPPED)
            and path not in self._ignore
            and not (path / "pyvenv.cfg").exists()
        )


def drop_bytecode(paths: Iterable[str]) -> None:
    """Remove what Python has compiled of source files that have changed.

    Python takes what it compiled for current where size and second of change are those of the
    source: of two changes within a second, it would run the first from then on.
    """
    for path in paths:
        if not path.endswith(".py"):
            continue
        with contextlib.suppress(OSError, NotImplementedError):
            cache = Path(cache_from_source(path)).parent
            for each in cache.glob(f"{glob.escape(Path(path).stem)}.*.pyc"):
                each.unlink(missing_ok=True)
