"""Idempotency keys: a client's own key for a request, so that the request repeated runs once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, get_args

from msgspec import Raw

from asya.clock import to_rfc3339
from asya.tasks.admission import digest
from asya.tasks.key_reservation import KeyDecision, KeyPolicy, KeyReservation
from asya.tasks.mesh import Idempotency
from asya.tasks.refusals import Kind, Refusal

POLICIES: Final[tuple[KeyPolicy, ...]] = get_args(KeyPolicy)


@dataclass(frozen=True)
class IdempotencyKey:
    """A key that a request came with, what it counts for, and its rules."""

    scope: str
    key: str
    rules: Idempotency

    def reservation(self, payload: Raw, now: datetime) -> KeyReservation:
        """What the store is asked for, together with the new task."""
        life_s = self.rules.life_s
        expires = None if life_s is None else to_rfc3339(now + timedelta(seconds=life_s))
        return KeyReservation(
            self.scope,
            self.key,
            self.rules.policy,
            digest((), payload),
            to_rfc3339(now),
            expires,
        )


def refused_key(decision: KeyDecision, reservation: KeyReservation, holder: str) -> Refusal:
    """The refusal of a key that another task holds."""
    if decision == "reused":
        detail = (
            f"the key {reservation.key!r} came with another payload before, and belongs to the envelope "
            f"{holder}; a new payload needs a new key"
        )
        return Refusal(Kind.KEY_REUSED, detail, id=holder)
    return Refusal(
        Kind.KEY_TAKEN, f"the key {reservation.key!r} belongs to the envelope {holder}", id=holder
    )
