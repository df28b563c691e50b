"""Whether a handler can be loaded: `python3 -m asya.runtime.probe module.function [FOLDER]…`.

Imports the module and finds the handler, as a replica does, but neither makes its class nor calls
anything. One JSON line on stdout: {"python", "error"}, where `error` is null or as the protocol has
it. Exit code 0, or 3 when it cannot be loaded. Called by `asya doctor`.
"""

from __future__ import annotations

import json
import os
import sys

from asya.runtime.errors import describe
from asya.runtime.loading import HandlerError, extend_path, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional


def main(arguments: List[str]) -> int:
    """Run the command; gives back the exit code."""
    name, *folders = arguments
    # What the module prints as it is imported must not get in between.
    out = os.dup(1)
    os.dup2(2, 1)
    error = probe(name, folders)
    said = {"python": "%d.%d.%d" % sys.version_info[:3], "error": error}
    os.write(out, json.dumps(said).encode() + b"\n")
    return 0 if error is None else 3


def _not_initialised(kind: Any, in_loop: bool) -> Any:
    return kind.__new__(kind)


def probe(name: str, folders: List[str]) -> Optional[Dict[str, Any]]:
    """Why the handler cannot be loaded, or None."""
    extend_path(folders)
    try:
        load(name, _not_initialised)
    except HandlerError as error:
        return describe(error, error.__cause__)
    return None


if __name__ == "__main__":
    # Not sys.exit: threads that the module started shall hold nobody up.
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
