"""The layout of queues in JetStream: names, and the streams and consumers that the server keeps.

One work-queue stream per namespace, `asya-{namespace}`. In it a queue is a subject
`asya-{namespace}.q.{queue}` with one durable pull consumer of the queue's name. A message that
waits for its time is a scheduled message on a subject of its own, `asya-{namespace}.d.{queue}.*`.
One stream makes deduplication span all queues.

The broker never hides or drops a message by itself: no delivery limit, no age, no size. Pure;
called by the transport.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import datetime, timedelta
from typing import Any, Final

from asya.clock import to_rfc3339
from asya.errors import QueueMissing, TransportError

DEDUP_WINDOW_S: Final = 120.0
QUEUES_MAX: Final = 1_000_000
"""Of one namespace. Left unset, the server's own default is 1,000 for a stream."""

_TOKEN: Final = re.compile(r"[^\s.*>]+")


class Layout:
    """The names of one namespace.

    Attributes:
        stream: The stream that has all of its queues.
    """

    def __init__(self, namespace: str) -> None:
        if _TOKEN.fullmatch(namespace) is None:
            raise TransportError(
                f"the namespace {namespace!r} cannot be used with NATS: "
                "it must have no spaces and none of . * >"
            )
        self.stream = f"asya-{namespace}"

    def subject(self, queue: str) -> str:
        """Where the queue's messages are published."""
        return f"{self.stream}.q.{queue}"

    def delayed(self, queue: str, last: str = "*") -> str:
        """Where one of its delayed messages waits; by default the pattern of all of them."""
        return f"{self.stream}.d.{queue}.{last}"

    def schedule(self, queue: str, moment: datetime, dedup_id: str | None) -> tuple[str, Any]:
        """The subject and the headers of a message that waits for its time."""
        headers = {
            "Nats-Schedule": f"@at {to_rfc3339(whole_ms(moment))}",
            "Nats-Schedule-Target": self.subject(queue),
        }
        return self.delayed(queue, schedule_id(dedup_id)), headers

    def stream_config(self) -> dict[str, Any]:
        """What the stream must be configured to, whoever made it."""
        return {
            "name": self.stream,
            "subjects": [f"{self.stream}.q.*", f"{self.stream}.d.*.*"],
            "retention": "workqueue",
            "storage": "file",
            "discard": "old",
            "duplicate_window": int(DEDUP_WINDOW_S * 1e9),
            "allow_msg_schedules": True,
        }

    def consumer_config(self, queue: str, lease_s: float) -> dict[str, Any]:
        """How the queue's consumer is made."""
        return {
            "name": queue,
            "durable_name": queue,
            "filter_subject": self.subject(queue),
            "deliver_policy": "all",
            "replay_policy": "instant",
            "ack_policy": "explicit",
            "ack_wait": int(lease_s * 1e9),
            "max_deliver": -1,
            "max_ack_pending": -1,
            "max_waiting": 4096,
        }


def check_name(queue: str) -> None:
    """Raise `QueueMissing` for a name that no queue in NATS can have."""
    if _TOKEN.fullmatch(queue) is None:
        raise QueueMissing(f"there is no queue {queue!r}: NATS allows no spaces and none of . * >")


def schedule_id(dedup_id: str | None) -> str:
    """The last token of a delayed message's subject.

    It is made from the id, so that a repeated publish replaces the schedule, even after the
    deduplication window.
    """
    if dedup_id is None:
        return secrets.token_hex(12)
    return hashlib.blake2b(dedup_id.encode(), digest_size=12).hexdigest()


def whole_ms(moment: datetime) -> datetime:
    """The next full millisecond, since the broker's resolution must not make a message early."""
    return moment + timedelta(microseconds=-moment.microsecond % 1000)


def keda_trigger(stream: str, queue: str, target: int, monitoring: str) -> dict[str, Any]:
    """See `Transport.trigger`."""
    return {
        "type": "nats-jetstream",
        "metadata": {
            "natsServerMonitoringEndpoint": monitoring,
            "account": "$G",
            "stream": stream,
            "consumer": queue,
            "lagThreshold": str(target),
            "activationLagThreshold": "0",
            "useHttps": "false",
        },
    }
