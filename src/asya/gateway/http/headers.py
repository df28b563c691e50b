"""Headers that a sent envelope comes with: its idempotency key, and its trace context.

`Idempotency-Key` follows the IETF draft of that name: a string in quotes, or the bare characters.
What a key leads to is decided in `tasks/key_reservation.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, cast

from starlette.requests import Request

from asya.gateway.http.query import read
from asya.gateway.http.requests import KeyHeaders
from asya.gateway.middleware import TRACE
from asya.tasks.admission import seconds
from asya.tasks.idempotency import IdempotencyKey
from asya.tasks.key_reservation import KeyPolicy
from asya.tasks.mesh import Idempotency
from asya.tasks.refusals import Refusal
from asya.tracecontext import TRACEPARENT

KEY_HEADER: Final = "Idempotency-Key"
POLICY_HEADER: Final = "Idempotency-Policy"
LIFE_HEADER: Final = "Idempotency-Life"
REPLAYED_HEADER: Final = "Idempotent-Replayed"

TRACE_HEADERS: Final = (TRACEPARENT, "tracestate")
"""HTTP headers (W3C Trace Context) that become headers of the envelope."""

ACTIVE: Final = "active"
KEY_MAX: Final = 255
"""Characters of a key."""

_KEY: Final = re.compile(rf"[\x21-\x7e]([\x20-\x7e]{{0,{KEY_MAX - 2}}}[\x21-\x7e])?")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\["\\])*)"')


def read_key(headers: Mapping[str, str], scope: str, rules: Idempotency) -> IdempotencyKey | None:
    """The idempotency key of a request, or None.

    Args:
        headers: Of the request.
        scope: What the key counts for, such as `flow:search`.
        rules: They hold unless the request gives its own.

    Raises:
        Refusal: The key, its policy or its life cannot be used.
    """
    given = read(KeyHeaders, headers, where="")
    if given.key is None:
        for name, value in ((POLICY_HEADER, given.policy), (LIFE_HEADER, given.life)):
            if value is not None:
                raise _invalid(name, f"has a meaning together with {KEY_HEADER} only")
        return None
    quoted = _QUOTED.fullmatch(given.key.strip())
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else given.key.strip()
    if not _KEY.fullmatch(key):
        raise _invalid(KEY_HEADER, f"expected 1 to {KEY_MAX} printable ASCII characters")
    policy = rules.policy if given.policy is None else cast("KeyPolicy", given.policy)
    life_s = rules.life_s if given.life is None else _life_s(given.life.strip())
    return IdempotencyKey(scope, key, Idempotency(policy, life_s))


def _life_s(given: str) -> float | None:
    if given == ACTIVE:
        return None
    found = seconds(given, LIFE_HEADER)
    if found <= 0:
        expected = f"expected `{ACTIVE}` or a duration longer than 0, got {given!r}"
        raise _invalid(LIFE_HEADER, expected)
    return found


def _invalid(header: str, message: str) -> Refusal:
    return Refusal.invalid(f"{header}: {message}", header, message)


def trace_headers(request: Request) -> dict[str, Any]:
    """The trace context that the request's envelope gets: of its span, or of its headers."""
    found = {name: request.headers.get(name) for name in TRACE_HEADERS}
    found[TRACEPARENT] = request.scope.get(TRACE, found[TRACEPARENT])
    return {name: value for name, value in found.items() if value}
