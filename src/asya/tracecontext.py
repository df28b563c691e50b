"""W3C Trace Context in envelopes: every hop is a span, child of the hop before.

The span id of a hop is derived from (envelope id, hop, attempt), so nobody has to remember it:
`decide` writes the next `traceparent` from what it has, and whoever makes spans from events finds
the same id. Nothing here needs an SDK, and an envelope without the header `traceparent` costs one
look into a dictionary. A value that is no traceparent travels on untouched, like any header.

Called by `sidecar.decide`, `sidecar.replica` and the makers of spans.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from msgspec import Raw

from asya.envelope import Envelope, raw_json

TRACEPARENT: Final = "traceparent"

SAMPLED: Final = 0x01
"""Bit of the flags: somebody records this trace."""

_FORM: Final = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16


class Trace(NamedTuple):
    """A valid `traceparent`: ids in hex, `flags` as a number."""

    trace_id: str
    span_id: str
    flags: int

    @property
    def sampled(self) -> bool:
        """Whether the caller records this trace."""
        return bool(self.flags & SAMPLED)

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


def parse(text: str) -> Trace | None:
    """The parts of a `traceparent`, or None where it is none."""
    match = _FORM.fullmatch(text)
    if match is None or (match[5] is not None and match[1] == "00"):
        return None
    if match[2] == _NO_TRACE or match[3] == _NO_SPAN:
        return None
    return Trace(match[2], match[3], int(match[4], 16))


def span_id(envelope_id: str, hop: int, attempt: int, kind: str = "hop") -> str:
    """The id of a hop's span: 16 hex digits, the same wherever it is asked for.

    Args:
        envelope_id: The envelope.
        hop: Its hop number, from 0.
        attempt: From 1.
        kind: Tells several spans of one hop apart.
    """
    digest = hashlib.sha256(f"{kind}:{envelope_id}:{hop}:{attempt}".encode()).hexdigest()[:16]
    return digest if digest != _NO_SPAN else "1".zfill(16)


def received(envelope: Envelope) -> Trace | None:
    """The trace that an envelope belongs to; its `span_id` is the parent of the next hop."""
    if TRACEPARENT not in envelope.headers:
        return None
    text = envelope.header_text(TRACEPARENT)
    return None if text is None else parse(text)


def of_hop(envelope: Envelope) -> Raw | None:
    """The `traceparent` of the hop that the envelope makes now, as the header's raw value.

    None where the envelope carries no valid one.
    """
    trace = received(envelope)
    if trace is None:
        return None
    own = span_id(envelope.id, envelope.hop, envelope.status.attempt)
    return raw_json(str(trace._replace(span_id=own)))


def headers_of_call(envelope: Envelope) -> Mapping[str, Raw]:
    """The headers as the handler sees them: `traceparent` names the hop's own span."""
    if TRACEPARENT not in envelope.headers:
        return envelope.headers
    own = of_hop(envelope)
    return envelope.headers if own is None else {**envelope.headers, TRACEPARENT: own}
