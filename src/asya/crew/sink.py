"""`x-sink`: the end of every envelope. Stores its terminal state before anybody acks."""

from __future__ import annotations

from typing import Final

from asya.crashpoints import crash
from asya.crew.end import finished
from asya.crew.sump import Sump
from asya.envelope import Envelope
from asya.events import Ledger

NOT_DEAD: Final = frozenset({"PolicyRouted", "DeadlineExceeded"})
"""Reasons of failures that are no dead letters: the one was dealt with by the actors of
`onExhausted`, for the other it is too late."""


class Sink:
    """Stores ends in the ledger, and hands failed envelopes on to the dead letters."""

    def __init__(self, ledger: Ledger, sump: Sump) -> None:
        self._ledger = ledger
        self._sump = sump

    async def accept(self, envelope: Envelope) -> None:
        """Store the envelope's end. The same one twice changes nothing.

        Raises:
            StoreError: Not stored. Try again.
        """
        status = envelope.status
        if status.phase == "failed" and status.reason not in NOT_DEAD:
            await self._sump.accept(envelope)
        else:
            await self._ledger.finish(finished(envelope))
        crash("after-store")
