"""Work that a process does by itself, again and again: one loop for all of it.

A chore does what is due in `run_once` and says when it wants to run again. `ChoreRunner` owns what
all chores share: the sleep, the wake-up, errors and their back-off, and the question who leads. Of
several processes that share a database only the leader runs chores. On a laptop this process
always leads; with a shared database `Leader` is a lease in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from asya.clock import Clock
from asya.errors import AsyaError

FOLLOWER_EVERY_S: Final = 1.0
"""How often a process that does not lead asks again whether it does."""

RETRY_FIRST_S: Final = 0.5
RETRY_MOST_S: Final = 10.0
"""Seconds until a chore that failed runs again: doubled from failure to failure.

A wake ends it early, but not before the first of the two.
"""

log = logging.getLogger(__name__)


class Chore(Protocol):
    """One kind of work. Runs never overlap.

    Attributes:
        woken: Set when there is something to do before the time that `run_once` gave. The runner
            clears it before each run, so what is set during a run leads to another one.
    """

    woken: asyncio.Event

    async def run_once(self, now: datetime) -> float | None:
        """Do what is due.

        Returns:
            Seconds until it wants to run again, or None: as soon as it is woken.

        Raises:
            AsyaError: It could not be done now. The runner tries again, later and later, or when the
                chore is woken. It logs the first failure, and when the chore works again.
        """
        ...


class Leader(Protocol):
    """Whether this process runs the chores."""

    def term(self) -> int | None:
        """The fencing number under which this process leads, or None while it does not.

        A number is larger than those of all earlier leaders, so a database can refuse the writes
        of a leader that has been replaced and does not know it yet.
        """
        ...


@dataclass
class FixedLeader:
    """Leads always, or with None never."""

    number: int | None = 1

    def term(self) -> int | None:
        """See `Leader.term`."""
        return self.number


@dataclass(frozen=True)
class _Entry:
    chore: Chore
    name: str
    first_s: float
    pause_s: float


class ChoreRunner:
    """Runs chores side by side, each in a task of its own. `add` them, `start`, then `close`.

    Args:
        clock: The time of day.
        leader: Who leads; without one this process does.
    """

    def __init__(self, clock: Clock, leader: Leader | None = None) -> None:
        self._clock = clock
        self._leader = leader or FixedLeader()
        self._entries: list[_Entry] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = asyncio.Event()

    @property
    def running(self) -> bool:
        """Whether it was started, and not closed."""
        return bool(self._tasks) and not self._closing.is_set()

    def add(self, chore: Chore, name: str, *, first_s: float = 0.0, pause_s: float = 0.0) -> None:
        """Run a chore from `start` on.

        Args:
            chore: What to run.
            name: For logs, as in "the chore NAME failed".
            first_s: Seconds until its first run.
            pause_s: Seconds between two runs at least, even if it is woken.
        """
        assert not self._tasks, "chores are added before the start"
        self._entries.append(_Entry(chore, name, first_s, pause_s))

    def start(self) -> None:
        """Begin to run."""
        self._closing.clear()
        self._tasks = [
            asyncio.create_task(self._run(each), name=f"asya-{each.name}") for each in self._entries
        ]

    async def close(self, timeout_s: float = 0.0) -> None:
        """Run nothing any more. Runs under way have `timeout_s` to end, then they are canceled.

        A chore that sleeps ends at once.
        """
        self._closing.set()
        for entry in self._entries:
            entry.chore.woken.set()
        tasks, self._tasks = self._tasks, []
        if tasks and timeout_s:
            await asyncio.wait(tasks, timeout=timeout_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, entry: _Entry) -> None:
        await self._sleep(entry.first_s)
        failures = 0
        while not self._closing.is_set():
            if self._leader.term() is None:
                await self._sleep(FOLLOWER_EVERY_S)
                continue
            # Cleared before the run: what comes in during it must not be missed.
            entry.chore.woken.clear()
            try:
                wait_s = await entry.chore.run_once(self._clock.now())
            except Exception as error:
                failures += 1
                _tell(entry.name, error, first=failures == 1)
                retry_s = min(RETRY_FIRST_S * 2 ** min(failures - 1, 16), RETRY_MOST_S)
                # A wake may end the back-off, but not the pause: under load a chore is woken all
                # the time, and would try a store that is down without a stop.
                await self._sleep(RETRY_FIRST_S)
                await self._wait(entry.chore.woken, retry_s - RETRY_FIRST_S)
                continue
            if failures:
                log.warning("the chore %s works again after %d failures", entry.name, failures)
                failures = 0
            # At least once round the loop: a run that never waits would stop everything else.
            await self._sleep(entry.pause_s)
            if wait_s is None or wait_s > 0:
                await self._wait(entry.chore.woken, wait_s)

    async def _sleep(self, seconds: float) -> None:
        """Sleep, or until the close."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    async def _wait(self, woken: asyncio.Event, timeout_s: float | None) -> None:
        """Wait until a chore is woken, the time is over, or the close."""
        if self._closing.is_set() or (timeout_s is not None and timeout_s <= 0):
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await woken.wait()  # `close` sets it too


def _tell(name: str, error: Exception, *, first: bool) -> None:
    """Log a failure. An outage is told once; a bug has its traceback each time."""
    if not isinstance(error, AsyaError):
        log.error("the chore %s failed, and is tried again", name, exc_info=error)
    elif first:
        log.warning("the chore %s failed, and is tried until it works: %s", name, error)
    else:
        log.debug("the chore %s failed again: %s", name, error)
