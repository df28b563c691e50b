"""One mesh per data folder: an exclusive lock that the kernel drops when the process ends.

The lock is `flock` on `<data>/lock`. The file contains the holder's pid, which only the error
message uses. Children do not inherit the descriptor (Python's default), so a broker that outlived its
supervisor holds no lock. The mesh acquires it first and releases it last.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from asya.codes import Code
from asya.errors import MeshRunning, UsageError


class FolderLock:
    """The right to use a data folder. Not reentrant."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Make the folder if it is missing, and hold it until `release` or the end of this process.

        Raises:
            MeshRunning: Another process holds it.
            UsageError: The folder cannot be made or written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UsageError(
                f"the data folder {self.folder} cannot be used: {error.strerror}; "
                "make it writable, or give another with --data",
                code=Code.DATA_UNUSABLE,
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read_pid(descriptor)
            os.close(descriptor)
            raise MeshRunning(str(self.folder), holder) from None
        except OSError as error:
            os.close(descriptor)
            raise UsageError(
                f"the data folder {self.folder} cannot be locked: {error.strerror}; "
                "give a folder on a local disk with --data",
                code=Code.DATA_UNUSABLE,
            ) from error
        self._descriptor = descriptor
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let the next mesh have the folder. The file stays: removing it would race with the next holder."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def holder(folder: Path) -> int | None:
    """The pid of the process that holds a folder, or None. Takes no lock, not even for a moment.

    The pid in the file proves nothing: the file stays, and the system reuses pids.
    """
    import psutil

    path = folder / "lock"
    try:
        pid = int(path.read_text(encoding="ascii"))
        opened = psutil.Process(pid).open_files()
    except (OSError, ValueError, psutil.Error):
        return None
    return pid if str(path.resolve()) in {each.path for each in opened} else None


def _read_pid(descriptor: int) -> int:
    """The holder's pid; 0 in the moment between its lock and its writing."""
    text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdigit() else 0
