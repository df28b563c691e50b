"""`asya runtime`: one replica, as a container runs it."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def runtime(arguments: list[str]) -> NoReturn:
    """Run one replica of an actor.

    This process becomes the runtime: it reads its own arguments and `ASYA_*` variables, and needs
    nothing of this command line (`docs/reference/handlers.md`).
    """
    sys.stdout.flush()
    command = [sys.executable, "-m", "asya.runtime", *arguments]
    os.execv(sys.executable, command)  # noqa: S606  this process shall become that one
