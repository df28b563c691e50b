"""What clients see: the one definition of every answer of the HTTP API.

The OpenAPI document is made from these structs. Raw fields are bytes that go out as they came in.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from asya.tasks.mesh import ActorStatus
from asya.tasks.refusals import Fault

LetterState = Literal["dead", "retried", "purged"]
TaskStatus = Literal["pending", "running", "paused", "succeeded", "failed", "canceled"]
Moment = Annotated[
    str, Meta(description="RFC 3339, UTC", extra_json_schema={"format": "date-time"})
]


class RouteView(msgspec.Struct):
    """Actors passed (the 64 newest), the one whose queue it is in, and those still to come."""

    prev: list[str]
    curr: str
    next: list[str]


class ErrorView(msgspec.Struct):
    """Why an envelope failed; `reason` is the mesh's word, the rest is the handler's error."""

    type: str
    message: str
    traceback: str | None = None
    reason: str | None = None
    code: Annotated[str | None, Meta(description="What `asya explain` is given: `ASYA-2005`")] = (
        None
    )


class ContentView(msgspec.Struct):
    """Size in bytes and SHA-256 (hex) of a payload."""

    size: int
    sha256: str


class HopView(msgspec.Struct):
    """One attempt of one actor on the envelope."""

    n: Annotated[int, Meta(description="Hop number, from 0")]
    actor: str
    attempt: int
    state: Annotated[
        str, Meta(description="`running`, `succeeded`, `failed`, `retrying`, `canceled`, `lost`")
    ]
    enqueued_at: Moment | None = None
    started_at: Moment | None = None
    ended_at: Moment | None = None
    sent_at: Annotated[
        str | None,
        Meta(
            description="When what follows was confirmed by the next queue; null at the end of "
            "the route, where the end itself is stored",
            extra_json_schema={"format": "date-time"},
        ),
    ] = None
    retry_at: Moment | None = None
    attempts_max: Annotated[
        int | None, Meta(description="How many attempts the policy of its error gives")
    ] = None
    edge: Annotated[str, Meta(description="How it came here: `durable`")] = "durable"
    replica: Annotated[int | None, Meta(description="The replica's process id")] = None
    error: ErrorView | None = None
    content_in: ContentView | None = msgspec.field(name="in", default=None)
    content_out: ContentView | None = msgspec.field(name="out", default=None)


class EnvelopeView(msgspec.Struct):
    """An envelope as clients see it. Lists leave out `result` and `hops`."""

    id: str
    root: Annotated[str, Meta(description="Id of the first ancestor; its own id without one")]
    parent_id: str | None
    flow: str | None
    status: TaskStatus
    route: RouteView
    progress: Annotated[int, Meta(ge=0, le=100, description="Percent; never falls")]
    attempt: Annotated[int, Meta(ge=1)]
    error: ErrorView | None
    headers: Annotated[Raw, Meta(extra_json_schema={"type": "object"})]
    created_at: Moment
    updated_at: Moment
    deadline_at: Moment | None
    not_before: Annotated[
        str | None,
        Meta(
            description="When it may begin; null for at once",
            extra_json_schema={"format": "date-time"},
        ),
    ]
    stuck_at: Annotated[
        str | None,
        Meta(
            description="When it was found to stand still: longer in its state than ten times the "
            "actor's p99; null while it moves",
            extra_json_schema={"format": "date-time"},
        ),
    ] = None
    hops: list[HopView] | UnsetType = UNSET
    result: Annotated[
        Raw | UnsetType | None, Meta(description="Any JSON value; null until it succeeded")
    ] = UNSET


class EnvelopeList(msgspec.Struct):
    """A page of envelopes, newest first; `next_cursor` is null on the last page."""

    envelopes: list[EnvelopeView]
    next_cursor: str | None


class Accepted(msgspec.Struct):
    """The envelope is stored and in its first queue."""

    id: str
    status: TaskStatus
    status_url: str
    events_url: str


class RemedyView(msgspec.Struct):
    """A command line, and what it does."""

    command: str
    does: str


class WhyView(msgspec.Struct):
    """Why an envelope is where it is."""

    id: str
    status: Annotated[
        TaskStatus | None, Meta(description="null: no such envelope is known, or it was swept")
    ]
    kind: Annotated[str, Meta(description="The cause in one stable word")]
    cause: Annotated[str, Meta(description="The cause in one sentence")]
    evidence: Annotated[list[str], Meta(description="What it was concluded from")]
    remedy: Annotated[list[RemedyView], Meta(description="What mends it, the best first")]
    at: Moment
    nearest: Annotated[str | None, Meta(description="The nearest id, for one not known")] = None


class ActorList(msgspec.Struct):
    """What runs."""

    actors: list[ActorStatus]


class FlowView(msgspec.Struct):
    """An entry into the mesh: post payloads to `url`."""

    name: str
    route: list[str]
    description: str
    input_schema: dict[str, Any] | None
    timeout_s: float | None
    url: str


class FlowList(msgspec.Struct):
    """The flows of this mesh, by name."""

    flows: list[FlowView]


class ScheduleView(msgspec.Struct):
    """Something that is sent again and again."""

    name: str
    flow: str | None
    route: list[str]
    when: Annotated[str, Meta(description="The cron line, or `every 5m`")]
    timezone: str
    missed_runs: Literal["skip", "last", "all"]
    concurrency_policy: Literal["allow", "forbid", "replace"]
    suspended: bool
    next_at: Annotated[
        Moment | None, Meta(description="Null while it is suspended, and when it is over")
    ]
    last_at: Annotated[Moment | None, Meta(description="Due time of the last run")]
    last_id: Annotated[str | None, Meta(description="Its envelope")]
    last_error: Annotated[
        str | None, Meta(description="Why the last due time made no run; null after a run")
    ]


class ScheduleList(msgspec.Struct):
    """The schedules of this mesh, by name."""

    schedules: list[ScheduleView]


class Health(msgspec.Struct):
    """All is well."""

    status: Literal["ok"] = "ok"


class Index(msgspec.Struct):
    """Where to go from here."""

    name: str
    version: str
    namespace: str
    links: dict[str, str]


class Problem(msgspec.Struct, omit_defaults=True):
    """A problem document (RFC 9457)."""

    type: Annotated[str, Meta(description="`urn:asya:problem:CODE:NAME`; stable, switch on this")]
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str
    code: Annotated[str, Meta(description="What `asya explain` is given: `ASYA-6006`")]
    id: Annotated[str | None, Meta(description="The envelope's id, where there is one")] = None
    nearest: Annotated[str | None, Meta(description="The nearest name that exists")] = None
    retried_as: Annotated[str | None, Meta(description="What became of a dead letter")] = None
    errors: list[Fault] | None = None


class StatusEvent(msgspec.Struct):
    """Data of the SSE event `status`."""

    id: str
    status: TaskStatus
    at: Moment
    progress: int
    error: ErrorView | None = None


class ProgressEvent(msgspec.Struct):
    """Data of the SSE event `progress`: a replica took the envelope, or is done with it."""

    id: str
    progress: int
    at: Moment
    n: int
    actor: str
    attempt: int
    state: str
    retry_at: Moment | None = None
    error: ErrorView | None = None


class StuckEvent(msgspec.Struct):
    """Data of the SSE event `stuck`: the envelope stands still. What moves it takes that back."""

    id: str
    at: Moment
    actor: str
    state: Annotated[str, Meta(description="`queued` or `running`")]
    since: Moment
    usual_s: Annotated[float, Meta(description="The 99th percentile of that state, in seconds")]


class FlyEvent(msgspec.Struct):
    """Data of the SSE event `fly`: what a handler streamed, by this envelope or a child of it."""

    id: str
    actor: str
    seq: int
    at: Moment
    data: Raw


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


class Purged(msgspec.Struct):
    """How many letters were thrown away."""

    purged: int
