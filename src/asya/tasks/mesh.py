"""What the task service needs of the mesh around it: flows, actors, and the way to their queues.

`local/mesh_client.py` implements `MeshClient` on one machine. Everything else here is plain data,
so a test stands in for a mesh with a few lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from asya.envelope import Envelope
from asya.tasks.key_reservation import KeyPolicy
from asya.transports.base import Depth


@dataclass(frozen=True)
class Idempotency:
    """What an `Idempotency-Key` means.

    Attributes:
        policy: `return-existing`, `reject` or `replace`: what a key does that a task holds.
        life_s: Seconds that a task holds its key, or None for until it has ended.
    """

    policy: KeyPolicy = "return-existing"
    life_s: float | None = 24 * 3600.0


@dataclass(frozen=True)
class FlowSpec:
    """An entry into the mesh.

    Attributes:
        name: The flow's name, part of its URL.
        route: The actors that an envelope passes, at least one.
        description: For people and for language models.
        input_schema: JSON Schema that payloads must fit, or None for any JSON value.
        timeout_s: Seconds from admission (or `not_before`) to the deadline, or None for none.
        idempotency: What keys mean, unless a request says otherwise.
    """

    name: str
    route: tuple[str, ...]
    description: str = ""
    input_schema: Mapping[str, Any] | None = None
    timeout_s: float | None = None
    idempotency: Idempotency = Idempotency()


@dataclass(frozen=True)
class ReplicaStatus:
    """One runtime process: its state is `busy`, `idle` or `terminating`, `since` when."""

    pid: int
    state: str
    since: datetime


@dataclass(frozen=True)
class ActorStatus:
    """One actor as it runs now.

    Attributes:
        rate: Envelopes done per second, over the last ten seconds.
        last_error: The newest error of its handler, or why it cannot be loaded.
        replicas_max: How many replicas there may be.
        concurrency: Envelopes that one replica works on at a time.
        load_error: Why the handler cannot be loaded, or None.
        start_at: When the next replica may be started, or None for at once.
        received: Messages taken from the queue since the start; the next five alike, by outcome.
        p50_ms: Half of the newest handler calls took no longer; None before the first.
        p99_ms: All but one in a hundred took no longer.
        queue_p99_ms: The same of the time in the queue.
    """

    name: str
    transport: str
    queue: Depth
    replicas: list[ReplicaStatus] = field(default_factory=list)
    rate: float = 0.0
    last_error: str | None = None
    replicas_max: int = 1
    concurrency: int = 1
    load_error: str | None = None
    start_at: datetime | None = None
    received: int = 0
    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    timeouts: int = 0
    canceled: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None
    queue_p99_ms: float | None = None


class MeshClient(Protocol):
    """The mesh as the task service sees it."""

    @property
    def namespace(self) -> str:
        """The namespace whose queues these are."""
        ...

    async def publish(
        self, envelope: Envelope, *, dedup_id: str, not_before: datetime | None = None
    ) -> None:
        """Put an envelope into the queue of its `route.curr`; confirmed when this returns.

        It is given out at `not_before`, or at once.

        Raises:
            TransportError: As `Transport.publish`.
        """
        ...

    async def actors(self) -> list[str]:
        """Names of the actors that have a queue. Called for every envelope, so it must be cheap."""
        ...

    async def ready(self, actor: str) -> int:
        """Messages that wait in the actor's queue. Called about twice a second per actor."""
        ...

    def cancel(self, ids: Iterable[str]) -> None:
        """Tell every sidecar that these envelopes, and children of these roots, are canceled."""
        ...

    async def actor_status(self) -> list[ActorStatus]:
        """What runs, one entry per actor."""
        ...

    async def one_status(self, actor: str) -> ActorStatus | None:
        """What runs of one actor, or None if it is not part of this mesh."""
        ...

    def flows(self) -> Mapping[str, FlowSpec]:
        """The flows by name."""
        ...

    def problem(self) -> str | None:
        """Why no envelope can be taken now, for people, or None when all is well."""
        ...
