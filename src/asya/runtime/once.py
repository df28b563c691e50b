"""One payload through a handler, by hand: `python3 -m asya.runtime --once '{"a": 1}' --handler m.f`.

With `--case FILE` it is a whole envelope, as an actor got it; `asya run` uses that. Frames come out as JSON lines on stdout; what the handler prints, its FLY events and an error's
traceback go to stderr.
"""

from __future__ import annotations

import json
import os
import sys

from asya.runtime.driver import Call, drive, drive_async
from asya.runtime.errors import describe
from asya.runtime.loading import HandlerError, extend_path
from asya.runtime.serve import Loops, prepare_stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional, Sequence


class OncePort:
    """Shows what a call emits (a `driver.Port`).

    Attributes:
        failed: The call ended with an error.
        raised: What the handler raised.
    """

    def __init__(self, out: int) -> None:
        self.failed = False
        self.raised: Optional[BaseException] = None
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
        """A child of the handler is its own business here; the error is kept for `--debug`."""
        self.raised = error


def run_once(payload: str, handler_name: str, path: Sequence[str], actor: str) -> int:
    """Run one call; gives back the exit code: 0, 1 if it failed, 3 if the handler is none."""
    data = sys.stdin.buffer.read() if payload == "-" else payload.encode()
    return _run(_envelope("once", actor or "once"), data, handler_name, path)


def run_case(file: str, handler_name: str, path: Sequence[str], actor: str, *, debug: bool) -> int:
    """Run the envelope of a JSON file; gives back the exit code, 2 if the file is none.

    Standard input stays the terminal's, so that `breakpoint()` works; with `debug` the debugger is
    entered where the handler raised.
    """
    try:
        with open(file, encoding="utf-8") as opened:
            case = json.load(opened)
    except (OSError, ValueError) as error:
        print(f"asya runtime: {file} cannot be read as JSON: {error}", file=sys.stderr)
        return 2
    if not isinstance(case, dict) or "payload" not in case:
        print(f"asya runtime: {file} is no envelope: it has no payload", file=sys.stderr)
        return 2
    data = json.dumps(case.pop("payload"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    envelope = _envelope(str(case.get("id") or "once"), actor or "once")
    for name in ("parent_id", "route", "headers", "status"):
        if case.get(name):
            envelope[name] = case[name]
    return _run(envelope, data, handler_name, path, debug=debug)


def _envelope(id_: str, actor: str) -> Dict[str, Any]:
    return {
        "id": id_,
        "route": {"prev": [], "curr": actor, "next": []},
        "headers": {},
        "status": {"phase": "processing", "actor": actor, "attempt": 1},
    }


def _run(
    envelope: Dict[str, Any],
    data: bytes,
    handler_name: str,
    path: Sequence[str],
    *,
    debug: bool = False,
) -> int:
    prepare_stdio()
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
    call = Call(1, envelope, data, port)
    if loops.main is not None:
        loops.main.run(drive_async(handler, call))
    else:
        drive(handler, call, loops.run)
    if debug and port.raised is not None and port.raised.__traceback__ is not None:
        import pdb  # noqa: T100  asked for

        pdb.post_mortem(port.raised.__traceback__)
    loops.close(handler)
    return int(port.failed)
