"""What a mesh on one machine should run, from settings and manifests: pure.

`plan_mesh` refuses what this mesh cannot run, before anything is started. `changes` compares
manifests that were read anew with those that run. `LocalMesh` and `Reloader` act on the results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from asya.codes import Code
from asya.envelope import queue_name
from asya.errors import UsageError
from asya.local.capturing import capture_of, capturing
from asya.local.schedules import schedule_specs
from asya.local.transports import check_addresses, transport_of
from asya.resiliency import Resiliency
from asya.scaling import Bounds
from asya.sidecar.capture import Capture
from asya.tasks.mesh import FlowSpec, Idempotency

if TYPE_CHECKING:
    from asya.manifest import AsyncActor, Flow, Manifests
    from asya.settings import Settings
    from asya.tasks.diagnosis.facts import Capturing
    from asya.tasks.schedule import ScheduleSpec


@dataclass(frozen=True)
class ActorPlan:
    """How one actor runs.

    Attributes:
        name: The actor's name.
        queue: The full name of its queue.
        transport: The name of its broker.
        bounds: How many replicas it may have.
        concurrency: Calls that a replica works on at a time.
        resiliency: Its rules for errors and timeouts.
        capture: Which payloads its sidecar hands over.
    """

    name: str
    queue: str
    transport: str
    bounds: Bounds
    concurrency: int
    resiliency: Resiliency
    capture: Capture


@dataclass(frozen=True)
class MeshPlan:
    """What a mesh runs."""

    actors: Mapping[str, ActorPlan]
    flows: Mapping[str, FlowSpec]
    schedules: list[ScheduleSpec]
    capturing: Capturing

    @property
    def transports(self) -> dict[str, str]:
        """The name of each actor's broker."""
        return {name: each.transport for name, each in self.actors.items()}


def plan_mesh(manifests: Manifests, settings: Settings) -> MeshPlan:
    """What these manifests run.

    Raises:
        UsageError: An actor is of another namespace or has a broker without an address, a schedule
            names a flow that is not there, or a setting cannot be used.
    """
    foreign = [
        f"{actor.source.file}:{actor.source.line}: actor {actor.name} is in the namespace "
        f"{actor.namespace}; this mesh runs {settings.namespace}, set ASYA_NAMESPACE or "
        "`namespace` in asya.yaml to run the other"
        for actor in manifests.actors
        if actor.namespace != settings.namespace
    ]
    if foreign:
        raise UsageError("\n".join(foreign), code=Code.NAMESPACE_FOREIGN)
    check_addresses(manifests.actors, settings)
    return MeshPlan(
        capturing=capturing(settings),
        schedules=schedule_specs(manifests, settings.namespace),
        actors={actor.name: plan_actor(actor, settings) for actor in manifests.actors},
        flows=flow_specs(manifests.flows),
    )


def plan_actor(actor: AsyncActor, settings: Settings) -> ActorPlan:
    """How an actor of this mesh runs."""
    scaling = actor.spec.scaling
    if scaling.enabled:
        bounds = Bounds(
            minimum=scaling.min_replica_count,
            maximum=scaling.max_replica_count,
            queue_length=scaling.queue_length,
            cooldown_s=min(float(scaling.cooldown_period), settings.cooldown_s),
        )
    else:
        bounds = Bounds.fixed(actor.spec.replicas)
    return ActorPlan(
        actor.name,
        queue_name(settings.namespace, actor.name),
        transport_of(actor, settings),
        bounds,
        actor.spec.concurrency,
        actor.resiliency(),
        capture_of(actor, settings),
    )


def refit_actor(running: ActorPlan, actor: AsyncActor, settings: Settings) -> ActorPlan:
    """How a running actor goes on after its manifest has changed.

    Raises:
        UsageError: The change needs a restart of the mesh.
    """
    plan = plan_actor(actor, settings)
    if plan.transport != running.transport:
        raise UsageError(
            f"{actor.source.file}:{actor.source.line}: actor {actor.name} runs on "
            f"{running.transport}; restart the mesh to move it to {plan.transport}",
            code=Code.FIELDS_CONTRADICT,
        )
    return plan


def flow_specs(flows: Iterable[Flow]) -> dict[str, FlowSpec]:
    """The flows that clients may call."""
    return {
        flow.name: FlowSpec(
            name=flow.name,
            route=tuple(flow.route),
            description=flow.description,
            input_schema=flow.input_schema,
            timeout_s=flow.timeout_s,
            idempotency=Idempotency(flow.spec.idempotency.policy, flow.spec.idempotency.life),
        )
        for flow in flows
        if flow.expose.http
    }


@dataclass(frozen=True)
class Changes:
    """How manifests differ from those that run.

    Attributes:
        actors: Running actors whose manifests changed.
        restart: What a running mesh does not take over, in words.
    """

    actors: tuple[AsyncActor, ...]
    restart: tuple[str, ...]


def changes(running: Manifests, found: Manifests, taken_over: Mapping[str, AsyncActor]) -> Changes:
    """Compare manifests.

    Args:
        running: As the mesh was started.
        found: As they are now.
        taken_over: Actors whose changes were taken over since then.
    """
    now = {each.name: each for each in found.actors}
    before = {each.name: taken_over.get(each.name, each) for each in running.actors}
    restart = []
    if new := sorted(now.keys() - before.keys()):
        restart.append(f"the new {', '.join(new)}")
    if gone := sorted(before.keys() - now.keys()):
        restart.append(f"the end of {', '.join(gone)}")
    if [each.spec for each in found.flows] != [each.spec for each in running.flows]:
        restart.append("the changed flows")
    if [each.spec for each in found.schedules] != [each.spec for each in running.schedules]:
        restart.append("the changed schedules")
    changed = [
        actor for name, actor in now.items() if name in before and actor.spec != before[name].spec
    ]
    return Changes(tuple(changed), tuple(restart))
