"""One actor of a running mesh: its plan, its sidecar, its replicas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

from asya.local.replicas import ReplicaSet
from asya.scaling import Candidate, Peak
from asya.sidecar.snapshot import SidecarSnapshot
from asya.transports.base import Depth

if TYPE_CHECKING:
    from asya.local.mesh_plan import ActorPlan


class ActorSidecar(Protocol):
    """A sidecar as the parts of a mesh see it.

    Attributes:
        on_change: Called when a message waits, a call ends, or a replica comes or goes.
        on_files: Called with the source files that a replica has imported.
        on_body: Called with every message as it came, or None.
    """

    on_change: Callable[[], None]
    on_files: Callable[[list[str]], None]
    on_body: Callable[[bytes], None] | None

    async def start(self, socket_path: Path) -> None:
        """Listen for replicas and consume the queue."""
        ...

    def snapshot(self) -> SidecarSnapshot:
        """What it holds, does, and has done."""
        ...

    def retire(self, pid: int) -> bool:
        """Ask an idle replica to end; False where it is busy or not known."""
        ...

    async def drain(self, grace_s: float) -> None:
        """Consume no more, finish what runs within `grace_s`, give the rest back."""
        ...


class ScaledActor:
    """An actor with its part of the autoscaler's memory.

    Attributes:
        plan: How it runs; replaced when its manifest changes.
        peak: The highest need of the last cooldown.
        inspected_s: When it was last inspected, in the loop's time.
        due_s: When it is to be inspected next, or None.
        depth: What its broker said last, at `asked_s`.
    """

    def __init__(self, plan: ActorPlan, sidecar: ActorSidecar, replicas: ReplicaSet) -> None:
        self.plan = plan
        self.sidecar = sidecar
        self.replicas = replicas
        self.peak = Peak(plan.bounds.cooldown_s)
        self.inspected_s = float("-inf")
        self.due_s: float | None = None
        self.depth: Depth | None = None
        self.asked_s = float("-inf")

    def refit(self, plan: ActorPlan) -> None:
        """Its manifest has changed: from now on this plan holds."""
        if plan.bounds != self.plan.bounds:
            self.peak = Peak(plan.bounds.cooldown_s)
        self.plan = plan

    def candidates(self) -> list[Candidate]:
        """Its replicas, for the choice of which to end."""
        starting = [
            Candidate(each.pid, "starting", each.started_at.timestamp())
            for each in self.replicas.starting
        ]
        known = [
            Candidate(
                each.pid,
                cast("Literal['idle', 'busy', 'terminating']", each.state),
                each.since.timestamp(),
            )
            for each in self.sidecar.snapshot().replicas
        ]
        return starting + known
