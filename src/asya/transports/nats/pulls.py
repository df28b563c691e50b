"""Pull requests to a JetStream consumer: what they say, and when they must be replaced. Pure.

A request that stands cannot be called back. When the count of what the server may still send has
to go down, or is in doubt, the inbox of all requests is replaced: the server drops requests of an
inbox that nobody listens to.

Called by `asya.transports.nats.consumer`.
"""

from __future__ import annotations

from typing import Final

EXPIRES_S: Final = 30.0
"""The most that a request may stand."""
EXPIRES_LEASES: Final = 2.0
"""In leases. When the network goes silent the server still delivers to requests that stand, and
again when each lease ends. Nobody sees those deliveries, but they count like crashes."""
HEARTBEAT_S: Final = 5.0
SILENCE_S: Final = 2 * HEARTBEAT_S + 1.0
"""A request without a message or a heartbeat for so long is lost."""
DRIFT_S: Final = 2 * EXPIRES_S
"""Every request has ended by then, so a count that never fell to zero in this time is wrong."""
REPAIR_AGAIN_S: Final = 1.0
"""The server may refuse what it is asked right after a repair."""


class PullFormat:
    """The subject and the payload of pull requests."""

    __slots__ = ("_payload", "subject")

    def __init__(self, stream: str, queue: str, lease_s: float) -> None:
        self.subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{queue}"
        expires_s = min(EXPIRES_S, lease_s * EXPIRES_LEASES)
        # The server refuses a heartbeat of more than half of the time.
        heartbeat_s = min(HEARTBEAT_S, expires_s / 4)
        waits = b'"expires":%d,"idle_heartbeat":%d}' % (expires_s * 1e9, heartbeat_s * 1e9)
        self._payload = b'{"batch":%d,' + waits

    def payload(self, batch: int) -> bytes:
        """A request for so many messages."""
        return self._payload % batch


class Watch:
    """Finds out that requests were lost, or that their count is wrong.

    Attributes:
        heard_at: When the server last sent a message or a heartbeat.
        zero_at: When nothing was requested last.
    """

    __slots__ = ("heard_at", "zero_at")

    def __init__(self, now: float) -> None:
        self.begin(now)

    def begin(self, now: float) -> None:
        """Nothing is requested, or the first request is being sent."""
        self.heard_at = self.zero_at = now

    def is_silent(self, now: float) -> bool:
        """Whether the server has said nothing for too long."""
        return now - self.heard_at > SILENCE_S

    def has_drifted(self, now: float) -> bool:
        """Whether the count cannot be right any more."""
        return now - self.zero_at > DRIFT_S


class Renewal:
    """Why the inbox is to be replaced.

    Attributes:
        due: It is to be replaced, or a smaller window asks whether it must be.
        forced: It must be replaced, whatever the counts say.
        broken: The queue must be looked after first.
    """

    __slots__ = ("_repaired_at", "broken", "due", "forced")

    def __init__(self) -> None:
        self.due = self.forced = self.broken = False
        self._repaired_at = float("-inf")

    def force(self, *, broken: bool = False) -> None:
        """Replace it; with `broken`, look after the queue first."""
        self.due = self.forced = True
        self.broken = self.broken or broken

    def begin(self) -> None:
        """It is being replaced now; what is found from here on needs another round."""
        self.due = self.forced = False

    def repair_wait_s(self, now: float) -> float:
        """How long to wait before a repair that begins now, in seconds; notes its time."""
        wait_s = max(0.0, self._repaired_at + REPAIR_AGAIN_S - now)
        self._repaired_at = now + wait_s
        return wait_s


def delivery_count(reply: str) -> int:
    """The fifth token of `$JS.ACK.stream.consumer.N...`; two later where a domain is named."""
    tokens = reply.split(".", 7)
    return int(tokens[4] if reply.count(".") == 8 else tokens[6])
