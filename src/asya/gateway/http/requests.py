"""What clients may ask: every query, header and body of the HTTP API.

The OpenAPI document is made from these structs (`query` has the parameters, msgspec the bodies).
Raw fields are bytes that go on as they came in.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw

from asya.gateway.http.query import Parameter, choice, cursor, duration, flag, text, whole
from asya.tasks.admission import ID_PATTERN
from asya.tasks.idempotency import POLICIES
from asya.tasks.store.payloads import SIDES

LIST_MAX: Final = 500
"""Entries on one page at most."""

BATCH_MAX: Final = 500
"""Dead letters that one request deals with at most."""

DurationText = Annotated[
    str | int | float,
    Meta(description="A duration such as `500ms`, `30s`, `1h30m`, or a number of seconds"),
]

STATUSES: Final = ("pending", "running", "paused", "succeeded", "failed", "canceled")
LETTER_STATES: Final = ("dead", "retried", "purged")

PATH_PARAMETERS: Final[dict[str, Parameter]] = {
    "flow": text("The flow's name"),
    "id": text("The envelope's id"),
    "n": whole("Hop number, from 0", 0),
    "name": text("The schedule's name"),
}
"""The parts of a path by name."""

_WAIT: Final = duration(
    "Hold on until the envelope has ended, at most so long (and at most 10 minutes): `30s`, `1.5`"
)
_CLIENT_ID: Final = "An id of the client's own: the same id again is the same"
_PAGE_CURSOR: Final = cursor("`next_cursor` of the page before")


class FlowQuery(msgspec.Struct, frozen=True):
    """`POST /v1/flows/{flow}`."""

    wait: Annotated[float | None, _WAIT] = None
    timeout: Annotated[
        float | None, duration("Time to the deadline, in place of the flow's: `30s`")
    ] = None
    id: Annotated[str | None, text(f"{_CLIENT_ID} task", pattern=ID_PATTERN)] = None
    not_before: Annotated[
        str | None,
        text("When it may begin: RFC 3339, or a duration from now such as `10m`"),
    ] = None
    delay: Annotated[float | None, duration("The same as a duration; not both")] = None


class EnvelopeQuery(msgspec.Struct, frozen=True):
    """`POST /v1/envelopes`."""

    wait: Annotated[float | None, _WAIT] = None


class KeyHeaders(msgspec.Struct, frozen=True):
    """Headers of a request that sends an envelope under an idempotency key."""

    key: Annotated[
        str | None,
        text(
            "A key of the client's own (IETF idempotency-key-header): what happens to a second "
            "request with it says the policy",
            name="Idempotency-Key",
        ),
    ] = None
    policy: Annotated[
        str | None,
        choice(
            "In place of the flow's: `return-existing` answers the task that holds the key, "
            "`reject` refuses, `replace` cancels that task and admits the new one",
            POLICIES,
            name="Idempotency-Policy",
            strip=True,
        ),
    ] = None
    life: Annotated[
        str | None,
        text(
            "In place of the flow's: how long the task holds its key: `active` (until it has "
            "ended) or a duration such as `24h`",
            name="Idempotency-Life",
        ),
    ] = None


class EnvelopesQuery(msgspec.Struct, frozen=True):
    """`GET /v1/envelopes`."""

    status: Annotated[str | None, choice("Only this status", STATUSES)] = None
    flow: Annotated[str | None, text("Only this flow")] = None
    actor: Annotated[str | None, text("Only with this actor in the route, passed or to come")] = (
        None
    )
    root: Annotated[str | None, text("Only this root and its fan-out children")] = None
    stuck: Annotated[
        bool | None, flag("Only those that stand still (`true`), or that do not (`false`)")
    ] = None
    limit: Annotated[int, whole("Envelopes on the page", 1, LIST_MAX)] = 50
    cursor: Annotated[int | None, _PAGE_CURSOR] = None


class PayloadQuery(msgspec.Struct, frozen=True):
    """`GET /v1/envelopes/{id}/hops/{n}/payload`."""

    side: Annotated[str, choice("What came to the handler, or what it emitted first", SIDES)] = "in"
    attempt: Annotated[
        int | None,
        whole("Of this attempt; without it of the newest that something is kept of", 1),
    ] = None


class EventsHeaders(msgspec.Struct, frozen=True):
    """`GET /v1/envelopes/{id}/events`."""

    last_event_id: Annotated[
        int | None, whole("Number of the last event that was seen", 0, name="Last-Event-ID")
    ] = None


class DeadLettersQuery(msgspec.Struct, frozen=True):
    """`GET /v1/dead`."""

    group: Annotated[
        str,
        choice(
            "`fingerprint`: one entry per actor and error; `none`: the letters",
            ("fingerprint", "none"),
        ),
    ] = "fingerprint"
    actor: Annotated[str | None, text("Only of this actor")] = None
    reason: Annotated[str | None, text("Only with this reason, such as `PolicyExhausted`")] = None
    fingerprint: Annotated[str | None, text("Only about this error")] = None
    status: Annotated[
        str,
        choice("Those that wait for somebody, were sent again, or were thrown away", LETTER_STATES),
    ] = "dead"
    limit: Annotated[int, whole("Entries on the page", 1, LIST_MAX)] = 50
    cursor: Annotated[int | None, _PAGE_CURSOR] = None


class RunQuery(msgspec.Struct, frozen=True):
    """`POST /v1/schedules/{name}/run`."""

    id: Annotated[str | None, text(f"{_CLIENT_ID} run", pattern=ID_PATTERN)] = None


class EnvelopeRequest(msgspec.Struct, forbid_unknown_fields=True):
    """An envelope with a route of its own."""

    route: Annotated[list[str], Meta(description="Actor names, at least one")]
    payload: Annotated[Raw, Meta(description="Any JSON value")]
    headers: dict[str, Raw] | None = None
    timeout: DurationText | None = None
    id: Annotated[
        str | None, Meta(description="Chosen by the client: the same id again is the same task")
    ] = None
    not_before: Annotated[
        str | None,
        Meta(description="When it may begin: RFC 3339, or a duration from now such as `10m`"),
    ] = None
    delay: Annotated[DurationText | None, Meta(description="The same as a duration; not both")] = (
        None
    )


class Assignment(msgspec.Struct, forbid_unknown_fields=True):
    """What is set in an envelope before it is sent again."""

    path: Annotated[str, Meta(description="`.payload.x`, `.payload.list[0]`, `.headers.name`")]
    value: Annotated[Raw, Meta(description="Any JSON value")]


class RetryRequest(msgspec.Struct, forbid_unknown_fields=True):
    """How to send a dead letter again."""

    set: list[Assignment] = []
    route: Annotated[
        list[str] | None,
        Meta(description="In place of the failing actor and the rest of its route"),
    ] = None
    timeout: Annotated[DurationText | None, Meta(description="Time to a deadline; else none")] = (
        None
    )
    force: Annotated[
        bool, Meta(description="Also one that was retried before: this makes a second envelope")
    ] = False


class LetterFilter(msgspec.Struct, forbid_unknown_fields=True):
    """Which dead letters; all that is given must hold."""

    actor: str | None = None
    reason: str | None = None
    fingerprint: str | None = None


class _Selection(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Exactly one of the three."""

    ids: Annotated[list[str], Meta(max_length=BATCH_MAX)] | None = None
    filter: LetterFilter | None = None
    all: bool = False


class BulkRetryRequest(_Selection, kw_only=True):
    """Which letters to send again, and how. Ask again with `next_cursor` for the rest."""

    set: list[Assignment] = []
    route: list[str] | None = None
    timeout: DurationText | None = None
    force: bool = False
    rate: (
        Annotated[
            float,
            Meta(ge=0.1, le=100_000, description="At most so many per second, over requests too"),
        ]
        | None
    ) = None
    limit: Annotated[int, Meta(ge=1, le=BATCH_MAX)] = 100
    cursor: str | None = None


class PurgeRequest(_Selection, kw_only=True):
    """Which letters to throw away."""

    older_than: Annotated[
        DurationText | None, Meta(description="Only those that have been dead for longer")
    ] = None
