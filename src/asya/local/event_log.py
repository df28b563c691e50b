"""Lines of the mesh's own log about envelopes: failed and lost hops, cancels, dead letters.

Sidecars tell it of hops (`events.Listener`), and the crew of ends (`ledger`). It writes at most
`LINES_MAX` lines per second and counts the rest, so that a handler that fails for every message does
not keep the loop busy with lines.
"""

from __future__ import annotations

import os
from typing import Final

from asya.clock import Clock, to_rfc3339
from asya.envelope import ErrorInfo
from asya.events import DeadLetter, Event, Finished, HopEnded, Ledger
from asya.local.logs import RotatingLog

LINES_MAX: Final = 100
"""Lines per second."""

TEXT_MAX: Final = 500
"""Characters of an error's message; all of it is in the task store."""


class EventLog:
    """Writes the lines.

    Args:
        log: The mesh's own.
        clock: For the lines' times.
    """

    def __init__(self, log: RotatingLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._second = 0
        self._lines = 0
        self._skipped = 0

    def emit(self, event: Event) -> None:
        """See `events.Listener`."""
        if isinstance(event, HopEnded) and event.state != "succeeded":
            self._hop(event)

    def ledger(self, inner: Ledger) -> Ledger:
        """A ledger that writes down what it passes on."""
        return _LoggingLedger(self, inner)

    def write(self, level: str, actor: str, envelope: str, text: str) -> None:
        """One line, unless there were too many in this second."""
        now = self._clock.now()
        second = int(now.timestamp())
        if second != self._second:
            self._second, self._lines = second, 0
            skipped, self._skipped = self._skipped, 0
            if skipped:
                self._write(to_rfc3339(now), "WARNING", "", "", f"({skipped} lines were left out)")
        self._lines += 1
        if self._lines > LINES_MAX:
            self._skipped += 1
        else:
            self._write(to_rfc3339(now), level, actor, envelope, text)

    def _write(self, time: str, level: str, actor: str, envelope: str, text: str) -> None:
        line = text.replace("\n", " ").encode("utf-8", "backslashreplace")
        self._log.write_lines(time, os.getpid(), line, level=level, actor=actor, envelope=envelope)

    def _hop(self, event: HopEnded) -> None:
        error = _shown(event.error)
        if event.state == "retrying":
            text = f"attempt {event.attempt} failed, tried again at {event.retry_at}: {error}"
            self.write("WARNING", event.actor, event.id, text)
        elif event.state == "lost":
            self.write("WARNING", event.actor, event.id, "its replica crashed; given to another")
        elif event.state == "failed":
            self.write("ERROR", event.actor, event.id, f"attempt {event.attempt} failed: {error}")


class _LoggingLedger:
    """See `events.Ledger`."""

    def __init__(self, log: EventLog, inner: Ledger) -> None:
        self._log = log
        self._inner = inner

    async def finish(self, end: Finished) -> bool:
        first = await self._inner.finish(end)
        if first and end.phase == "canceled":
            self._log.write("INFO", "", end.id, "canceled")
        return first

    async def dead_letter(self, letter: DeadLetter) -> None:
        await self._inner.dead_letter(letter)
        text = f"to the dead letters: {letter.reason}"
        self._log.write("ERROR", letter.actor, letter.id, text)


def _shown(error: ErrorInfo | None) -> str:
    if error is None:
        return "no error was given"
    message = error.message or ""
    cut = message if len(message) <= TEXT_MAX else message[:TEXT_MAX] + "…"
    return f"{error.type}: {cut}"
