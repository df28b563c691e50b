"""What a sidecar tells those who watch it: cold starts, whose output it is, what was canceled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from asya.sidecar.replica import ECHO_S
from asya.testing.loopback import LoopbackCall

if TYPE_CHECKING:
    from tests.unit.sidecar.conftest import Bench


async def slow(call: LoopbackCall) -> None:
    await asyncio.sleep(10)
    call.frame(call.payload)
    call.done()


async def echo(call: LoopbackCall) -> None:
    call.frame(call.payload)
    call.done()


def test_a_cold_start_lasts_from_the_first_message_to_the_first_replica(
    play: Callable[..., Any],
) -> None:
    async def scene(bench: Bench) -> None:
        took: list[float] = []
        bench.sidecar.on_cold_start = took.append
        first = await bench.send(bench.envelope())
        await asyncio.sleep(1)
        await bench.send(bench.envelope())
        await asyncio.sleep(2)
        bench.replica(echo)
        bench.replica(echo)
        await bench.ledger.end_of(first)
        assert [round(each, 1) for each in took] == [3.0]

    play(scene)


def test_a_replica_that_nobody_waits_for_is_no_cold_start(play: Callable[..., Any]) -> None:
    async def scene(bench: Bench) -> None:
        took: list[float] = []
        bench.sidecar.on_cold_start = took.append
        bench.replica(echo)
        await bench.ledger.end_of(await bench.send(bench.envelope()))
        bench.runtimes[1].die()
        # nor is one whose message was canceled before it came
        await asyncio.sleep(1)
        bench.cancels.add([await bench.send(bench.envelope())])
        await asyncio.sleep(3600)
        bench.replica(echo)
        await asyncio.sleep(1)
        assert took == []

    play(scene)


def test_a_line_belongs_to_the_call_at_work_and_shortly_to_the_last(
    play: Callable[..., Any],
) -> None:
    async def scene(bench: Bench) -> None:
        bench.replica(slow)
        assert bench.sidecar.working_on(1) is None
        first = await bench.send(bench.envelope())
        second = await bench.send(bench.envelope())
        await asyncio.sleep(5)
        assert bench.sidecar.working_on(1) == first
        await asyncio.sleep(10)
        assert bench.sidecar.working_on(1) == second
        await bench.ledger.end_of(second)
        await asyncio.sleep(ECHO_S / 2)
        assert bench.sidecar.working_on(1) == second
        await asyncio.sleep(ECHO_S)
        assert bench.sidecar.working_on(1) is None
        assert bench.sidecar.working_on(99) is None

    play(scene)


def test_of_several_calls_at_a_time_nobody_can_tell(play: Callable[..., Any]) -> None:
    async def scene(bench: Bench) -> None:
        bench.replica(slow, concurrency=2)
        id_ = await bench.send(bench.envelope())
        await asyncio.sleep(5)
        assert bench.sidecar.snapshot().in_flight == 1
        assert bench.sidecar.working_on(1) is None
        await bench.ledger.end_of(id_)

    play(scene, concurrency=2)


def test_what_is_canceled_is_counted_apart(play: Callable[..., Any]) -> None:
    async def scene(bench: Bench) -> None:
        bench.replica(slow, cooperative=True)
        waiting = [await bench.send(bench.envelope()) for _ in range(2)]
        await asyncio.sleep(1)
        bench.cancels.add(waiting)
        for id_ in waiting:
            await bench.ledger.end_of(id_)
        seen = bench.sidecar.snapshot()
        assert (seen.received, seen.canceled, seen.failed, seen.succeeded) == (2, 2, 0, 0)

    play(scene)
