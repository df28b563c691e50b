"""One payload through a handler, by hand: `python3 -m asya.runtime --once '{"a": 1}' --handler m.f`.

Frames come out as JSON lines on stdout; what the handler prints, its FLY events and an error's
traceback go to stderr.
"""

from __future__ import annotations

import os
import sys

from asya.runtime.driver import Call, drive, drive_async
from asya.runtime.errors import describe
from asya.runtime.loading import HandlerError, extend_path
from asya.runtime.serve import Loops, prepare_stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Sequence


class OncePort:
    """Shows what a call emits (a `driver.Port`).

    Attributes:
        failed: The call ended with an error.
    """

    def __init__(self, out: int) -> None:
        self.failed = False
        self._out = out

    def frame(self, call_id: int, changes: Dict[str, Any], payload: bytes) -> None:
        """A line on stdout."""
        data = payload + b"\n"
        while data:
            data = data[os.write(self._out, data) :]

    def fly(self, call_id: int, event: bytes) -> None:
        """A line on stderr."""
        print("FLY", event.decode(), file=sys.stderr)

    def result(self, call_id: int, changes: Dict[str, Any], payload: bytes) -> None:
        """As a frame, and the end."""
        self.frame(call_id, changes, payload)

    def done(self, call_id: int, changes: Dict[str, Any], frames: int) -> None:
        """Nothing to show."""

    def error(self, call_id: int, error: Dict[str, Any]) -> None:
        """The traceback."""
        self.failed = True
        print(error["traceback"], file=sys.stderr, end="")

    def canceled(self, call_id: int) -> None:
        """Never asked for here."""

    async def drained(self) -> None:
        """Nothing to wait for."""

    def check_process(self, error: BaseException) -> None:
        """A child of the handler is its own business here."""


def run_once(payload: str, handler_name: str, path: Sequence[str], actor: str) -> int:
    """Run one call; gives back the exit code: 0, 1 if it failed, 3 if the handler is none."""
    prepare_stdio()
    data = sys.stdin.buffer.read() if payload == "-" else payload.encode()
    out = os.dup(1)
    os.dup2(2, 1)
    extend_path(path)
    loops = Loops()
    try:
        handler = loops.load(handler_name)
    except HandlerError as error:
        failure = describe(error, error.__cause__)
        print(f"{failure['traceback']}asya runtime: {failure['message']}", file=sys.stderr)
        return 3
    port = OncePort(out)
    envelope = {
        "id": "once",
        "route": {"prev": [], "curr": actor or "once", "next": []},
        "headers": {},
        "status": {"phase": "processing", "actor": actor or "once", "attempt": 1},
    }
    call = Call(1, envelope, data, port)
    if loops.main is not None:
        loops.main.run(drive_async(handler, call))
    else:
        drive(handler, call, loops.run)
    loops.close(handler)
    return int(port.failed)
