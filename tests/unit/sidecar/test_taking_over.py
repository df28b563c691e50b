"""A replica that goes while it works: what comes meanwhile is not held up by it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from asya.testing.loopback import LoopbackCall

if TYPE_CHECKING:
    from tests.unit.sidecar.conftest import Bench


async def slow(call: LoopbackCall) -> None:
    await asyncio.sleep(call.payload)
    call.frame(call.payload)
    call.done()


def let_go(bench: Bench, how: str) -> None:
    if how == "finish_off":
        assert bench.sidecar.finish_off(1)
    else:
        bench.runtimes[1].terminating()


@pytest.mark.parametrize("how", ["finish_off", "terminating"])
def test_another_takes_what_comes_while_it_finishes_a_long_call(
    play: Callable[..., Any], how: str
) -> None:
    """Given a slow handler, of which nothing is held in advance."""

    async def scene(bench: Bench) -> None:
        bench.replica(slow)
        await bench.ledger.end_of(await bench.send(bench.envelope(payload=1)))
        long = await bench.send(bench.envelope(payload=250))
        await asyncio.sleep(1)
        let_go(bench, how)
        other = bench.replica(slow)
        for _ in range(3):
            await bench.ledger.end_of(await bench.send(bench.envelope(payload=2)))
        assert asyncio.get_running_loop().time() < 20
        assert bench.runtimes[1].calls
        assert not other.said_bye
        await bench.ledger.end_of(long)
        assert bench.runtimes[1].said_bye

    play(scene)


@pytest.mark.parametrize("how", ["finish_off", "terminating"])
def test_what_comes_wakes_the_autoscaler_while_the_last_one_finishes(
    play: Callable[..., Any], how: str
) -> None:
    async def scene(bench: Bench) -> None:
        bench.replica(slow)
        long = await bench.send(bench.envelope(payload=250))
        await asyncio.sleep(1)
        let_go(bench, how)
        before = bench.changes
        next_ = await bench.send(bench.envelope(payload=0))
        await asyncio.sleep(1)
        assert bench.changes > before
        assert bench.sidecar.snapshot().waiting == 1
        bench.replica(slow)
        await bench.ledger.end_of(next_)
        assert bench.runtimes[1].calls, "the first one still works"
        await bench.ledger.end_of(long)

    play(scene)
