"""The folder of the Unix sockets on which sidecars listen: private, and with a short path."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Final

from asya.codes import Code
from asya.errors import UsageError

SOCKET_PATH_MAX: Final = 100
"""Bytes of the path of a Unix socket; the kernel's limit is 104 or 108."""


def socket_folder(data: Path) -> Path:
    """In the data folder, or in the system's temporary folder where that path is too long."""
    folder = data / "run"
    if len(os.fsencode(folder / "99999.sock")) > SOCKET_PATH_MAX:
        digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
        folder = Path(tempfile.gettempdir()) / f"asya-{os.getuid()}-{digest}"
    return folder


def make_private(folder: Path) -> None:
    """Make a folder that only this user can enter. One that exists must be the user's own.

    In the temporary folder anybody can make a folder, or a link, of the name that we will use.

    Raises:
        UsageError: It cannot be made, or belongs to another user.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if not folder.is_dir() or folder.is_symlink() or status.st_uid != os.getuid():
            raise UsageError(
                f"{folder} belongs to another user; give another folder with --data",
                code=Code.DATA_UNUSABLE,
            )
        folder.chmod(0o700)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be used for sockets: {error.strerror}", code=Code.DATA_UNUSABLE
        ) from error
