"""What clients see of dead letters, and what they may ask: the JSON shapes of `/v1/dead`."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from asya.gateway.http.views import Duration, ErrorView, HopView, Moment, RouteView

BATCH_MAX: Final = 500
"""Letters that one request deals with at most."""

LetterState = Literal["dead", "retried", "purged"]


class LetterSummary(msgspec.Struct):
    """A dead letter in a list."""

    id: str
    status: LetterState
    reason: Annotated[str, Meta(description="Why it failed, in one word")]
    actor: Annotated[str, Meta(description="The actor that could not handle it")]
    at: Moment
    fingerprint: Annotated[str, Meta(description="Errors of one cause have the same")]
    retried_as: Annotated[str | None, Meta(description="Id of the newest envelope made of it")]
    error: ErrorView | None


class LetterGroupView(msgspec.Struct):
    """Letters of one actor about the same error; `error` and `example_id` are the newest one's."""

    fingerprint: str
    actor: str
    reasons: list[str]
    count: int
    first_at: Moment
    last_at: Moment
    example_id: str
    error: ErrorView | None


class LetterList(msgspec.Struct):
    """A page, newest first: `groups`, or with `group=none` the `letters` themselves."""

    next_cursor: str | None
    groups: list[LetterGroupView] | UnsetType = UNSET
    letters: list[LetterSummary] | UnsetType = UNSET


class LetterView(LetterSummary):
    """One dead letter, whole."""

    parent_id: str | None
    route: Annotated[RouteView, Meta(description="As the failing actor had it: `curr` is where")]
    attempt: Annotated[int, Meta(ge=1)]
    headers: Annotated[Raw, Meta(extra_json_schema={"type": "object"})]
    payload: Annotated[Raw, Meta(description="What the failing actor got; null where it is gone")]
    payload_problem: Annotated[str | None, Meta(description="Why the payload is not to be had")]
    case: Annotated[
        Raw,
        Meta(
            description="The envelope as the failing actor got it, its payload left out",
            extra_json_schema={"type": ["object", "null"]},
        ),
    ]
    envelope: Annotated[
        Raw,
        Meta(
            description="As it lies in the dead letters; null of one that was purged",
            extra_json_schema={"type": ["object", "null"]},
        ),
    ]
    hops: list[HopView]


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
    timeout: Annotated[Duration | None, Meta(description="Time to a deadline; else none")] = None
    force: Annotated[
        bool, Meta(description="Also one that was retried before: this makes a second envelope")
    ] = False


class LetterFilter(msgspec.Struct, forbid_unknown_fields=True):
    """Which dead letters; all that is given must hold."""

    actor: str | None = None
    reason: str | None = None
    fingerprint: str | None = None


class _Choice(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Exactly one of the three."""

    ids: Annotated[list[str], Meta(max_length=BATCH_MAX)] | None = None
    filter: LetterFilter | None = None
    all: bool = False


class BulkRetryRequest(_Choice, kw_only=True):
    """Which letters to send again, and how. Ask again with `next_cursor` for the rest."""

    set: list[Assignment] = []
    route: list[str] | None = None
    timeout: Duration | None = None
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


class RetriedLetter(msgspec.Struct):
    """A letter and the envelope that was made of it."""

    id: str
    retried_as: str


class RefusedLetter(msgspec.Struct):
    """A letter that was left as it is, and why."""

    id: str
    detail: str


class BulkRetried(msgspec.Struct):
    """What one request did; with `next_cursor` there is more to do.

    A request ends after about a second, so that none is held open for long. `already` were retried
    before: by an earlier request whose answer was lost, say.
    """

    retried: list[RetriedLetter]
    already: list[RetriedLetter]
    refused: list[RefusedLetter]
    next_cursor: str | None


class PurgeRequest(_Choice, kw_only=True):
    """Which letters to throw away."""

    older_than: Annotated[
        Duration | None, Meta(description="Only those that have been dead for longer")
    ] = None


class Purged(msgspec.Struct):
    """How many letters were thrown away."""

    purged: int
