"""Decides who holds an idempotency key. Pure; shared by all stores.

A key belongs to a scope (a flow, a route, a schedule) and to the task that was admitted with it.
The task holds it until the key expires or, with the life `active`, until the task has ended. A
store calls `decide` inside the transaction that inserts the new task, so that of two requests with
one key only one is admitted.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from asya.tasks.rules import TaskRow

KeyPolicy = Literal["return-existing", "reject", "replace"]
KeyDecision = Literal["free", "same", "taken", "reused", "replace"]


class KeyReservation(msgspec.Struct, frozen=True):
    """A key that a new task asks for.

    Attributes:
        scope: What the key counts for: `flow:NAME`, `route:a,b`, `schedule:NAME`.
        key: The client's key.
        policy: What to do when another task holds it.
        digest: Of the payload, to tell a repeated request from another one with the same key.
        at: The time now.
        expires_at: Until when the new task holds it; None for until it has ended.
    """

    scope: str
    key: str
    policy: KeyPolicy
    digest: bytes
    at: str
    expires_at: str | None

    @property
    def mark(self) -> str:
        """A name for the pair of scope and key that no id can have."""
        return f"{self.scope} {self.key}"


class HeldKey(msgspec.Struct, frozen=True):
    """A key as it is stored."""

    digest: bytes
    expires_at: str | None


def decide(
    reservation: KeyReservation, held: HeldKey | None, holder: TaskRow | None
) -> KeyDecision:
    """What a reservation leads to.

    Args:
        reservation: What is asked for.
        held: The key as stored, or None.
        holder: The task that it was stored for, None when that was forgotten.

    Returns:
        `free`: the new task gets it; `same`: the holder is the answer; `taken`: refused;
        `reused`: refused, since it came with another payload; `replace`: the holder is canceled.
    """
    if held is None or holder is None:
        return "free"
    over = holder.ended if held.expires_at is None else held.expires_at <= reservation.at
    if over:
        return "free"
    if reservation.policy == "replace":
        return "replace"
    if reservation.policy == "reject":
        return "taken"
    return "same" if held.digest == reservation.digest else "reused"
