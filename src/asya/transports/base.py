"""The seam to a broker: queues, nothing else.

Policy (retries, poison, dead letters, claim check) stands above, once, for all brokers. Each
broker has a folder; a name is a queue's full name, `asya-{namespace}-{actor}`. Every transport passes
`asya.testing.transport_contract`; where brokers differ, `Capabilities` says so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from asya.codes import Code

LOAD_AGE_MAX_S: Final = 5.0
"""An older answer does not say what waits now."""


@dataclass(frozen=True)
class Capabilities:
    """What a broker can do by itself.

    Attributes:
        name: The transport's name in manifests.
        persistent: Messages survive a restart of the broker.
        deduplicates: A second publish with the same `dedup_id` inside `dedup_window_s` is dropped.
        dedup_window_s: How long an id is remembered, in seconds.
        delay_max_s: The longest delay the broker keeps by itself, in seconds; None is no limit,
            and 0 means that it keeps none. Longer ones are kept by `asya.transports.delayed`.
        delay_resolution_s: How coarse a delay is, in seconds.
        message_max_bytes: The largest message.
        lease_s: How long a delivery is ours without `extend`, in seconds; None means for as long
            as the connection lives.
        counts_ready: `depth` counts all messages that are ready; without it, those that this
            process knows of.
        counts_in_flight: `depth` counts messages that are being worked on.
        counts_delayed: `depth` counts messages that wait for their time.
        depth_age_s: How old the answer of `depth` may be, in seconds.
        ordered: With one consumer and nothing given back, messages come in the order in which
            they were published.
        priorities: Levels of the header `priority` that are served one before the other; with 1
            the header travels and has no effect.
    """

    name: str
    persistent: bool
    deduplicates: bool
    dedup_window_s: float
    delay_max_s: float | None
    delay_resolution_s: float
    message_max_bytes: int
    lease_s: float | None
    counts_ready: bool = True
    counts_in_flight: bool = True
    counts_delayed: bool = True
    depth_age_s: float = 0.0
    ordered: bool = True
    priorities: int = 1

    @property
    def tells_load(self) -> bool:
        """Whether `depth` is recent enough for a laptop to scale by it."""
        return self.counts_ready and self.depth_age_s <= LOAD_AGE_MAX_S


@dataclass(frozen=True)
class Depth:
    """Messages of one queue: ready, held by a consumer, waiting for their time."""

    ready: int
    in_flight: int
    delayed: int


@dataclass(frozen=True)
class Finding:
    """A problem that was found at a broker.

    Attributes:
        text: What differs, where, and the remedy; one line.
        fatal: Nothing can run until it is fixed; otherwise it is worth knowing.
        queue: The queue it is about, or None for the broker itself.
        code: What kind of thing it is, for the page that explains it.
    """

    text: str
    fatal: bool = False
    queue: str | None = None
    code: Code = Code.TRANSPORT


@dataclass(frozen=True)
class Inspection:
    """A broker as it was found.

    Attributes:
        broker: Its product, version and address, without credentials.
        queues: The namespace's queues.
        findings: What is not as it should be.
        skew_s: How far the broker's clock is before ours, where it tells its time.
    """

    broker: str
    queues: frozenset[str] = frozenset()
    findings: tuple[Finding, ...] = ()
    skew_s: float | None = None


class Delivery(ABC):
    """One message that this process holds. Settle it exactly once: `ack` or `requeue`.

    Attributes:
        body: The message's bytes.
        delivery_count: 1 at first, one more each time the broker had to give it out again.
    """

    __slots__ = ("body", "delivery_count")

    body: bytes
    delivery_count: int

    @abstractmethod
    def ack(self) -> None:
        """Done: the broker may forget the message.

        Written to the connection at once, not awaited. A lost ack leads to another delivery,
        never to a lost message. After the lease was lost this does nothing.
        """

    @abstractmethod
    def requeue(self) -> None:
        """Not done: give it to somebody else now. Counts as a delivery."""

    @abstractmethod
    def extend(self) -> None:
        """Begin the lease anew. Does nothing where `Capabilities.lease_s` is None."""

    @property
    @abstractmethod
    def held(self) -> bool:
        """Whether the lease is known to be ours still."""


class Consumer(ABC):
    """A running consumption of one queue."""

    @abstractmethod
    def set_window(self, window: int) -> None:
        """How many deliveries may be unsettled at a time; 0 pauses (what is held stays held)."""

    @property
    @abstractmethod
    def window(self) -> int:
        """The current window."""

    @abstractmethod
    async def close(self) -> None:
        """Receive no more messages.

        Every message that the broker has handed out and `on_delivery` has not seen is given back
        at once; deliveries already seen can still be settled.
        """


@dataclass(frozen=True)
class Receipt:
    """The broker has the message. `duplicate`: it had it already, by `dedup_id`."""

    duplicate: bool = False


class Transport(ABC):
    """A connection to a broker, for one namespace. Safe for one event loop.

    All methods raise `TransportUnavailable` when the broker does not answer in time, and
    `TransportError` when it refuses. A transport reconnects by itself, for ever, and consumers
    go on by themselves.

    Attributes:
        capabilities: Of the class with its defaults; of an instance with what it was made with.
    """

    capabilities: Capabilities

    def capabilities_of(self, queue: str) -> Capabilities:
        """Those of the queue's broker; they differ when transports are mixed."""
        return self.capabilities

    @property
    def trouble(self) -> str | None:
        """Why the broker cannot be reached now, one line for people; None when it can."""
        return None

    @abstractmethod
    def trigger(self, queue: str, target: int) -> dict[str, Any]:
        """The KEDA trigger that scales the consumers of a queue; needs no connection.

        Args:
            queue: The queue's full name.
            target: Messages, waiting or in flight, per replica.

        Returns:
            `{"type": …, "metadata": {…}}` as in a ScaledObject's `triggers`; all metadata are
            texts. Credentials are not part of it: they belong into a TriggerAuthentication.
        """

    @abstractmethod
    async def inspect(self, queues: Sequence[str]) -> Inspection:
        """Inspect the broker without changing anything there; needs no `connect` before.

        Args:
            queues: Those that should be there; what differs from how `ensure` would make them
                is a finding. A missing queue is not: `ensure` makes it.

        Raises:
            TransportUnavailable: No broker answers.
            TransportError: The broker refuses.
        """

    @abstractmethod
    async def connect(self) -> None:
        """Connect; returns when the broker has answered.

        Raises:
            TransportUnavailable: No broker at the address.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close all consumers, flush what was settled, and disconnect."""

    @abstractmethod
    async def ensure(self, queue: str) -> None:
        """Make the queue if it is not there. Idempotent; never changes messages."""

    @abstractmethod
    async def delete(self, queue: str) -> None:
        """Remove the queue and its messages, delayed ones too. Idempotent."""

    @abstractmethod
    async def queues(self) -> list[str]:
        """The names of all queues of this namespace, sorted."""

    @abstractmethod
    async def publish(
        self,
        queue: str,
        body: bytes,
        *,
        dedup_id: str | None = None,
        not_before: datetime | None = None,
    ) -> Receipt:
        """Put a message into a queue; returns when the broker has confirmed it.

        Calls may overlap; confirms are pipelined. A time that has passed means now.

        Raises:
            QueueMissing: There is no such queue.
            MessageTooLarge: Over `capabilities.message_max_bytes`.
            TransportUnavailable: Unconfirmed; try again with the same `dedup_id`.
        """

    @abstractmethod
    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, window: int = 1
    ) -> Consumer:
        """Begin to receive messages; `on_delivery` is called in the event loop for each one.

        At most `window` deliveries are unsettled at a time. `on_delivery` must not block.

        Raises:
            QueueMissing: There is no such queue.
        """

    @abstractmethod
    async def depth(self, queue: str) -> Depth:
        """How many messages the queue holds.

        Raises:
            QueueMissing: There is no such queue.
        """
