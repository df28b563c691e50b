"""Whose payloads a sidecar hands over with its events, to be kept and looked at.

It hands over the bytes that it holds anyway; capping and masking happen where they are stored.
A payload that was checked in (claim check) stays where it is: only its reference went by.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final, Literal

from msgspec import Raw

from asya.envelope import BLOB_HEADER, Envelope

Mode = Literal["none", "errors", "sample", "all"]

_WHOLE: Final = 2**32


@dataclass(frozen=True)
class Capture:
    """Which payloads are captured.

    Attributes:
        mode: None, those of failed attempts (what came in), those of some envelopes, or all.
        share: Of all envelopes, for `sample`: an envelope is taken at all its hops or at none.
    """

    mode: Mode = "none"
    share: float = 0.01

    def before(self, envelope: Envelope) -> Raw | None:
        """What the handler is given, where that is captured before anybody knows how it ends."""
        return _payload(envelope) if self._wants(envelope.id) else None

    def after_error(self, envelope: Envelope) -> Raw | None:
        """What the handler was given, where it is captured because of its failure."""
        return _payload(envelope) if self.mode == "errors" else None

    def after(self, envelope: Envelope, made: Envelope) -> Raw | None:
        """What the handler made of an envelope."""
        return _payload(made) if self._wants(envelope.id) else None

    def _wants(self, envelope_id: str) -> bool:
        if self.mode == "sample":
            return zlib.crc32(envelope_id.encode("utf-8", "replace")) < self.share * _WHOLE
        return self.mode == "all"


def _payload(envelope: Envelope) -> Raw | None:
    return None if BLOB_HEADER in envelope.headers else envelope.payload
