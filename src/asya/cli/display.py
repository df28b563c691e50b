"""How the way of one envelope looks to a person: lines on stderr.

Fed with the events of its stream. On a terminal the last line is rewritten while an actor works;
elsewhere every change is a line of its own, without colour. Used by call and watch.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any, Final, Protocol, TextIO

from asya.cli.client import ServerEvent

_MARKS: Final = {
    "running": "…",
    "succeeded": "✓",
    "failed": "✗",
    "retrying": "↻",
    "canceled": "✗",
    "lost": "↻",
}
_COLOURS: Final = {"succeeded": 32, "failed": 31, "canceled": 33, "retrying": 33, "lost": 33}


class Display(Protocol):
    """Is shown the events of one envelope, in order."""

    def show(self, event: ServerEvent) -> None:
        """Show one event."""
        ...

    def note(self, text: str) -> None:
        """Show what is no event, on lines of its own; may be called by another thread."""
        ...

    def close(self) -> None:
        """Leave the cursor at the start of a line."""
        ...


class NullDisplay:
    """Shows no events."""

    def show(self, event: ServerEvent) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show what is no event."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def close(self) -> None:
        """Do nothing."""


class TextDisplay:
    """Writes to a text stream; `terminal` says whether lines can be rewritten and coloured."""

    def __init__(self, out: TextIO, *, terminal: bool) -> None:
        self._out = out
        self._terminal = terminal
        self._running: dict[tuple[str, int], str] = {}  # lines of attempts that go on, by hop
        self._passing = False  # the line on screen will be rewritten
        self._inside = False  # streamed text has not ended its line
        self._writing = threading.Lock()

    def show(self, event: ServerEvent) -> None:
        """Show one event."""
        with self._writing:
            self._show(event)

    def note(self, text: str) -> None:
        """Show what is no event, on lines of its own."""
        with self._writing:
            self._line(text, "retrying")
            self._out.flush()

    def _show(self, event: ServerEvent) -> None:
        if event.name == "fly":
            self._fly(event.data)
        elif event.name == "progress":
            self._hop(event.data)
        elif event.name == "stuck":
            self._line(describe_stuck(event.data), "retrying")
        elif event.name == "status" and event.data["status"] not in {"pending", "running"}:
            self._line(event.data["status"], event.data["status"])
        self._out.flush()

    def close(self) -> None:
        """Leave the cursor at the start of a line."""
        self._clear()
        self._out.flush()

    def _hop(self, hop: dict[str, Any]) -> None:
        text, key = describe_hop(hop), (hop["actor"], hop["n"])
        if hop["state"] == "running":
            self._running[key] = text
        else:
            self._running.pop(key, None)
        if not self._terminal or hop["state"] != "running":
            self._line(text, hop["state"])
        # The next actor may begin before the news of this one's end arrives.
        if self._terminal and self._running:
            self._clear()
            self._out.write(list(self._running.values())[-1])
            self._passing = True

    def _line(self, text: str, state: str) -> None:
        self._clear()
        colour = _COLOURS.get(state) if self._terminal else None
        self._out.write(f"\x1b[{colour}m{text}\x1b[0m\n" if colour else f"{text}\n")

    def _fly(self, event: dict[str, Any]) -> None:
        data = event["data"]
        text = data.get("text")
        if not isinstance(text, str):
            text = json.dumps(data, ensure_ascii=False) + "\n"
        if self._passing:
            self._clear()
        self._out.write(text)
        self._inside = not text.endswith("\n")

    def _clear(self) -> None:
        if self._passing:
            self._out.write("\r\x1b[K")
        elif self._inside:
            self._out.write("\n")
        self._passing = self._inside = False


def describe_hop(hop: dict[str, Any]) -> str:
    """One line on an attempt of an actor: ` 50 %  ✓ embedder`, with the error where there is one."""
    state = hop["state"]
    text = f"{hop['progress']:3d} %  {_MARKS.get(state, '?')} {hop['actor']}"
    if hop["attempt"] > 1:
        text += f", attempt {hop['attempt']}"
    if state not in {"running", "succeeded"}:
        text += f", {state}"
    if hop.get("error"):
        text += f": {hop['error']['type']}: {hop['error']['message']}"
    return text


def describe_stuck(data: dict[str, Any]) -> str:
    """One line on an envelope that stands still."""
    return (
        f"       ! {data['state']} at {data['actor']} since {data['since']}, far longer than usual; "
        f"asya why {data['id']}"
    )


def make_display(*, progress: bool | None) -> Display:
    """The display for stderr; without a wish (None) only a terminal gets one."""
    terminal = sys.stderr.isatty()
    if progress is False or (progress is None and not terminal):
        return NullDisplay()
    return TextDisplay(sys.stderr, terminal=terminal)
