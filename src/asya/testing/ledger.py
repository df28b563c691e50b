"""A task store for tests: remembers every event, end and dead letter in lists."""

from __future__ import annotations

import asyncio

from asya.errors import StoreError
from asya.events import DeadLetter, Event, Finished


class MemoryLedger:
    """Implements `asya.events.Listener` and `asya.events.Ledger`.

    Attributes:
        events: All events, in order.
        ends: The first end of each envelope, by id.
        repeated: Ends that came after the first one of their id.
        letters: Dead letters, in order.
        broken: While True, storing fails as a full disk would.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ends: dict[str, Finished] = {}
        self.repeated: list[Finished] = []
        self.letters: list[DeadLetter] = []
        self.broken = False
        self._changed = asyncio.Event()

    def emit(self, event: Event) -> None:
        """Take note of an event."""
        self.events.append(event)

    async def finish(self, end: Finished) -> bool:
        """Keep the first end of an id."""
        self._check()
        if end.id in self.ends:
            self.repeated.append(end)
            return False
        self.ends[end.id] = end
        self._changed.set()
        return True

    async def dead_letter(self, letter: DeadLetter) -> None:
        """Keep a dead letter; the same id and reason once."""
        self._check()
        if not any((seen.id, seen.reason) == (letter.id, letter.reason) for seen in self.letters):
            self.letters.append(letter)

    async def end_of(self, envelope_id: str) -> Finished:
        """Wait for the end of an envelope."""
        while envelope_id not in self.ends:
            await self._changed.wait()
            self._changed.clear()
        return self.ends[envelope_id]

    def _check(self) -> None:
        if self.broken:
            raise StoreError("no space left on device (a test says so)")
