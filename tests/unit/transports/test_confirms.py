"""Publishes that wait for their confirm."""

from __future__ import annotations

import asyncio

import pytest

from asya.errors import QueueMissing, TransportUnavailable
from asya.testing.virtual_time import run_virtual
from asya.transports.confirms import Confirms, fail


def confirms(swept: list[float] | None = None) -> Confirms[int]:
    return Confirms(5.0, lambda: "no answer", on_sweep=None if swept is None else swept.append)


async def test_an_answer_is_a_value_or_an_error_and_counts_once() -> None:
    waiting = confirms()
    value, error = waiting.expect(1), waiting.expect(2)
    assert waiting.settle(1, "stored")
    assert not waiting.settle(1, "again")
    assert waiting.settle(2, QueueMissing("gone"))
    assert await value == "stored"
    with pytest.raises(QueueMissing):
        await error
    waiting.close()


def test_each_times_out_at_its_own_time_and_late_sizes_are_kept_until_the_answer() -> None:
    async def scenario() -> None:
        swept: list[float] = []
        waiting = confirms(swept)
        first = waiting.expect(1, 100)
        await asyncio.sleep(3)
        second = waiting.expect(2, 20)
        await asyncio.sleep(3)
        assert first.done()
        assert not second.done()
        assert isinstance(first.exception(), TransportUnavailable)
        assert waiting.late_bytes == 100
        assert waiting.through(2) == [1, 2]
        assert not waiting.settle(1, None)
        assert waiting.late_bytes == 0
        await asyncio.sleep(3)
        assert isinstance(second.exception(), TransportUnavailable)
        assert swept == [5.0, 8.0]

    run_virtual(scenario())


def test_one_that_was_answered_holds_up_no_timer() -> None:
    async def scenario() -> None:
        waiting = confirms()
        waiting.expect(1)
        waiting.settle(1, None)
        await asyncio.sleep(1)
        late = waiting.expect(2)
        await asyncio.sleep(5.1)
        assert isinstance(late.exception(), TransportUnavailable)

    run_virtual(scenario())


async def test_an_answer_for_several_keeps_their_order() -> None:
    waiting = confirms()
    for key in (1, 2, 3, 5):
        waiting.expect(key)
    assert waiting.through(3) == [1, 2, 3]
    assert waiting.through(0) == []
    waiting.fail_all("closed")
    waiting.close()


async def test_a_lost_connection_fails_all_but_those_that_are_done() -> None:
    waiting = confirms()
    done, lost = waiting.expect(1, 7), waiting.expect(2, 7)
    done.cancel()
    waiting.fail_all("broke")
    assert isinstance(lost.exception(), TransportUnavailable)
    assert waiting.pending == {}
    assert waiting.late_bytes == 0
    waiting.close()


async def test_expire_fails_all_now() -> None:
    waiting = confirms()
    one = waiting.expect(1, 7)
    waiting.expire()
    assert isinstance(one.exception(), TransportUnavailable)
    assert waiting.late_bytes == 7
    waiting.close()


async def test_failures_are_not_shared() -> None:
    futures = [asyncio.get_running_loop().create_future() for _ in range(3)]
    futures[0].set_result(None)
    fail(futures, QueueMissing("gone"))
    first, second = futures[1].exception(), futures[2].exception()
    assert isinstance(first, QueueMissing)
    assert first is not second
    assert str(first) == "gone"
