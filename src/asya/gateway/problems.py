"""Everything the HTTP face refuses: one table of problems (RFC 9457), one exception.

Raised by the task service and the face alike; `app` turns them into documents. The name is the
stable part that clients switch on, the detail says what was wrong, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from asya.errors import AsyaError
from asya.gateway.views import Fault, Problem

KINDS: Final[dict[str, tuple[int, str]]] = {
    "bad-request": (400, "The request cannot be read"),
    "not-json": (400, "The body is not JSON"),
    "forbidden-origin": (403, "Not for web pages of other sites"),
    "not-found": (404, "There is no such resource"),
    "unknown-flow": (404, "There is no such flow"),
    "unknown-envelope": (404, "There is no such envelope"),
    "method-not-allowed": (405, "The resource does not take this method"),
    "body-timeout": (408, "The body did not arrive in time"),
    "id-conflict": (409, "The id belongs to another envelope"),
    "key-taken": (409, "Another envelope holds the idempotency key"),
    "too-large": (413, "The request is too large"),
    "not-json-type": (415, "The media type is not JSON"),
    "invalid": (422, "The request does not fit"),
    "invalid-payload": (422, "The payload does not fit the flow's input schema"),
    "key-reused": (422, "The idempotency key came with another payload before"),
    "unknown-actor": (422, "The route names an actor that does not exist"),
    "queue-full": (429, "Too much waits already"),
    "too-many-streams": (429, "Too many event streams are open"),
    "internal": (500, "The gateway made a mistake"),
    "unavailable": (503, "The mesh cannot take envelopes now"),
    "store-unavailable": (503, "The task store cannot be used now"),
    "disk-full": (507, "The disk is full"),
}
"""Status and title by name; `urn:asya:problem:NAME` is the document's type."""


class ProblemError(AsyaError):
    """A request that is refused.

    Attributes:
        document: What the client gets.
        retry_after_s: Seconds for the header `Retry-After`, or None.
        allow: Methods for the header `Allow` of a 405, or None.
    """

    def __init__(
        self,
        name: str,
        detail: str,
        *,
        id: str | None = None,
        nearest: str | None = None,
        errors: Sequence[Fault] | None = None,
        retry_after_s: int | None = None,
        allow: str | None = None,
    ) -> None:
        status, title = KINDS[name]
        self.document = Problem(
            f"urn:asya:problem:{name}",
            title,
            status,
            detail,
            id=id,
            nearest=nearest,
            errors=list(errors) if errors else None,
        )
        self.retry_after_s = retry_after_s
        self.allow = allow
        super().__init__(detail)
