"""`x-sump`: the dead letters. Keeps every envelope that nobody could handle, with its bytes."""

from __future__ import annotations

from asya.crew.end import finished
from asya.envelope import Envelope, encode
from asya.events import DeadLetter, Ledger


class Sump:
    """Keeps dead letters, and ends their tasks as failed."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def accept(self, envelope: Envelope) -> None:
        """Keep a dead envelope. The same one twice changes nothing.

        Raises:
            StoreError: Not stored. Try again.
        """
        status = envelope.status
        letter = DeadLetter(
            id=envelope.id,
            at=status.updated_at,
            reason=status.reason or "Unknown",
            actor=status.actor,
            body=encode(envelope),
            error=status.error,
        )
        # the letter first: a task that is failed for good always has its letter
        await self._ledger.dead_letter(letter)
        await self._ledger.finish(finished(envelope))
