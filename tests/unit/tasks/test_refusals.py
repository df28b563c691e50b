"""Refusals: what a caller can tell from one, and what becomes of a store's trouble."""

from __future__ import annotations

import pytest

from asya.errors import StoreError, StoreFull
from asya.tasks.refusals import (
    RETRY_AFTER_S,
    TRANSIENT,
    Fault,
    Kind,
    Refusal,
    refuses_store_errors,
    store_refusal,
)


@pytest.mark.parametrize("kind", Kind)
def test_a_kind_is_its_name_and_has_a_code_of_its_own(kind: Kind) -> None:
    assert f"{kind}" == kind.value
    refusal = Refusal(kind, "no")
    assert (refusal.code, str(refusal)) == (kind.code, "no")
    assert refusal.transient is (kind in TRANSIENT)


def test_codes_are_not_shared() -> None:
    assert len({kind.code for kind in Kind}) == len(Kind)


def test_a_wrong_value_has_one_fault() -> None:
    refusal = Refusal.invalid("?wait: too long", "?wait", "too long", id="e", nearest="n")
    assert refusal.faults == (Fault("?wait", "too long"),)
    assert (refusal.kind, refusal.id, refusal.nearest) == (Kind.INVALID, "e", "n")
    assert Refusal.invalid("no", "$").faults == (Fault("$", "no"),)


@pytest.mark.parametrize(
    ("error", "kind"),
    [(StoreError("locked"), Kind.STORE_UNAVAILABLE), (StoreFull("full"), Kind.DISK_FULL)],
)
async def test_a_stores_trouble_is_refused_and_passes(error: StoreError, kind: Kind) -> None:
    @refuses_store_errors
    async def asked(value: int) -> int:
        if value:
            raise error
        return value

    assert await asked(0) == 0
    with pytest.raises(Refusal) as caught:
        await asked(1)
    assert (caught.value.kind, caught.value.retry_after_s) == (kind, RETRY_AFTER_S)
    assert caught.value.__cause__ is error
    assert store_refusal(error).transient
