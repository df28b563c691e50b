"""What a queue is in Pub/Sub: names, how its subscription is configured, and what differs from that.

A queue is a topic and a subscription of the same name, the queue's. A topic without its
subscription takes messages and drops them without a word, so both always belong together. The
subscription never expires, keeps what is not acknowledged for a week, and hands what nobody could
settle in a hundred deliveries to the topic of the namespace's dead letters; without such a policy
Pub/Sub does not count deliveries at all. Pure: values in, values out.

Called by `asya.transports.pubsub.transport`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from asya.errors import QueueMissing, TransportError
from asya.transports.base import Finding

ACK_DEADLINE_MIN_S: Final = 10
ACK_DEADLINE_MAX_S: Final = 600
RETENTION_S: Final = 7 * 86_400
"""How long Pub/Sub keeps what is not acknowledged: longer than any of our own retries."""
DELIVERIES_MAX: Final = 100
"""The most that Pub/Sub allows. Only a backstop: the sidecar gives a poisonous message up after 5."""
LABEL: Final = "asya-namespace"
DELETED_TOPIC: Final = "_deleted-topic_"
DEAD_LETTERS: Final = "x-sump"

_NAME: Final = re.compile(r"(?!goog)[A-Za-z][A-Za-z0-9_.~+%-]{2,254}")
_LABEL_VALUE: Final = re.compile(r"[a-z0-9_-]{1,63}")


@dataclass(frozen=True)
class Layout:
    """Names of one namespace's queues in one project."""

    project: str
    namespace: str

    def __post_init__(self) -> None:
        """A namespace becomes a label's value, which bounds it."""
        if _LABEL_VALUE.fullmatch(self.namespace) is None:
            raise TransportError(f"{self.namespace!r} is no name for a namespace in Pub/Sub")

    @property
    def dead_letters(self) -> str:
        """The queue of the dead letters."""
        return f"asya-{self.namespace}-{DEAD_LETTERS}"

    @property
    def root(self) -> str:
        """The project, as requests have it."""
        return f"projects/{self.project}"

    def topic(self, queue: str) -> str:
        """The full name of a queue's topic."""
        return f"{self.root}/topics/{queue}"

    def subscription(self, queue: str) -> str:
        """The full name of a queue's subscription."""
        return f"{self.root}/subscriptions/{queue}"

    def topic_config(self, queue: str) -> dict[str, Any]:
        """A queue's topic as it is made."""
        return {"name": self.topic(queue), "labels": {LABEL: self.namespace}}

    def subscription_config(self, queue: str, lease_s: float) -> dict[str, Any]:
        """A queue's subscription as it is made."""
        config: dict[str, Any] = {
            "name": self.subscription(queue),
            "topic": self.topic(queue),
            "ack_deadline_seconds": ack_deadline_s(lease_s),
            "message_retention_duration": {"seconds": RETENTION_S},
            "expiration_policy": {},  # there, and without a time: never
            "labels": {LABEL: self.namespace},
        }
        if queue != self.dead_letters:
            config["dead_letter_policy"] = {
                "dead_letter_topic": self.topic(self.dead_letters),
                "max_delivery_attempts": DELIVERIES_MAX,
            }
        return config


@dataclass(frozen=True)
class Found:
    """A subscription as Pub/Sub has it.

    Attributes:
        name: The queue that it is named after.
        topic: The topic's full name, or `DELETED_TOPIC`.
        ack_deadline_s: How long a delivery is its receiver's by itself.
        retention_s: How long what is not acknowledged is kept.
        expires_s: After how long without use Pub/Sub removes it; 0 is never.
        dead_letter_topic: Empty for none.
        deliveries_max: 0 for none.
        pushes: Pub/Sub sends its messages to somebody by itself.
        detached: It gets no messages any more.
        filters: It takes only some of its topic's messages.
        labels: Its labels.
    """

    name: str
    topic: str
    ack_deadline_s: int
    retention_s: float = RETENTION_S
    expires_s: float = 0.0
    dead_letter_topic: str = ""
    deliveries_max: int = 0
    pushes: bool = False
    detached: bool = False
    filters: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, message: Any) -> Found:
        """From a `google.pubsub.v1.Subscription`."""
        policy = message.dead_letter_policy
        return cls(
            name=message.name.rpartition("/")[2],
            topic=message.topic,
            ack_deadline_s=message.ack_deadline_seconds,
            retention_s=message.message_retention_duration.seconds,
            expires_s=message.expiration_policy.ttl.seconds,
            dead_letter_topic=policy.dead_letter_topic,
            deliveries_max=policy.max_delivery_attempts,
            pushes=bool(message.push_config.push_endpoint),
            detached=message.detached,
            filters=bool(message.filter),
            labels=dict(message.labels),
        )

    @property
    def orphaned(self) -> bool:
        """Its topic was deleted: it holds what it had, and gets nothing more."""
        return self.topic == DELETED_TOPIC


def check_name(queue: str) -> None:
    """Raise `QueueMissing` where no queue can have this name."""
    if _NAME.fullmatch(queue) is None:
        raise QueueMissing(f"{queue!r} is no name for a queue in Pub/Sub, so there is none")


def ack_deadline_s(lease_s: float) -> int:
    """A subscription's own deadline for a lease; a shorter lease is set message by message."""
    return min(max(math.ceil(lease_s), ACK_DEADLINE_MIN_S), ACK_DEADLINE_MAX_S)


def defect(layout: Layout, queue: str, found: Found) -> str | None:
    """Why messages sent to the queue would not come out of the subscription; None when they do."""
    if found.orphaned:
        return f"the topic of {queue} was deleted; its consumer makes it again"
    if found.topic != layout.topic(queue):
        return (
            f"the subscription {queue} belongs to {found.topic}, so it gets nothing that is sent "
            f"to {queue}; delete the subscription"
        )
    if found.detached:
        return f"the subscription {queue} is detached from its topic; delete the subscription"
    if found.pushes:
        return (
            f"the subscription {queue} pushes its messages to somebody else; delete its push config"
        )
    return None


def drift(layout: Layout, queue: str, found: Found, lease_s: float) -> list[Finding]:
    """How a subscription differs from what `ensure` would make."""
    broken = defect(layout, queue, found)
    findings = [Finding(broken, fatal=not found.orphaned, queue=queue)] if broken else []
    notes: list[str] = []
    deadline = ack_deadline_s(lease_s)
    if found.ack_deadline_s != deadline:
        notes.append(
            f"an ack deadline of {found.ack_deadline_s} s instead of {deadline} s, which costs a "
            f"request for every pull (--ack-deadline={deadline})"
        )
    if found.expires_s:
        notes.append(
            f"that it is deleted after {found.expires_s / 86_400:g} days without use "
            "(--expiration-period=never)"
        )
    if found.retention_s < RETENTION_S:
        notes.append(
            f"that messages are dropped after {found.retention_s / 86_400:g} days instead of "
            f"{RETENTION_S // 86_400} (--message-retention-duration={RETENTION_S // 86_400}d)"
        )
    if found.filters:
        notes.append("a filter, so that it drops messages; make it again without one")
    notes += _dead_letter_notes(layout, queue, found)
    if found.labels.get(LABEL) != layout.namespace:
        notes.append(
            f"no label that it is this mesh's (--update-labels={LABEL}={layout.namespace})"
        )
    return findings + [
        Finding(f"the subscription {queue} has {note}", queue=queue) for note in notes
    ]


def _dead_letter_notes(layout: Layout, queue: str, found: Found) -> list[str]:
    if queue == layout.dead_letters:
        return []
    remedy = f"--dead-letter-topic={layout.dead_letters} --max-delivery-attempts={DELIVERIES_MAX}"
    if not found.dead_letter_topic:
        return [f"no dead letter policy, so that deliveries are not counted ({remedy})"]
    notes = []
    if found.dead_letter_topic != layout.topic(layout.dead_letters):
        notes.append(f"another topic for dead letters, {found.dead_letter_topic} ({remedy})")
    if found.deliveries_max < DELIVERIES_MAX:
        notes.append(f"{found.deliveries_max} deliveries at most, not {DELIVERIES_MAX} ({remedy})")
    return notes


def trigger(layout: Layout, queue: str, target: int, scaler: str) -> dict[str, Any]:
    """The KEDA trigger of a queue; see `Transport.trigger`.

    KEDA's own scaler, `gcp-pubsub`, is deprecated since Google deprecated the language that it
    asks in, so the one for Prometheus is the default; it asks Cloud Monitoring the same.
    """
    if scaler == "gcp-pubsub":
        metadata = {
            "subscriptionName": layout.subscription(queue),
            "mode": "NumUndeliveredMessages",
            "value": str(target),
            "activationValue": "0",
            "valueIfNull": "0",
        }
        return {"type": "gcp-pubsub", "metadata": metadata}
    host = "https://monitoring.googleapis.com"
    labels = {
        "__name__": "pubsub.googleapis.com/subscription/num_undelivered_messages",
        "monitored_resource": "pubsub_subscription",
        "subscription_id": queue,
    }
    metadata = {
        "serverAddress": f"{host}/v1/projects/{layout.project}/location/global/prometheus",
        "query": "{" + ",".join(f'"{key}"="{value}"' for key, value in labels.items()) + "}",
        "threshold": str(target),
        "activationThreshold": "0",
    }
    return {"type": "prometheus", "metadata": metadata}
