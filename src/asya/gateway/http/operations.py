"""The HTTP API as a table: one entry per operation.

`app` makes the routes from it and `openapi` the document, so that neither can say what the other
does not. `app.handlers` has the handler of each operation under its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from asya.gateway.http import requests, views


@dataclass(frozen=True)
class Operation:
    """One method of one path.

    Attributes:
        name: Also the operation's id in the document.
        answers: Model by status; None is an answer without content.
        problems: Names in `problems.PROBLEM_TYPES`, without those of `COMMON_PROBLEMS`.
        query: Declares the query parameters, or None.
        headers: Declares the headers that mean something to it, or None.
        body: Model of the request's body, `Any` for any JSON value, or None.
        media: The media type of the answers.
    """

    method: str
    path: str
    name: str
    summary: str
    answers: Mapping[int, tuple[str, Any]]
    problems: tuple[str, ...] = ()
    query: type[msgspec.Struct] | None = None
    headers: type[msgspec.Struct] | None = None
    body: Any = None
    media: str = "application/json"

    @property
    def strict(self) -> bool:
        """Whether a query parameter that is not declared is refused (`invalid`).

        What probes and scrapers ask for stands outside `/v1/`, and may come with any.
        """
        return self.path.startswith("/v1/")


_RETRY_PROBLEMS: Final = (
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
_POST_PROBLEMS: Final = (
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
_POST_ANSWERS: Final = {
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
        query=requests.FlowQuery,
        headers=requests.KeyHeaders,
        body=Any,
    ),
    Operation(
        "POST",
        "/v1/envelopes",
        "post_envelope",
        "Send an envelope with a route of its own",
        _POST_ANSWERS,
        _POST_PROBLEMS,
        query=requests.EnvelopeQuery,
        headers=requests.KeyHeaders,
        body=requests.EnvelopeRequest,
    ),
    Operation(
        "GET",
        "/v1/envelopes",
        "list_envelopes",
        "List envelopes, newest first",
        {200: ("A page; results and hops are left out", views.EnvelopeList)},
        ("invalid",),
        query=requests.EnvelopesQuery,
    ),
    Operation(
        "GET",
        "/v1/envelopes/{id}",
        "get_envelope",
        "One envelope with its hops and its result",
        {200: ("The envelope", views.EnvelopeView)},
        ("unknown-envelope", "result-gone", "blobs-unavailable"),
    ),
    Operation(
        "DELETE",
        "/v1/envelopes/{id}",
        "cancel_envelope",
        "Cancel an envelope, and the children of a root; idempotent",
        {204: ("Canceled, or ended before", None)},
        ("unknown-envelope", "disk-full"),
    ),
    Operation(
        "GET",
        "/v1/envelopes/{id}/why",
        "get_why",
        "Why an envelope is where it is: cause, evidence, remedy",
        {200: ("The cause; for an id that is not known too", views.WhyView)},
    ),
    Operation(
        "GET",
        "/v1/envelopes/{id}/hops/{n}/payload",
        "get_payload",
        "A hop's payload as it was kept",
        {200: ("The payload, as JSON where it is whole", Any)},
        ("unknown-envelope", "not-found", "invalid"),
        query=requests.PayloadQuery,
    ),
    Operation(
        "GET",
        "/v1/envelopes/{id}/events",
        "stream_events",
        "Server-sent events: history, then live, until the terminal event",
        {200: ("Events `status`, `progress`, `stuck` and `fly`", {"type": "string"})},
        ("bad-request", "unknown-envelope", "too-many-streams"),
        headers=requests.EventsHeaders,
        media="text/event-stream",
    ),
    Operation(
        "GET",
        "/v1/dead",
        "list_dead",
        "List dead letters, newest first: grouped by error, or one by one",
        {200: ("A page", views.LetterList)},
        ("invalid",),
        query=requests.DeadLettersQuery,
    ),
    Operation(
        "POST",
        "/v1/dead/retry",
        "retry_many_dead",
        "Send many dead letters again, oldest first, for about a second per request",
        {200: ("What was done, and where the next request goes on", views.BulkRetried)},
        _RETRY_PROBLEMS,
        body=requests.BulkRetryRequest,
    ),
    Operation(
        "POST",
        "/v1/dead/purge",
        "purge_many_dead",
        "Throw dead letters away",
        {200: ("How many", views.Purged)},
        ("not-json", "body-timeout", "too-large", "not-json-type", "invalid", "disk-full"),
        body=requests.PurgeRequest,
    ),
    Operation(
        "GET",
        "/v1/dead/{id}",
        "get_dead",
        "One dead letter: error, hops, headers, payload",
        {200: ("The letter", views.LetterView)},
        ("unknown-envelope", "not-dead"),
    ),
    Operation(
        "POST",
        "/v1/dead/{id}/retry",
        "retry_dead",
        "Send a dead letter again, as a new envelope whose `parent_id` is the old one",
        {202: ("Accepted: it is stored, and in its first queue or on its way", views.Accepted)},
        (*_RETRY_PROBLEMS, "unknown-envelope", "not-dead"),
        body=requests.RetryRequest,
    ),
    Operation(
        "DELETE",
        "/v1/dead/{id}",
        "purge_dead",
        "Throw a dead letter away; idempotent",
        {204: ("Its bytes are gone", None)},
        ("unknown-envelope", "not-dead", "disk-full"),
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
        query=requests.RunQuery,
    ),
    Operation(
        "POST",
        "/v1/schedules/{name}/suspend",
        "suspend_schedule",
        "Make no more runs; over restarts, whatever the manifest says; idempotent",
        {200: ("The schedule", views.ScheduleView)},
        ("unknown-schedule", "disk-full"),
    ),
    Operation(
        "POST",
        "/v1/schedules/{name}/resume",
        "resume_schedule",
        "Make runs again; those that were due meanwhile are left out; idempotent",
        {200: ("The schedule", views.ScheduleView)},
        ("unknown-schedule", "disk-full"),
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
