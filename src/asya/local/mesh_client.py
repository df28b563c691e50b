"""The laptop's `asya.tasks.mesh.MeshClient`: answers for the mesh of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from asya.envelope import Envelope, encode, queue_name
from asya.errors import QueueMissing, TransportError, TransportUnavailable
from asya.local.actor import ScaledActor
from asya.tasks.mesh import ActorStatus, FlowSpec, ReplicaStatus
from asya.transports.base import Depth, Transport

UNKNOWN_DEPTH: Final = Depth(ready=0, in_flight=0, delayed=0)


class LocalMeshClient:
    """Answers for the mesh of this process.

    Args:
        namespace: The mesh's namespace.
        transport: Connected before the first `publish`.
        flows: The flows by name.
        actors: The actors by name; filled while the mesh starts.
        cancel: Tells all sidecars which envelopes are canceled.
        problem: Why no envelope can be taken now, or None.
    """

    def __init__(
        self,
        namespace: str,
        transport: Transport,
        *,
        flows: Mapping[str, FlowSpec],
        actors: Mapping[str, ScaledActor],
        cancel: Callable[[Iterable[str]], None],
        problem: Callable[[], str | None],
    ) -> None:
        self._namespace = namespace
        self._transport = transport
        self._flows = flows
        self._actors = actors
        self._cancel = cancel
        self._problem = problem

    @property
    def namespace(self) -> str:
        """The namespace whose queues these are."""
        return self._namespace

    async def publish(
        self, envelope: Envelope, *, dedup_id: str, not_before: datetime | None = None
    ) -> None:
        """Put an envelope into the queue of its `route.curr`; confirmed when this returns."""
        actor = envelope.route.curr
        queue = queue_name(self._namespace, actor)
        try:
            await self._transport.publish(
                queue, encode(envelope), dedup_id=dedup_id, not_before=not_before
            )
        except QueueMissing as error:
            if actor not in self._actors:
                raise
            raise TransportUnavailable(
                f"the queue of {actor} was deleted; its sidecar is making it again"
            ) from error

    async def actors(self) -> list[str]:
        """The actors of this mesh. A queue that an earlier mesh left is no actor."""
        return list(self._actors)

    async def ready(self, actor: str) -> int:
        """Messages that wait in the actor's queue."""
        return (await self._transport.depth(queue_name(self._namespace, actor))).ready

    def cancel(self, ids: Iterable[str]) -> None:
        """Tell every sidecar that these envelopes, and children of these roots, are canceled."""
        self._cancel(ids)

    async def actor_status(self) -> list[ActorStatus]:
        """What runs. A depth that the broker does not tell now is given as 0."""
        return list(await asyncio.gather(*(self._status(name) for name in self._actors)))

    async def one_status(self, actor: str) -> ActorStatus | None:
        """What runs of one actor; None where it is no part of this mesh."""
        return await self._status(actor) if actor in self._actors else None

    def flows(self) -> Mapping[str, FlowSpec]:
        """The flows by name."""
        return self._flows

    def problem(self) -> str | None:
        """Why no envelope can be taken now, or None."""
        return self._problem()

    async def _status(self, name: str) -> ActorStatus:
        actor = self._actors[name]
        queue = queue_name(self._namespace, name)
        try:
            depth = await self._transport.depth(queue)
        except TransportError:
            depth = UNKNOWN_DEPTH
        seen = actor.sidecar.snapshot()
        replicas = [
            ReplicaStatus(each.pid, "starting", each.started_at) for each in actor.replicas.starting
        ]
        replicas += [ReplicaStatus(each.pid, each.state, each.since) for each in seen.replicas]
        return ActorStatus(
            name=name,
            transport=self._transport.capabilities_of(queue).name,
            queue=depth,
            replicas=replicas,
            rate=seen.rate,
            last_error=actor.replicas.plan.problem or seen.last_error,
            replicas_max=actor.plan.bounds.maximum,
            concurrency=actor.plan.concurrency,
            load_error=actor.replicas.plan.problem,
            start_at=self._start_at(actor.replicas.plan.not_before_s),
            received=seen.received,
            succeeded=seen.succeeded,
            failed=seen.failed,
            retried=seen.retried,
            timeouts=seen.timeouts,
            canceled=seen.canceled,
        )

    def _start_at(self, loop_s: float) -> datetime | None:
        left_s = loop_s - asyncio.get_running_loop().time()
        return None if left_s <= 0 else datetime.now(UTC) + timedelta(seconds=left_s)
