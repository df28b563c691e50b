"""The loop of the chores, on virtual time: when they run, who leads, what a failure leads to."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime

import pytest

from asya.chores import RETRY_FIRST_S, RETRY_MOST_S, ChoreRunner, FixedLeader
from asya.errors import StoreError
from asya.testing import VirtualClock, run_virtual


class Recorded:
    """A chore that keeps the seconds at which it ran; `failures` of its runs fail first."""

    def __init__(self, wait_s: float | None = 10.0, failures: int = 0) -> None:
        self.woken = asyncio.Event()
        self.ran: list[float] = []
        self.wait_s = wait_s
        self.failures = failures
        self.failure: Exception = StoreError("away")

    async def run_once(self, now: datetime) -> float | None:
        self.ran.append(asyncio.get_running_loop().time())
        if self.failures:
            self.failures -= 1
            raise self.failure
        return self.wait_s


def during(
    chore: Recorded,
    story: Callable[[], Awaitable[object]],
    *,
    leader: FixedLeader | None = None,
    first_s: float = 0.0,
    pause_s: float = 0.0,
) -> list[float]:
    """Run a chore for the time of a story; gives the seconds at which it ran."""

    async def main() -> None:
        runner = ChoreRunner(VirtualClock(), leader)
        runner.add(chore, "recorded", first_s=first_s, pause_s=pause_s)
        runner.start()
        assert runner.running
        await story()
        await runner.close()
        assert not runner.running

    run_virtual(main())
    return chore.ran


def test_a_chore_runs_again_when_it_said() -> None:
    assert during(Recorded(10.0), lambda: asyncio.sleep(25), first_s=2) == [2, 12, 22]


def test_a_chore_that_is_woken_runs_at_once() -> None:
    chore = Recorded(None)

    async def story() -> None:
        for _ in range(2):
            await asyncio.sleep(5)
            chore.woken.set()
        await asyncio.sleep(1)

    assert during(chore, story) == [0, 5, 10]


def test_a_chore_that_is_woken_all_the_time_pauses() -> None:
    chore = Recorded(None)

    async def story() -> None:
        for _ in range(100):
            chore.woken.set()
            await asyncio.sleep(0.1)

    assert during(chore, story, pause_s=2) == pytest.approx([0, 2, 4, 6, 8], abs=0.2)


def test_nothing_runs_while_another_process_leads_and_goes_on_afterwards() -> None:
    chore, leader = Recorded(1.0), FixedLeader(None)

    async def story() -> None:
        await asyncio.sleep(60)
        assert chore.ran == []
        leader.number = 7
        await asyncio.sleep(3)
        assert len(chore.ran) == 3
        leader.number = None
        await asyncio.sleep(60)
        assert len(chore.ran) <= 4
        chore.ran.clear()
        leader.number = 9
        await asyncio.sleep(3)
        assert chore.ran

    during(chore, story, leader=leader)


def test_a_chore_that_fails_is_tried_again_later_and_later() -> None:
    ran = during(Recorded(1000.0, failures=8), lambda: asyncio.sleep(100))
    gaps = [later - earlier for earlier, later in itertools.pairwise(ran)]
    assert gaps == [RETRY_FIRST_S, 1, 2, 4, 8, RETRY_MOST_S, RETRY_MOST_S, RETRY_MOST_S]


def test_a_bug_in_a_chore_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    chore = Recorded(10.0, failures=1)
    chore.failure = RuntimeError("a bug")
    assert len(during(chore, lambda: asyncio.sleep(5))) == 2
    assert "the chore recorded failed" in caplog.text
    assert caplog.records[0].exc_info is not None


def test_a_run_under_way_may_end_before_the_close() -> None:
    class Slow(Recorded):
        done = False

        async def run_once(self, now: datetime) -> float | None:
            await asyncio.sleep(3)
            self.done = True
            return 0.0

    async def main(timeout_s: float) -> bool:
        chore = Slow()
        runner = ChoreRunner(VirtualClock())
        runner.add(chore, "slow")
        runner.start()
        await asyncio.sleep(1)
        await runner.close(timeout_s)
        return chore.done

    assert run_virtual(main(5.0))
    assert not run_virtual(main(0.0))


def test_a_wake_ends_the_back_off_but_not_its_first_part() -> None:
    chore = Recorded(1000.0, failures=4)  # at 0, 0.5, 1.5, 3.5, then 8 s of back-off

    async def story() -> None:
        await asyncio.sleep(3.6)
        chore.woken.set()
        await asyncio.sleep(1)

    assert during(chore, story) == pytest.approx([0, 0.5, 1.5, 3.5, 3.5 + RETRY_FIRST_S])


def test_an_outage_is_told_once_and_its_end_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "asya.chores"):
        during(Recorded(10.0, failures=5), lambda: asyncio.sleep(100))
    told = [(each.levelno, "recorded" in each.getMessage()) for each in caplog.records]
    assert told == [(logging.WARNING, True)] * 2
    assert "away" in caplog.records[0].getMessage()
    assert "works again after 5" in caplog.records[1].getMessage()


@pytest.mark.parametrize(
    ("chore", "first_s", "pause_s", "leads"),
    [
        (Recorded(), 100.0, 0.0, True),
        (Recorded(), 0.0, 100.0, True),
        (Recorded(), 0.0, 0.0, False),
        (Recorded(failures=9), 0.0, 0.0, True),
        (Recorded(None), 0.0, 0.0, True),
    ],
    ids=["first", "pause", "follower", "back-off", "unwoken"],
)
def test_a_close_does_not_wait_for_a_chore_that_sleeps(
    chore: Recorded, first_s: float, pause_s: float, leads: bool
) -> None:
    async def main() -> float:
        chore.woken = asyncio.Event()
        runner = ChoreRunner(VirtualClock(), FixedLeader(1 if leads else None))
        runner.add(chore, "sleeper", first_s=first_s, pause_s=pause_s)
        runner.start()
        await asyncio.sleep(1.7)
        began = asyncio.get_running_loop().time()
        await runner.close(60)
        return asyncio.get_running_loop().time() - began

    assert run_virtual(main()) == pytest.approx(0, abs=0.001)


def test_a_chore_that_never_waits_lets_others_run() -> None:
    class Busy(Recorded):
        async def run_once(self, now: datetime) -> float | None:
            self.ran.append(0.0)
            return 0.0

    async def main() -> int:
        chore = Busy()
        runner = ChoreRunner(VirtualClock())
        runner.add(chore, "busy")
        runner.start()
        for _ in range(10):
            await asyncio.sleep(0)
        await runner.close()
        return len(chore.ran)

    assert 1 <= run_virtual(main()) <= 10
