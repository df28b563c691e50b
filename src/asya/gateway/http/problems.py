"""Problem documents (RFC 9457): one table from the kind of a refusal to its HTTP status and title.

The task service raises a `Refusal`. What only HTTP can refuse (a body that is no JSON, an unknown
path) is an `HttpProblem`. `app` turns both into documents. Clients switch on the `type`, which has
the code and the name of the kind; the `detail` says what was wrong, where, and what to do.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from asya.codes import Code
from asya.errors import AsyaError
from asya.gateway.http.views import Problem
from asya.tasks.refusals import Kind, Refusal


class ProblemType(NamedTuple):
    """A row of the table: the HTTP status, a title, and the code whose page tells the rest."""

    status: int
    title: str
    code: Code


PROBLEM_TYPES: Final[dict[str, ProblemType]] = {
    "bad-request": ProblemType(400, "The request cannot be read", Code.BAD_REQUEST),
    "not-json": ProblemType(400, "The body is not JSON", Code.NOT_JSON),
    "forbidden-origin": ProblemType(403, "Not for web pages of other sites", Code.FORBIDDEN_ORIGIN),
    "method-not-allowed": ProblemType(
        405, "The resource does not take this method", Code.METHOD_NOT_ALLOWED
    ),
    "body-timeout": ProblemType(408, "The body did not arrive in time", Code.BODY_TIMEOUT),
    "result-gone": ProblemType(
        410, "The result is not in the blob store any more", Code.BLOB_MISSING
    ),
    "not-json-type": ProblemType(415, "The media type is not JSON", Code.NOT_JSON_TYPE),
    "too-many-streams": ProblemType(429, "Too many event streams are open", Code.TOO_MANY_STREAMS),
} | {
    kind: ProblemType(status, title, kind.code)
    for kind, status, title in (
        (Kind.NOT_FOUND, 404, "There is no such resource"),
        (Kind.UNKNOWN_FLOW, 404, "There is no such flow"),
        (Kind.UNKNOWN_ENVELOPE, 404, "There is no such envelope"),
        (Kind.UNKNOWN_SCHEDULE, 404, "There is no such schedule"),
        (Kind.ID_CONFLICT, 409, "The id belongs to another envelope"),
        (Kind.NOT_DEAD, 409, "The envelope is no dead letter"),
        (Kind.KEY_TAKEN, 409, "Another envelope holds the idempotency key"),
        (Kind.TOO_LARGE, 413, "The request is too large"),
        (Kind.INVALID, 422, "The request does not fit"),
        (Kind.INVALID_PAYLOAD, 422, "The payload does not fit the flow's input schema"),
        (Kind.KEY_REUSED, 422, "The idempotency key came with another payload before"),
        (Kind.UNKNOWN_ACTOR, 422, "The route names an actor that does not exist"),
        (Kind.QUEUE_FULL, 429, "Too much waits already"),
        (Kind.INTERNAL, 500, "The gateway made a mistake"),
        (Kind.UNAVAILABLE, 503, "The mesh cannot take envelopes now"),
        (Kind.BLOBS_UNAVAILABLE, 503, "The blob store cannot be used now"),
        (Kind.STORE_UNAVAILABLE, 503, "The task store cannot be used now"),
        (Kind.DISK_FULL, 507, "The disk is full"),
    )
}
"""By name: first what only HTTP refuses, then every kind of refusal of the task service."""


class HttpProblem(AsyaError):
    """A request that HTTP itself refuses: the task service never sees it.

    Attributes:
        name: A key of `PROBLEM_TYPES`.
        text: What is wrong, what was expected, what to do.
        id: The envelope that it is about, or None.
        retry_after_s: Seconds for the header `Retry-After`, or None.
        allow: Methods for the header `Allow` of a 405, or None.
    """

    code = Code.REFUSED

    def __init__(
        self,
        name: str,
        text: str,
        *,
        id: str | None = None,
        retry_after_s: int | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(text, code=PROBLEM_TYPES[name].code)
        self.name = name
        self.text = text
        self.id = id
        self.retry_after_s = retry_after_s
        self.allow = allow


def type_of(name: str) -> str:
    """The URN of a problem: `urn:asya:problem:ASYA-6006:unknown-flow`."""
    return f"urn:asya:problem:{PROBLEM_TYPES[name].code}:{name}"


def problem_of(error: Refusal | HttpProblem) -> Problem:
    """The problem document of a refused request."""
    name = error.kind if isinstance(error, Refusal) else error.name
    status, title, code = PROBLEM_TYPES[name]
    problem = Problem(type_of(name), title, status, error.text, str(code), id=error.id)
    if isinstance(error, Refusal):
        problem.nearest = error.nearest
        problem.retried_as = error.retried_as
        problem.errors = list(error.faults) or None
    return problem
