"""The HTTP face as a table: one entry per operation.

`app` makes the routes from it and `openapi` the document, so that neither can say what the other
does not. The handler of an operation is the method of `endpoints.Endpoints` (or of a class that it takes in) with its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from asya.gateway.http import dead_letter_views as letter_views
from asya.gateway.http import views
from asya.tasks.admission import ID_PATTERN

LIST_MAX: Final = 500
"""Envelopes on one page at most."""

STATUSES: Final = ("pending", "running", "paused", "succeeded", "failed", "canceled")


@dataclass(frozen=True)
class Parameter:
    """A parameter of the path, the query or a header."""

    name: str
    place: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


@dataclass(frozen=True)
class Operation:
    """One method of one path.

    Attributes:
        name: Also the operation's id and the handler's name.
        answers: Model by status; None is an answer without content.
        problems: Names in `problems.PROBLEM_TYPES`; those that every operation may give are left out.
        body: Model of the request's body, `Any` for any JSON value, or None.
        media: The media type of the answers.
    """

    method: str
    path: str
    name: str
    summary: str
    answers: Mapping[int, tuple[str, Any]]
    problems: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    media: str = "application/json"

    @property
    def strict(self) -> bool:
        """Whether a parameter that is not listed is refused (`invalid`).

        What probes and scrapers ask for stands outside `/v1/`, and may come with any.
        """
        return self.path.startswith("/v1/")


_ID = Parameter("id", "path", "The envelope's id")
_LETTER_FILTER = (
    Parameter("actor", "query", "Only of this actor"),
    Parameter("reason", "query", "Only with this reason, such as `PolicyExhausted`"),
    Parameter("fingerprint", "query", "Only about this error"),
)
_RETRY_PROBLEMS = (
    "not-json",
    "body-timeout",
    "too-large",
    "not-json-type",
    "invalid",
    "unknown-actor",
    "queue-full",
    "unavailable",
    "blobs-unavailable",
    "disk-full",
)
_SCHEDULE = Parameter("name", "path", "The schedule's name")
_WAIT = Parameter(
    "wait",
    "query",
    "Hold on until the envelope has ended, at most so long (and at most 10 minutes): `30s`, `1.5`",
)
_BEGIN = (
    Parameter(
        "not_before",
        "query",
        "When it may begin: RFC 3339, or a duration from now such as `10m`",
    ),
    Parameter("delay", "query", "The same as a duration; not both"),
)
_KEYS = (
    Parameter(
        "Idempotency-Key",
        "header",
        "A key of the client's own (IETF idempotency-key-header): what happens to a second "
        "request with it says the policy",
    ),
    Parameter(
        "Idempotency-Policy",
        "header",
        "In place of the flow's: `return-existing` answers the task that holds the key, `reject` "
        "refuses, `replace` cancels that task and admits the new one",
        {"type": "string", "enum": ["return-existing", "reject", "replace"]},
    ),
    Parameter(
        "Idempotency-Life",
        "header",
        "In place of the flow's: how long the task holds its key: `active` (until it has ended) "
        "or a duration such as `24h`",
    ),
)
_POST_PROBLEMS = (
    "not-json",
    "body-timeout",
    "id-conflict",
    "key-taken",
    "key-reused",
    "too-large",
    "blobs-unavailable",
    "not-json-type",
    "invalid",
    "unknown-actor",
    "queue-full",
    "unavailable",
    "disk-full",
)
_POST_ANSWERS = {
    200: ("It has ended within `wait`, or before (an id that is known)", views.EnvelopeView),
    202: ("Accepted: it is stored and in its first queue", views.Accepted),
}

OPERATIONS: Final = (
    Operation(
        "POST",
        "/v1/flows/{flow}",
        "post_flow",
        "Send a payload into a flow",
        _POST_ANSWERS,
        (*_POST_PROBLEMS, "unknown-flow", "invalid-payload"),
        (
            Parameter("flow", "path", "The flow's name"),
            _WAIT,
            Parameter("timeout", "query", "Time to the deadline, in place of the flow's: `30s`"),
            Parameter(
                "id",
                "query",
                "An id of the client's own: the same id again is the same task",
                {"type": "string", "pattern": ID_PATTERN},
            ),
            *_BEGIN,
            *_KEYS,
        ),
        Any,
    ),
    Operation(
        "POST",
        "/v1/envelopes",
        "post_envelope",
        "Send an envelope with a route of its own",
        _POST_ANSWERS,
        _POST_PROBLEMS,
        (_WAIT, *_KEYS),
        views.EnvelopeRequest,
    ),
    Operation(
        "GET",
        "/v1/envelopes",
        "list_envelopes",
        "List envelopes, newest first",
        {200: ("A page; results and hops are left out", views.EnvelopeList)},
        ("invalid",),
        (
            Parameter(
                "status", "query", "Only this status", {"type": "string", "enum": list(STATUSES)}
            ),
            Parameter("flow", "query", "Only this flow"),
            Parameter("actor", "query", "Only with this actor in the route, passed or to come"),
            Parameter("root", "query", "Only this root and its fan-out children"),
            Parameter(
                "stuck",
                "query",
                "Only those that stand still (`true`), or that do not (`false`)",
                {"type": "boolean"},
            ),
            Parameter(
                "limit",
                "query",
                "Envelopes on the page",
                {"type": "integer", "minimum": 1, "maximum": LIST_MAX, "default": 50},
            ),
            Parameter("cursor", "query", "`next_cursor` of the page before"),
        ),
    ),
    Operation(
        "GET",
        "/v1/envelopes/{id}",
        "get_envelope",
        "One envelope with its hops and its result",
        {200: ("The envelope", views.EnvelopeView)},
        ("unknown-envelope", "result-gone", "blobs-unavailable"),
        (_ID,),
    ),
    Operation(
        "DELETE",
        "/v1/envelopes/{id}",
        "cancel_envelope",
        "Cancel an envelope, and the children of a root; idempotent",
        {204: ("Canceled, or ended before", None)},
        ("unknown-envelope", "disk-full"),
        (_ID,),
    ),
    Operation(
        "GET",
        "/v1/envelopes/{id}/why",
        "get_why",
        "Why an envelope is where it is: cause, evidence, remedy",
        {200: ("The cause; for an id that is not known too", views.WhyView)},
        (),
        (_ID,),
    ),
    Operation(
        "GET",
        "/v1/envelopes/{id}/hops/{n}/payload",
        "get_payload",
        "A hop's payload as it was kept",
        {200: ("The payload, as JSON where it is whole", Any)},
        ("unknown-envelope", "not-found", "invalid"),
        (
            _ID,
            Parameter("n", "path", "Hop number, from 0", {"type": "integer", "minimum": 0}),
            Parameter(
                "side",
                "query",
                "What came to the handler, or what it emitted first",
                {"type": "string", "enum": ["in", "out"], "default": "in"},
            ),
            Parameter(
                "attempt",
                "query",
                "Of this attempt; without it of the newest that something is kept of",
                {"type": "integer", "minimum": 1},
            ),
        ),
    ),
    Operation(
        "GET",
        "/v1/envelopes/{id}/events",
        "stream_events",
        "Server-sent events: history, then live, until the terminal event",
        {200: ("Events `status`, `progress`, `stuck` and `fly`", {"type": "string"})},
        ("bad-request", "unknown-envelope", "too-many-streams"),
        (
            _ID,
            Parameter(
                "Last-Event-ID",
                "header",
                "Number of the last event that was seen",
                {"type": "integer", "minimum": 0},
            ),
        ),
        media="text/event-stream",
    ),
    Operation(
        "GET",
        "/v1/dead",
        "list_dead",
        "List dead letters, newest first: grouped by error, or one by one",
        {200: ("A page", letter_views.LetterList)},
        ("invalid",),
        (
            Parameter(
                "group",
                "query",
                "`fingerprint`: one entry per actor and error; `none`: the letters",
                {"type": "string", "enum": ["fingerprint", "none"], "default": "fingerprint"},
            ),
            *_LETTER_FILTER,
            Parameter(
                "status",
                "query",
                "Those that wait for somebody, were sent again, or were thrown away",
                {"type": "string", "enum": ["dead", "retried", "purged"], "default": "dead"},
            ),
            Parameter(
                "limit",
                "query",
                "Entries on the page",
                {"type": "integer", "minimum": 1, "maximum": LIST_MAX, "default": 50},
            ),
            Parameter("cursor", "query", "`next_cursor` of the page before"),
        ),
    ),
    Operation(
        "POST",
        "/v1/dead/retry",
        "retry_many_dead",
        "Send many dead letters again, oldest first, for about a second per request",
        {200: ("What was done, and where the next request goes on", letter_views.BulkRetried)},
        _RETRY_PROBLEMS,
        (),
        letter_views.BulkRetryRequest,
    ),
    Operation(
        "POST",
        "/v1/dead/purge",
        "purge_many_dead",
        "Throw dead letters away",
        {200: ("How many", letter_views.Purged)},
        ("not-json", "body-timeout", "too-large", "not-json-type", "invalid", "disk-full"),
        (),
        letter_views.PurgeRequest,
    ),
    Operation(
        "GET",
        "/v1/dead/{id}",
        "get_dead",
        "One dead letter: error, hops, headers, payload",
        {200: ("The letter", letter_views.LetterView)},
        ("unknown-envelope", "not-dead"),
        (_ID,),
    ),
    Operation(
        "POST",
        "/v1/dead/{id}/retry",
        "retry_dead",
        "Send a dead letter again, as a new envelope whose `parent_id` is the old one",
        {202: ("Accepted: it is stored, and in its first queue or on its way", views.Accepted)},
        (*_RETRY_PROBLEMS, "unknown-envelope", "not-dead"),
        (_ID,),
        letter_views.RetryRequest,
    ),
    Operation(
        "DELETE",
        "/v1/dead/{id}",
        "purge_dead",
        "Throw a dead letter away; idempotent",
        {204: ("Its bytes are gone", None)},
        ("unknown-envelope", "not-dead", "disk-full"),
        (_ID,),
    ),
    Operation(
        "GET",
        "/v1/actors",
        "list_actors",
        "What runs: queues, replicas, rates, last errors",
        {200: ("The actors", views.ActorList)},
        ("unavailable",),
    ),
    Operation(
        "GET",
        "/v1/flows",
        "list_flows",
        "The flows of this mesh",
        {200: ("The flows", views.FlowList)},
    ),
    Operation(
        "GET",
        "/v1/schedules",
        "list_schedules",
        "The schedules: when each one runs next, and what it did last",
        {200: ("The schedules", views.ScheduleList)},
    ),
    Operation(
        "POST",
        "/v1/schedules/{name}/run",
        "run_schedule",
        "Fire a schedule now, suspended or not; its concurrency policy holds",
        {202: ("Accepted", views.Accepted)},
        (
            "unknown-schedule",
            "id-conflict",
            "key-taken",
            "too-large",
            "blobs-unavailable",
            "invalid",
            "unknown-actor",
            "queue-full",
            "unavailable",
            "disk-full",
        ),
        (
            _SCHEDULE,
            Parameter(
                "id",
                "query",
                "An id of the client's own: the same id again is the same run",
                {"type": "string", "pattern": ID_PATTERN},
            ),
        ),
    ),
    Operation(
        "POST",
        "/v1/schedules/{name}/suspend",
        "suspend_schedule",
        "Make no more runs; over restarts, whatever the manifest says; idempotent",
        {200: ("The schedule", views.ScheduleView)},
        ("unknown-schedule", "disk-full"),
        (_SCHEDULE,),
    ),
    Operation(
        "POST",
        "/v1/schedules/{name}/resume",
        "resume_schedule",
        "Make runs again; those that were due meanwhile are left out; idempotent",
        {200: ("The schedule", views.ScheduleView)},
        ("unknown-schedule", "disk-full"),
        (_SCHEDULE,),
    ),
    Operation(
        "GET",
        "/healthz",
        "get_health",
        "Whether the gateway runs",
        {200: ("It does", views.Health)},
    ),
    Operation(
        "GET",
        "/readyz",
        "get_readiness",
        "Whether the mesh takes envelopes",
        {200: ("It does", views.Health)},
        ("unavailable",),
    ),
    Operation(
        "GET",
        "/metrics",
        "get_metrics",
        "Metrics in the text format of Prometheus",
        {200: ("The metrics", {"type": "string"})},
        media="text/plain",
    ),
    Operation(
        "GET",
        "/openapi.json",
        "get_openapi",
        "This document",
        {200: ("OpenAPI 3.1", {"type": "object"})},
    ),
    Operation(
        "GET",
        "/",
        "get_index",
        "Where to go from here",
        {200: ("Links", views.Index)},
    ),
)
"""All operations. Every one may also answer with the problems of `COMMON_PROBLEMS`."""

COMMON_PROBLEMS: Final = (
    "bad-request",
    "forbidden-origin",
    "method-not-allowed",
    "internal",
    "store-unavailable",
)
EVENT_MODELS: Final = (views.StatusEvent, views.ProgressEvent, views.StuckEvent, views.FlyEvent)
"""Data of the server-sent events, for the document."""
