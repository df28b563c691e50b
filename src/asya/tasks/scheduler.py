"""Fires schedules: a chore that runs when something is due, and admits it.

What was done last is in the task store. A due time is noted as dealt with after its run was
admitted; a death in between admits the same id again, which is the same task. Owned by the task
service, which it admits through.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from msgspec import Raw

from asya.clock import Clock, from_rfc3339, seconds_until, to_rfc3339
from asya.errors import StoreError, nearest
from asya.tasks.admission import Admission
from asya.tasks.idempotency import IdempotencyKey
from asya.tasks.refusals import Kind, Refusal, refuses_store_errors
from asya.tasks.rules import TaskRow
from asya.tasks.schedule import DUE_HEADER, NAME_HEADER, ScheduleSpec, plan, run_id
from asya.tasks.store.base import ScheduleRow, ScheduleStore

SLEEP_MAX_S: Final = 30.0
"""The longest sleep: the machine's clock may be set, or the machine may have slept."""

RETRY_S: Final = 0.5
"""How soon a run is tried again that the mesh could not take."""

SUSPENDED_NOTE: Final = timedelta(seconds=60)
"""How old `seen_at` of a suspended schedule may become: what was due meanwhile is not missed."""

log = logging.getLogger(__name__)


class Admits(Protocol):
    """What the scheduler needs of the task service."""

    def admit(
        self,
        actors: Sequence[str],
        payload: Raw,
        *,
        id: str,
        headers: Mapping[str, Any],
        timeout_s: float | None,
        flow: str | None,
        key: IdempotencyKey | None,
    ) -> Awaitable[Admission]:
        """See `TaskService.admit`."""
        ...


@dataclass(frozen=True)
class ScheduleState:
    """A schedule as it is now. Times are RFC 3339."""

    spec: ScheduleSpec
    suspended: bool
    next_at: str | None
    last_at: str | None
    last_id: str | None
    last_error: str | None


class Scheduler:
    """Fires the schedules of one mesh.

    Args:
        service: Admits the runs.
        store: Keeps what was done.
        specs: The schedules.
        namespace: Part of the runs' ids.
        clock: The time of day.

    Attributes:
        trace_headers: Headers that put a run into a trace, by the schedule's name; none unless
            somebody records traces.
    """

    def __init__(
        self,
        service: Admits,
        store: ScheduleStore,
        specs: Sequence[ScheduleSpec],
        *,
        namespace: str,
        clock: Clock,
    ) -> None:
        self.trace_headers: Callable[[str], Mapping[str, str]] = _no_headers
        self._service = service
        self._store = store
        self._specs = {spec.name: spec for spec in specs}
        self._namespace = namespace
        self._clock = clock
        self.woken = asyncio.Event()
        self._alone = asyncio.Lock()
        self._known: dict[str, ScheduleRow] = {}
        self._looks: dict[str, float] = {}

    @refuses_store_errors
    async def states(self) -> list[ScheduleState]:
        """All schedules, by name."""
        rows = await self._read()
        return [self._state(spec, rows.get(name)) for name, spec in sorted(self._specs.items())]

    @refuses_store_errors
    async def state(self, name: str) -> ScheduleState:
        """One schedule.

        Raises:
            Refusal: There is none of this name.
        """
        spec = self._spec(name)
        return self._state(spec, (await self._read()).get(name))

    @refuses_store_errors
    async def run(self, name: str, id: str | None = None) -> TaskRow:
        """Fire a schedule now, suspended or not; its concurrency policy holds.

        Args:
            name: The schedule.
            id: The run's id; the same id again is the same run.

        Raises:
            Refusal: There is none of this name, or the run is refused. After a refusal of the
                store the run may have been admitted.
        """
        spec = self._spec(name)
        async with self._alone:
            await self._refresh()
            now = self._clock.now()
            row = await self._row(spec, now)
            task = await self._admit(spec, id or str(uuid.uuid4()), now)
            row.last_at, row.last_id, row.last_error = to_rfc3339(now), task.id, None
            await self._store.save(row)
        return task

    @refuses_store_errors
    async def suspend(self, name: str, *, suspended: bool) -> ScheduleState:
        """Make no more runs, or make them again; what was due meanwhile is not made up for.

        Raises:
            Refusal: There is none of this name, or the store cannot be used: nothing has changed.
        """
        spec = self._spec(name)
        async with self._alone:
            await self._refresh()
            now = self._clock.now()
            row = await self._row(spec, now)
            if self._is_suspended(spec, row):
                row.seen_at = max(row.seen_at, to_rfc3339(now))
            row.suspended = suspended
            await self._store.save(row)
        self._looks.pop(name, None)
        self.woken.set()
        return self._state(spec, row)

    async def run_once(self, now: datetime) -> float:
        """Fire what is due; see `asya.chores.Chore`.

        Raises:
            StoreError: What was done before cannot be read, so nothing was done.
        """
        time = asyncio.get_running_loop().time
        async with self._alone:
            await self._refresh()
        began = time()
        for spec in self._specs.values():
            if self._looks.get(spec.name, began) <= began:
                wait_s = await self._try(spec)
                self._looks[spec.name] = time() + min(wait_s, SLEEP_MAX_S)
        return max(0.0, min(self._looks.values(), default=began + SLEEP_MAX_S) - time())

    async def _try(self, spec: ScheduleSpec) -> float:
        try:
            return await self._look(spec)
        except StoreError as error:
            log.warning("schedule %s: %s", spec.name, error)
            return RETRY_S
        except Exception:
            log.exception("schedule %s failed", spec.name)
            return SLEEP_MAX_S

    async def _look(self, spec: ScheduleSpec) -> float:
        """Fire what is due; seconds until this schedule wants to be looked at again."""
        async with self._alone:
            now = self._clock.now()
            row = await self._row(spec, now)
            seen_at = from_rfc3339(row.seen_at)
            if self._is_suspended(spec, row):
                if now - seen_at > SUSPENDED_NOTE:
                    row.seen_at = to_rfc3339(now)
                    await self._store.save(row)
                return SLEEP_MAX_S
            steps = plan(spec, seen_at, now)
            if not await self._fire(spec, row, steps.runs):
                return RETRY_S
            if steps.missed is not None:
                row.seen_at = to_rfc3339(steps.seen_at)
                row.last_error = f"missed at {row.seen_at}: nothing could be sent at that time"
                await self._store.save(row)
                log.warning("schedule %s: %s", spec.name, row.last_error)
            upcoming = spec.timetable.next_after(steps.seen_at)
        if upcoming is None:
            return SLEEP_MAX_S
        return max(0.0, seconds_until(upcoming, self._clock.now()))

    async def _fire(self, spec: ScheduleSpec, row: ScheduleRow, runs: Sequence[datetime]) -> bool:
        """Admit runs in their order; False when one must be tried again."""
        for due in runs:
            at = to_rfc3339(due)
            try:
                task = await self._admit(spec, run_id(self._namespace, spec.name, due), due)
            except Refusal as error:
                if error.transient:
                    return False
                row.last_error = f"no run at {at}: {_reason(error)}"
                log.warning("schedule %s: %s", spec.name, row.last_error)
            else:
                row.last_at, row.last_id, row.last_error = at, task.id, None
            row.seen_at = at
            await self._store.save(row)
        return True

    async def _admit(self, spec: ScheduleSpec, id: str, due: datetime) -> TaskRow:
        admission = await self._service.admit(
            spec.route,
            spec.payload,
            id=id,
            headers={
                NAME_HEADER: spec.name,
                DUE_HEADER: to_rfc3339(due),
                **self.trace_headers(spec.name),
            },
            timeout_s=spec.timeout_s,
            flow=spec.flow,
            key=spec.key,
        )
        return admission.row

    async def _row(self, spec: ScheduleSpec, now: datetime) -> ScheduleRow:
        """What is known of a schedule since the last `_refresh`; a new one begins now."""
        row = self._known.get(spec.name)
        if row is None:
            row = ScheduleRow(spec.name, to_rfc3339(now))
            await self._store.save(row)
            self._known[spec.name] = row
        return row

    async def _refresh(self) -> None:
        """Read what is known: another gateway may have fired, or been asked to suspend."""
        self._known = await self._read()

    async def _read(self) -> dict[str, ScheduleRow]:
        return {row.name: row for row in await self._store.all()}

    def _spec(self, name: str) -> ScheduleSpec:
        spec = self._specs.get(name)
        if spec is None:
            close = nearest(name, self._specs)
            hint = f"; did you mean {close!r}?" if close else ""
            raise Refusal(
                Kind.UNKNOWN_SCHEDULE, f"there is no schedule {name!r}{hint}", nearest=close
            )
        return spec

    @staticmethod
    def _is_suspended(spec: ScheduleSpec, row: ScheduleRow | None) -> bool:
        asked = None if row is None else row.suspended
        return spec.suspended if asked is None else asked

    def _state(self, spec: ScheduleSpec, row: ScheduleRow | None) -> ScheduleState:
        suspended = self._is_suspended(spec, row)
        upcoming = None if suspended else spec.timetable.next_after(self._clock.now())
        return ScheduleState(
            spec,
            suspended,
            None if upcoming is None else to_rfc3339(upcoming),
            None if row is None else row.last_at,
            None if row is None else row.last_id,
            None if row is None else row.last_error,
        )


def _no_headers(name: str) -> Mapping[str, str]:
    return {}


def _reason(error: Refusal) -> str:
    if error.kind is Kind.KEY_TAKEN:
        return f"the run before, {error.id}, has not ended"
    return error.text
