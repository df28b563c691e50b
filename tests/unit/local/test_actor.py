from __future__ import annotations

from dataclasses import replace
from typing import Any

from asya.local.actor import ScaledActor
from asya.scaling import Bounds


async def test_a_changed_manifest_begins_a_new_cooldown_only_if_its_bounds_changed(
    cell: Any,
) -> None:
    await cell.start(Bounds(minimum=0, maximum=3, queue_length=1, cooldown_s=60))
    actor: ScaledActor = cell.scaled
    actor.peak.note(0.0, 3)
    actor.refit(replace(actor.plan, concurrency=2))
    assert (actor.plan.concurrency, actor.peak.note(1.0, 0)) == (2, 3)
    actor.refit(replace(actor.plan, bounds=Bounds(minimum=0, maximum=1)))
    assert actor.peak.note(2.0, 0) == 0


async def test_its_replicas_are_candidates_with_their_states(cell: Any) -> None:
    await cell.start(Bounds(minimum=1, maximum=1))
    await cell.until(lambda: cell.replicas.starting)
    pid = cell.replicas.starting[0].pid
    assert [each.pid for each in cell.scaled.candidates()] == [pid]
    await cell.until(lambda: cell.sidecar.snapshot().replicas and not cell.replicas.starting)
    assert [(each.pid, each.state) for each in cell.scaled.candidates()] == [(pid, "idle")]
