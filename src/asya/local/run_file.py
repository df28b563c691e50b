"""The run file `mesh.json`, by which the commands of a folder find the mesh that runs there.

It has the fields {"pid", "url", "started_at", "data", "logs", "actors"}. It is written when the mesh
is ready and removed when it stops. A mesh that was killed leaves it, so readers check that the pid
still lives. When two meshes with two data folders run in one folder, the first one keeps the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

FILE: Final = "mesh.json"


@dataclass(frozen=True)
class RunFile:
    """A running mesh. `data` and `logs` are absolute folders."""

    pid: int
    url: str
    started_at: str
    data: str
    logs: str
    actors: Sequence[str]

    def write(self, path: Path) -> None:
        """Write the file as a whole, so that no reader sees half of it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(f".{self.pid}.new")
        new.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        new.replace(path)

    def place(self, path: Path) -> bool:
        """Write the file unless it is another running mesh's; whether it was written."""
        other = read(path)
        if other is not None and other.pid != self.pid:
            return False
        self.write(path)
        return True

    def remove(self, path: Path) -> None:
        """Remove the file if it is still this mesh's."""
        found = read(path)
        if found is not None and found.pid == self.pid:
            path.unlink(missing_ok=True)


def read(path: Path) -> RunFile | None:
    """The mesh that runs by this file, or None: no file, not ours, or its process is gone."""
    try:
        fields = json.loads(path.read_bytes())
        found = RunFile(
            pid=int(fields["pid"]),
            url=str(fields["url"]),
            started_at=str(fields["started_at"]),
            data=str(fields["data"]),
            logs=str(fields["logs"]),
            actors=tuple(map(str, fields["actors"])),
        )
        os.kill(found.pid, 0)
    except PermissionError:
        return found  # it lives, under another user
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found


def find(folder: Path) -> RunFile | None:
    """The mesh that runs from this folder or from one above it."""
    for place in (folder, *folder.parents):
        found = read(place / ".asya" / FILE)
        if found is not None:
            return found
    return None
