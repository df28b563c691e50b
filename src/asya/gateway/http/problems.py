"""Everything the HTTP face refuses: one table of problems (RFC 9457), one exception.

Raised by the task service and the face alike; `app` turns them into documents. The name is the
stable part that clients switch on, the detail says what was wrong, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from asya.codes import Code
from asya.errors import AsyaError
from asya.gateway.http.views import Fault, Problem


class Kind(NamedTuple):
    """A row of the table: the HTTP status, a title, and the code whose page tells the rest."""

    status: int
    title: str
    code: Code


KINDS: Final[dict[str, Kind]] = {
    "bad-request": Kind(400, "The request cannot be read", Code.BAD_REQUEST),
    "not-json": Kind(400, "The body is not JSON", Code.NOT_JSON),
    "forbidden-origin": Kind(403, "Not for web pages of other sites", Code.FORBIDDEN_ORIGIN),
    "not-found": Kind(404, "There is no such resource", Code.NOT_FOUND),
    "unknown-flow": Kind(404, "There is no such flow", Code.UNKNOWN_FLOW),
    "unknown-envelope": Kind(404, "There is no such envelope", Code.UNKNOWN_ENVELOPE),
    "unknown-schedule": Kind(404, "There is no such schedule", Code.UNKNOWN_SCHEDULE),
    "method-not-allowed": Kind(
        405, "The resource does not take this method", Code.METHOD_NOT_ALLOWED
    ),
    "body-timeout": Kind(408, "The body did not arrive in time", Code.BODY_TIMEOUT),
    "result-gone": Kind(410, "The result is not in the blob store any more", Code.BLOB_MISSING),
    "id-conflict": Kind(409, "The id belongs to another envelope", Code.ID_CONFLICT),
    "not-dead": Kind(409, "The envelope is no dead letter", Code.NOT_DEAD),
    "key-taken": Kind(409, "Another envelope holds the idempotency key", Code.KEY_TAKEN),
    "too-large": Kind(413, "The request is too large", Code.REQUEST_TOO_LARGE),
    "not-json-type": Kind(415, "The media type is not JSON", Code.NOT_JSON_TYPE),
    "invalid": Kind(422, "The request does not fit", Code.INVALID_REQUEST),
    "invalid-payload": Kind(
        422, "The payload does not fit the flow's input schema", Code.INVALID_PAYLOAD
    ),
    "key-reused": Kind(
        422, "The idempotency key came with another payload before", Code.KEY_REUSED
    ),
    "unknown-actor": Kind(422, "The route names an actor that does not exist", Code.UNKNOWN_ROUTE),
    "queue-full": Kind(429, "Too much waits already", Code.QUEUE_FULL),
    "too-many-streams": Kind(429, "Too many event streams are open", Code.TOO_MANY_STREAMS),
    "internal": Kind(500, "The gateway made a mistake", Code.GATEWAY_INTERNAL),
    "unavailable": Kind(503, "The mesh cannot take envelopes now", Code.UNAVAILABLE),
    "blobs-unavailable": Kind(503, "The blob store cannot be used now", Code.BLOB_UNAVAILABLE),
    "store-unavailable": Kind(503, "The task store cannot be used now", Code.STORE_UNAVAILABLE),
    "disk-full": Kind(507, "The disk is full", Code.DISK_FULL),
}
"""By name; the document's type carries code and name, see `type_of`."""


def type_of(name: str) -> str:
    """The URN of a problem: `urn:asya:problem:ASYA-6006:unknown-flow`."""
    return f"urn:asya:problem:{KINDS[name].code}:{name}"


class ProblemError(AsyaError):
    """A request that is refused.

    Attributes:
        document: What the client gets.
        retry_after_s: Seconds for the header `Retry-After`, or None.
        allow: Methods for the header `Allow` of a 405, or None.
    """

    code = Code.REFUSED

    def __init__(
        self,
        name: str,
        detail: str,
        *,
        id: str | None = None,
        nearest: str | None = None,
        retried_as: str | None = None,
        errors: Sequence[Fault] | None = None,
        retry_after_s: int | None = None,
        allow: str | None = None,
    ) -> None:
        status, title, code = KINDS[name]
        self.document = Problem(
            type_of(name),
            title,
            status,
            detail,
            str(code),
            id=id,
            nearest=nearest,
            retried_as=retried_as,
            errors=list(errors) if errors else None,
        )
        self.retry_after_s = retry_after_s
        self.allow = allow
        super().__init__(detail, code=code)
