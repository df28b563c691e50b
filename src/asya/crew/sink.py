"""`x-sink`: the end of every envelope. Stores its terminal state before anybody acks."""

from __future__ import annotations

from typing import Final

from asya.crashpoints import crash
from asya.crew.sump import Sump
from asya.envelope import FLOW_HEADER, TERMINAL_PHASES, Envelope
from asya.events import Finished, Ledger

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


def finished(envelope: Envelope) -> Finished:
    """The end of an envelope as the ledger keeps it.

    A phase that is none of the terminal ones stands for an envelope that was sent to the sink by
    hand: it succeeded.
    """
    status = envelope.status
    phase = status.phase if status.phase in TERMINAL_PHASES else "succeeded"
    has_result = phase == "succeeded" or status.reason == "PolicyRouted"
    return Finished(
        id=envelope.id,
        phase=phase,
        at=status.updated_at,
        n=envelope.hop,
        root=envelope.root,
        route=envelope.route,
        created_at=status.created_at,
        attempt=status.attempt,
        parent_id=envelope.parent_id,
        flow=envelope.header_text(FLOW_HEADER),
        reason=status.reason,
        error=status.error,
        result=envelope.payload if has_result else None,
        headers=envelope.headers,
        deadline_at=status.deadline_at,
    )
