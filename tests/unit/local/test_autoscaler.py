from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from asya.errors import TransportUnavailable
from asya.local import autoscaler
from asya.local.notices import ReplicaDown, ReplicaStopped
from asya.scaling import Bounds
from asya.transports.base import Depth


async def test_at_zero_nobody_is_asked(cell: Any) -> None:
    await cell.start(Bounds(minimum=0, maximum=3, queue_length=1, cooldown_s=1))
    await asyncio.sleep(3 * autoscaler.POLL_S)
    assert cell.transport.asked == 0
    assert cell.scaled.due_s is None


async def test_the_first_message_wakes_and_the_cooldown_puts_to_sleep(cell: Any) -> None:
    await cell.start(Bounds(minimum=0, maximum=3, queue_length=1, cooldown_s=0.5))
    (first,) = await cell.send(0)
    assert (await cell.ledger.end_of(first)).phase == "succeeded"
    assert cell.replicas.plan.current == 1
    await cell.told.until(ReplicaDown)
    await cell.until(lambda: not cell.replicas.plan.alive and cell.scaled.due_s is None)
    asked = cell.transport.asked
    await asyncio.sleep(2 * autoscaler.IDLE_S)
    assert cell.transport.asked == asked


async def test_more_messages_than_one_replica_is_meant_for_start_more(cell: Any) -> None:
    await cell.start(Bounds(minimum=0, maximum=2, queue_length=2, cooldown_s=10))
    ids = await cell.send(*[0.2] * 8)
    await cell.until(lambda: len(cell.sidecar.snapshot().replicas) == 2)
    for each in ids:
        await cell.ledger.end_of(each)
    assert cell.replicas.plan.current == 2


async def test_a_busy_replica_is_never_ended(cell: Any) -> None:
    await cell.start(Bounds(minimum=0, maximum=2, queue_length=1, cooldown_s=0.2))
    gate = cell.folder / "gate"
    short, long = await cell.send(0.3, str(gate))
    await cell.ledger.end_of(short)
    await cell.told.until(ReplicaDown)
    assert cell.replicas.plan.current == 1
    assert [each.state for each in cell.sidecar.snapshot().replicas] == ["busy"]
    gate.touch()
    assert (await cell.ledger.end_of(long)).attempt == 1
    assert cell.sidecar.snapshot().lost == 0


async def test_a_minimum_is_started_without_any_message(cell: Any) -> None:
    await cell.start(Bounds(minimum=2, maximum=2))
    await cell.until(lambda: len(cell.sidecar.snapshot().replicas) == 2)
    assert cell.transport.asked == 0


async def test_a_replica_that_died_is_replaced(cell: Any) -> None:
    await cell.start(Bounds(minimum=1, maximum=1))
    await cell.until(lambda: cell.sidecar.snapshot().replicas)
    died = cell.sidecar.snapshot().replicas[0].pid
    cell.replicas.kill(died)
    await cell.told.until(ReplicaStopped, pid=died)
    await cell.until(lambda: [each.pid for each in cell.sidecar.snapshot().replicas] != [died])
    await cell.until(lambda: cell.sidecar.snapshot().replicas)


async def test_a_broker_that_does_not_answer_changes_nothing(
    cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoscaler, "BROKER_GONE_S", 0.05)
    gone = asyncio.Event()

    async def no_answer(queue: str) -> None:
        gone.set()
        raise TransportUnavailable("no answer")

    await cell.start(Bounds(minimum=0, maximum=2, queue_length=1, cooldown_s=10))
    with monkeypatch.context() as patched:
        patched.setattr(cell.transport, "depth", no_answer)
        first, _ = await cell.send(0.3, 0.3)
        await asyncio.wait_for(gone.wait(), 30)
        # the first message needs no answer of the broker
        await cell.ledger.end_of(first)
        assert cell.replicas.plan.current == 1
    await cell.send(0.5, 0.5, 0.5)
    await cell.until(lambda: cell.replicas.plan.current == 2)


async def test_where_the_broker_counts_nothing_it_grows_while_all_are_full_and_then_shrinks(
    cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(queue: str) -> Depth:
        return Depth(ready=0, in_flight=0, delayed=0)

    cell.transport.capabilities = replace(cell.transport.capabilities, counts_ready=False)
    monkeypatch.setattr(cell.transport, "depth", nothing)
    await cell.start(Bounds(minimum=0, maximum=3, queue_length=100, cooldown_s=0.5))
    ids = await cell.send(*[0.5] * 30)
    await cell.until(lambda: len(cell.sidecar.snapshot().replicas) == 3, within_s=30)
    for each in ids:
        await cell.ledger.end_of(each)
    await cell.until(lambda: not cell.replicas.plan.alive, within_s=30)


async def test_where_the_broker_counts_nothing_one_message_needs_one_replica(cell: Any) -> None:
    cell.transport.capabilities = replace(cell.transport.capabilities, counts_ready=False)
    await cell.start(Bounds(minimum=0, maximum=3, queue_length=100, cooldown_s=60))
    gate = cell.folder / "gate"
    (first,) = await cell.send(str(gate))
    await cell.until(lambda: cell.sidecar.snapshot().in_flight)
    asked = cell.transport.asked
    await cell.until(lambda: cell.transport.asked >= asked + 3)
    assert cell.replicas.plan.current == 1
    # a second one shows that there is more than one of them can do
    (second,) = await cell.send(0)
    await cell.until(lambda: cell.replicas.plan.current == 2)
    gate.touch()
    for each in (first, second):
        await cell.ledger.end_of(each)


async def test_a_broker_whose_counts_are_old_is_asked_less_often(cell: Any) -> None:
    cell.transport.capabilities = replace(cell.transport.capabilities, depth_age_s=60)
    await cell.start(Bounds(minimum=0, maximum=1, queue_length=1, cooldown_s=10))
    (first,) = await cell.send(4 * autoscaler.POLL_S)
    await cell.ledger.end_of(first)
    assert cell.transport.asked == 1


async def test_not_more_start_at_a_time_than_there_are_processors(
    cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoscaler, "STARTING_MAX", 1)
    most = 0
    await cell.start(Bounds(minimum=0, maximum=3, queue_length=1, cooldown_s=10))
    await cell.send(*[1.0] * 3)

    def all_run() -> bool:
        nonlocal most
        most = max(most, cell.replicas.plan.starting_count)
        return len(cell.sidecar.snapshot().replicas) == 3

    await cell.until(all_run)
    assert most == 1
