"""From settings and manifests to what is kept of payloads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asya.codes import Code
from asya.errors import UsageError
from asya.sidecar.capture import Capture
from asya.tasks.diagnosis.facts import Capturing
from asya.tasks.store.payloads import Keeping, read_mask

if TYPE_CHECKING:
    from asya.manifest import AsyncActor
    from asya.settings import Settings


def capturing(settings: Settings) -> Capturing:
    """How payloads are kept.

    Raises:
        UsageError: A mask is no path.
    """
    masks = []
    for text in settings.capture_mask:
        try:
            masks.append(read_mask(text))
        except ValueError as error:
            raise UsageError(f"captureMask: {text!r}: {error}", code=Code.SETTINGS) from error
    keeping = Keeping(settings.capture_max_bytes, tuple(masks))
    return Capturing(keeping, settings.capture_age_s)


def capture_of(actor: AsyncActor, settings: Settings) -> Capture:
    """Which payloads the sidecar of an actor hands over."""
    mode = actor.spec.capture or settings.capture
    if not settings.capture_count:
        mode = "none"
    return Capture(mode, settings.capture_sample)  # type: ignore[arg-type]  # one of CAPTURES
