"""Ends envelopes whose deadline passes while they wait in a queue.

A sidecar looks at a deadline when the envelope's turn comes, and behind others that may be long
after it; who waits for the result shall not. So the task is ended on time here, and the message
that is still in the queue is dropped by the sidecar, which finds the deadline passed: the first
terminal state of an id is kept. What a replica works on is the sidecar's to stop.

The nearest deadlines are kept in memory, at most `KEPT_MAX`; those of other open tasks come in as
the watcher of `insight` passes over them, also after a restart. Called by the task service.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left, insort
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

from asya.clock import Clock, to_rfc3339
from asya.envelope import END_ACTORS, ErrorInfo
from asya.errors import AsyaError
from asya.events import Finished
from asya.tasks.diagnosis.facts import moment, newest_that_tells, position_of
from asya.tasks.rules import TaskRow
from asya.tasks.store.base import Detail

KEPT_MAX: Final = 10_000
"""Deadlines that are kept in memory, the nearest."""

SETTLE_S: Final = 0.25
"""An envelope is ended so long after its deadline: by then all is told that began before it."""

LATE_TYPE: Final = "asya.errors.DeadlineExceeded"

log = logging.getLogger(__name__)


class Deadlines:
    """See the module's text.

    Args:
        clock: The time of day.
        read: A task with all that has been told of it, or None.
        finish: Stores an end.
    """

    def __init__(
        self,
        clock: Clock,
        read: Callable[[str], Awaitable[Detail | None]],
        finish: Callable[[Finished], Awaitable[bool]],
    ) -> None:
        self._clock = clock
        self._read = read
        self._finish = finish
        self._nearest: list[tuple[datetime, str]] = []  # sorted
        self._by_id: dict[str, datetime] = {}
        self.woken = asyncio.Event()

    @property
    def kept(self) -> int:
        """Deadlines that are kept in memory."""
        return len(self._nearest)

    def add(self, id: str, deadline_at: str | None) -> None:
        """Keep the deadline of an open task; none, or one that is kept already, changes nothing."""
        deadline = None if id in self._by_id else moment(deadline_at)
        if deadline is None:
            return
        if len(self._nearest) >= KEPT_MAX:
            if deadline >= self._nearest[-1][0]:
                return
            del self._by_id[self._nearest.pop()[1]]
        insort(self._nearest, (deadline, id))
        self._by_id[id] = deadline
        if self._nearest[0][1] == id:
            self.woken.set()

    def drop(self, id: str) -> None:
        """Forget a task that has ended."""
        deadline = self._by_id.pop(id, None)
        if deadline is not None:
            del self._nearest[bisect_left(self._nearest, (deadline, id))]

    async def run_once(self, now: datetime) -> float | None:
        """End what is late; see `asya.chores.Chore`."""
        await self.end_late()
        return self._left_s()

    def _left_s(self) -> float | None:
        """Seconds to the next deadline that is to be looked at; None where there is none."""
        if not self._nearest:
            return None
        due = self._nearest[0][0] + timedelta(seconds=SETTLE_S)
        return max(0.0, (due - self._clock.now()).total_seconds())

    async def end_late(self) -> list[str]:
        """End the tasks that are late now and wait in a queue; gives their ids."""
        before = self._clock.now() - timedelta(seconds=SETTLE_S)
        ended = []
        while self._nearest and self._nearest[0][0] <= before:
            id_ = self._nearest[0][1]
            self.drop(id_)
            try:
                if await self._end(id_):
                    ended.append(id_)
            except AsyaError as error:  # the watcher brings it in again
                log.warning("not ended at its deadline: %s", error, extra={"envelope": id_})
        return ended

    async def _end(self, id: str) -> bool:
        detail = await self._read(id)
        if detail is None or not waits(detail):
            return False
        return await self._finish(late_end(detail.row, self._clock.now()))


def waits(detail: Detail) -> bool:
    """Whether a task stands in the queue of an actor that is no end."""
    position = position_of(detail.row, newest_that_tells(detail.events))
    if position is None or detail.row.status == "paused":
        return False
    return position.state != "running" and position.actor not in END_ACTORS


def late_end(row: TaskRow, now: datetime) -> Finished:
    """The end of a task whose deadline passed in a queue, as the sidecar would tell it."""
    text = f"deadline_at ({row.deadline_at}) passed before {row.route.curr} began"
    return Finished(
        id=row.id,
        phase="failed",
        at=to_rfc3339(now),
        n=row.n,
        root=row.root,
        route=row.route,
        created_at=row.created_at,
        attempt=row.attempt,
        parent_id=row.parent_id,
        flow=row.flow,
        reason="DeadlineExceeded",
        error=ErrorInfo(type=LATE_TYPE, message=text, mro=[LATE_TYPE]),
        deadline_at=row.deadline_at,
    )
