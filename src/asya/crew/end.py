"""From an envelope at its end to what the ledger keeps of it. Pure."""

from __future__ import annotations

from asya.envelope import FLOW_HEADER, TERMINAL_PHASES, Envelope
from asya.events import Finished


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
