"""Who gets a key: every policy, for a key that is free, held, expired, or held by another payload."""

from __future__ import annotations

import pytest

from asya.envelope import Route
from asya.tasks.key_reservation import HeldKey, KeyDecision, KeyPolicy, KeyReservation, decide
from asya.tasks.rules import TaskRow

NOW, EARLIER, LATER = (f"2026-01-01T0{hour}:00:00.000Z" for hour in (5, 4, 6))


def reservation(policy: KeyPolicy = "return-existing") -> KeyReservation:
    return KeyReservation("flow:f", "k", policy, b"digest", NOW, LATER)


def holder(status: str = "running") -> TaskRow:
    row = TaskRow(id="t", root="t", route=Route([], "a", []), created_at=NOW, updated_at=NOW)
    row.status = status
    return row


@pytest.mark.parametrize(
    ("policy", "digest", "decision"),
    [
        ("return-existing", b"digest", "same"),
        ("return-existing", b"other", "reused"),
        ("reject", b"digest", "taken"),
        ("reject", b"other", "taken"),
        ("replace", b"digest", "replace"),
        ("replace", b"other", "replace"),
    ],
)
def test_a_key_that_is_held(policy: KeyPolicy, digest: bytes, decision: KeyDecision) -> None:
    for expires_at in (LATER, None):
        assert decide(reservation(policy), HeldKey(digest, expires_at), holder()) == decision


@pytest.mark.parametrize(
    ("held", "by"),
    [
        (None, None),
        (HeldKey(b"digest", LATER), None),
        (HeldKey(b"digest", EARLIER), holder()),
        (HeldKey(b"digest", NOW), holder()),
        (HeldKey(b"digest", None), holder("succeeded")),
    ],
)
def test_a_key_that_is_free(held: HeldKey | None, by: TaskRow | None) -> None:
    for policy in ("return-existing", "reject", "replace"):
        assert decide(reservation(policy), held, by) == "free"


def test_a_key_with_an_expiry_is_held_after_its_task_has_ended() -> None:
    held = HeldKey(b"digest", LATER)
    assert decide(reservation("reject"), held, holder("succeeded")) == "taken"


def test_no_id_is_the_mark_of_a_key() -> None:
    assert " " in reservation().mark
