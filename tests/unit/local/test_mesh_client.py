from __future__ import annotations

from typing import Any

import pytest

from asya.clock import SystemClock
from asya.envelope import ErrorInfo, new_envelope, raw_json
from asya.errors import QueueMissing, TransportUnavailable
from asya.local.mesh_client import LocalMeshClient
from asya.scaling import Bounds
from asya.tasks.mesh import FlowSpec, MeshClient

FLOWS = {"search": FlowSpec("search", ("work",))}


@pytest.fixture
async def port(cell: Any) -> MeshClient:
    await cell.start(Bounds(minimum=0, maximum=1, cooldown_s=60))
    return LocalMeshClient(
        "default",
        cell.transport,
        flows=FLOWS,
        actors={"work": cell.scaled},
        cancel=lambda ids: None,
        problem=lambda: "the disk is full",
    )


async def test_an_envelope_goes_to_the_queue_it_names(port: MeshClient, cell: Any) -> None:
    envelope = new_envelope(["work"], raw_json(0), now=SystemClock().now(), id="e")
    await port.publish(envelope, dedup_id="e")
    await port.publish(envelope, dedup_id="e")
    assert (await cell.ledger.end_of("e")).phase == "succeeded"
    assert cell.sidecar.snapshot().received == 1
    envelope.route.curr = "nobody"
    with pytest.raises(QueueMissing):
        await port.publish(envelope, dedup_id="f")


async def test_the_queue_of_an_actor_that_runs_is_missing_for_a_while_only(
    port: MeshClient, cell: Any
) -> None:
    envelope = new_envelope(["work"], raw_json(0), now=SystemClock().now(), id="e")
    await cell.transport.delete("asya-default-work")
    with pytest.raises(TransportUnavailable, match="making it again"):
        await port.publish(envelope, dedup_id="e")


async def test_it_tells_what_runs(port: MeshClient, cell: Any) -> None:
    assert await port.actors() == ["work"]
    assert port.flows() == FLOWS
    assert port.namespace == "default"
    assert port.problem() == "the disk is full"
    gate = cell.folder / "gate"
    await cell.send(str(gate), str(gate))
    await cell.until(lambda: cell.sidecar.snapshot().in_flight)
    assert await port.ready("work") == 1
    (status,) = await port.actor_status()
    assert (status.name, status.transport) == ("work", "memory")
    assert (status.queue.ready, status.queue.in_flight) == (1, 1)
    assert [each.state for each in status.replicas] == ["busy"]
    gate.touch()


async def test_a_replica_that_loads_is_shown_and_so_is_one_that_cannot(
    port: MeshClient, cell: Any
) -> None:
    cell.replicas.start(1)
    await cell.until(lambda: cell.replicas.starting)
    (status,) = await port.actor_status()
    assert [each.state for each in status.replicas] == ["starting"]
    cell.replicas.load_failed(status.replicas[0].pid, ErrorInfo("ImportError", "no x"))
    (status,) = await port.actor_status()
    assert status.last_error == status.load_error == "error ASYA-3101: ImportError: no x"
    assert status.start_at is not None
    assert await port.one_status("work") is not None
    assert await port.one_status("nobody") is None


async def test_a_broker_that_does_not_answer_hides_no_actor(
    port: MeshClient, cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_answer(queue: str) -> None:
        raise TransportUnavailable("no answer")

    monkeypatch.setattr(cell.transport, "depth", no_answer)
    (status,) = await port.actor_status()
    assert (status.queue.ready, status.queue.in_flight) == (0, 0)
