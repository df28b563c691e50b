"""Idempotency keys and begin times as clients give them: read, checked, made into values.

`Idempotency-Key` follows the IETF draft of that name: a string in quotes, or the bare characters.
Called by `endpoints`; what a key leads to is decided in `store.keys`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, get_args

from msgspec import Raw

from asya.clock import from_rfc3339, to_rfc3339
from asya.durations import parse_duration
from asya.errors import nearest
from asya.tasks.admission import TIMEOUT_MAX_S, digest, seconds
from asya.tasks.key_reservation import KeyDecision, KeyPolicy, KeyReservation
from asya.tasks.mesh import Idempotency
from asya.tasks.refusals import Fault, Kind, Refusal

KEY_HEADER: Final = "Idempotency-Key"
POLICY_HEADER: Final = "Idempotency-Policy"
LIFE_HEADER: Final = "Idempotency-Life"
REPLAYED_HEADER: Final = "Idempotent-Replayed"
POLICIES: Final[tuple[KeyPolicy, ...]] = get_args(KeyPolicy)
ACTIVE: Final = "active"
KEY_MAX: Final = 255
"""Characters of a key."""

_KEY: Final = re.compile(rf"[\x21-\x7e]([\x20-\x7e]{{0,{KEY_MAX - 2}}}[\x21-\x7e])?")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\["\\])*)"')


@dataclass(frozen=True)
class AdmissionKey:
    """A key that a request came with, what it counts for, and its rules."""

    scope: str
    key: str
    rules: Idempotency

    def reservation(self, payload: Raw, now: datetime) -> KeyReservation:
        """What the store is asked for."""
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


def read_key(headers: Mapping[str, str], scope: str, rules: Idempotency) -> AdmissionKey | None:
    """The key of a request, or None.

    Args:
        headers: Of the request.
        scope: What the key counts for.
        rules: Where the request does not give its own.

    Raises:
        Refusal: It, its policy or its life cannot be used.
    """
    given = headers.get(KEY_HEADER)
    policy, life = headers.get(POLICY_HEADER), headers.get(LIFE_HEADER)
    if given is None:
        for name, value in ((POLICY_HEADER, policy), (LIFE_HEADER, life)):
            if value is not None:
                raise _bad(name, f"has a meaning together with {KEY_HEADER} only")
        return None
    quoted = _QUOTED.fullmatch(given.strip())
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else given.strip()
    if not _KEY.fullmatch(key):
        raise _bad(KEY_HEADER, f"expected 1 to {KEY_MAX} printable ASCII characters")
    own = rules.policy if policy is None else _policy(policy.strip())
    life_s = rules.life_s if life is None else _life(life.strip())
    return AdmissionKey(scope, key, Idempotency(own, life_s))


def _policy(given: str) -> KeyPolicy:
    if given not in POLICIES:
        close = nearest(given, POLICIES)
        hint = f"; did you mean {close}?" if close else ""
        raise _bad(POLICY_HEADER, f"expected {' | '.join(POLICIES)}, got {given!r}{hint}")
    return given


def _life(given: str) -> float | None:
    if given == ACTIVE:
        return None
    found = seconds(given, LIFE_HEADER)
    if found <= 0:
        raise _bad(LIFE_HEADER, f"expected `{ACTIVE}` or a duration longer than 0, got {given!r}")
    return found


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


def begin_time(
    not_before: str | None, delay: str | float | None, now: datetime, where: str
) -> datetime | None:
    """When an envelope may begin, or None for at once.

    Args:
        not_before: RFC 3339, or a duration from now.
        delay: A duration from now, or a number of seconds.
        now: The time.
        where: What stands before the names in the refusals: `?` or `$.`.

    Raises:
        Refusal: Neither form, both fields, or over a year ahead.
    """
    if not_before is not None and delay is not None:
        raise _bad(f"{where}delay", f"give {where}not_before or {where}delay, not both")
    if delay is not None:
        return now + timedelta(seconds=seconds(delay, f"{where}delay"))
    if not_before is None:
        return None
    place = f"{where}not_before"
    try:
        return now + timedelta(seconds=parse_duration(not_before))
    except (ValueError, OverflowError):
        pass
    try:
        moment = from_rfc3339(not_before)
    except (ValueError, OverflowError) as error:
        raise _bad(
            place,
            "expected a time such as 2026-11-23T18:25:00Z (RFC 3339, with an offset) or a "
            f"duration such as 10m, got {not_before!r}",
        ) from error
    if moment - now > timedelta(seconds=TIMEOUT_MAX_S):
        raise _bad(place, "expected a time within the next year")
    return moment


def _bad(place: str, detail: str) -> Refusal:
    return Refusal(Kind.INVALID, f"{place}: {detail}", faults=[Fault(place, detail)])
