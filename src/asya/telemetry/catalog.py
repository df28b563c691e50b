"""The table of all metrics: the single definition of names, types, labels and texts.

`metrics` keeps the numbers, `exposition` shows them, docs/reference/metrics.md is made from this
table, and a test holds the dashboard and the alert rules to it. Labels have few values: actors,
flows and routes of this mesh, and fixed words; an envelope's id is never a label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]

BUCKETS_S: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip
"""Upper bounds in seconds: from a handler that does nothing to one that runs for minutes."""


@dataclass(frozen=True)
class Metric:
    """One metric. All have the label `namespace`, too."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str


RECEIVED: Final = "asya_actor_received_total"
PROCESSED: Final = "asya_actor_processed_total"
RETRIES: Final = "asya_actor_retries_total"
TIMEOUTS: Final = "asya_actor_timeouts_total"
LOST: Final = "asya_actor_lost_total"
IN_FLIGHT: Final = "asya_actor_in_flight"
WAITING: Final = "asya_actor_waiting"
REPLICAS: Final = "asya_actor_replicas"
BROKEN: Final = "asya_actor_broken"
HANDLER_TIME: Final = "asya_actor_handler_seconds"
QUEUE_TIME: Final = "asya_actor_queue_seconds"
COLD_START: Final = "asya_actor_cold_start_seconds"
DEPTH: Final = "asya_queue_messages"
ENDED: Final = "asya_envelopes_ended_total"
DEAD: Final = "asya_dead_letters_total"
STORE_ERRORS: Final = "asya_store_errors_total"
DROPPED: Final = "asya_events_dropped_total"
BROKER_UP: Final = "asya_broker_up"
READY: Final = "asya_ready"
REQUESTS: Final = "asya_http_requests_total"

METRICS: Final = (
    Metric(RECEIVED, "counter", ("actor",), "Messages received from the queue, with redeliveries"),
    Metric(
        PROCESSED,
        "counter",
        ("actor", "outcome"),
        "Messages that the actor has completed: `succeeded`, `failed`, `retried` or `canceled`",
    ),
    Metric(RETRIES, "counter", ("actor",), "Attempts that failed and will be retried"),
    Metric(
        TIMEOUTS,
        "counter",
        ("actor",),
        "Handlers that were stopped because they exceeded their time limit",
    ),
    Metric(LOST, "counter", ("actor",), "Messages whose replica crashed while it worked on them"),
    Metric(IN_FLIGHT, "gauge", ("actor",), "Messages that replicas work on"),
    Metric(WAITING, "gauge", ("actor",), "Messages that the sidecar holds until a replica is free"),
    Metric(
        REPLICAS,
        "gauge",
        ("actor", "state"),
        "Replicas that are `starting`, `idle`, `busy` or `terminating`",
    ),
    Metric(BROKEN, "gauge", ("actor",), "1 while the actor's handler cannot be loaded, else 0"),
    Metric(
        HANDLER_TIME,
        "histogram",
        ("actor",),
        "Time from the start of a handler to its end, without messages whose replica crashed",
    ),
    Metric(
        QUEUE_TIME,
        "histogram",
        ("actor",),
        "Time from the send of a message to the start of its handler, first attempts only, "
        "in whole milliseconds; the delay of a scheduled send is included",
    ),
    Metric(
        COLD_START,
        "histogram",
        ("actor",),
        "Time from the first message without a replica to the first replica that is ready",
    ),
    Metric(
        DEPTH,
        "gauge",
        ("actor", "state"),
        "Messages in the actor's queue: `ready`, `in_flight` or `delayed`; left out while the "
        "broker does not answer",
    ),
    Metric(ENDED, "counter", ("status",), "Envelopes ended: `succeeded`, `failed` or `canceled`"),
    Metric(DEAD, "counter", ("actor", "reason"), "Envelopes that became dead letters"),
    Metric(
        STORE_ERRORS, "counter", (), "Ends and dead letters that the task store failed to store"
    ),
    Metric(
        DROPPED,
        "counter",
        (),
        "Events of hops that were not stored: there were too many, or no store took them",
    ),
    Metric(BROKER_UP, "gauge", (), "1 while the broker answers, else 0"),
    Metric(READY, "gauge", (), "1 while the mesh accepts envelopes, else 0"),
    Metric(
        REQUESTS, "counter", ("route", "method", "status"), "HTTP requests, by the route's pattern"
    ),
)


def reference_markdown() -> str:
    """The table of all metrics, for the docs."""
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines) + "\n"
