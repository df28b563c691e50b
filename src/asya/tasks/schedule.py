"""What a schedule is to the gateway, and which of its due times become runs: pure.

The id of a run is made from the schedule's name and the due time. So whoever fires it, a gateway
that starts again or a second one, admits the same task, and it runs once.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from msgspec import Raw

from asya.clock import to_rfc3339
from asya.tasks.idempotency import IdempotencyKey
from asya.tasks.key_reservation import KeyPolicy
from asya.tasks.mesh import Idempotency
from asya.timetable import Timetable

MISSED_MAX: Final = 100
"""Runs that `missedRuns: all` makes up for at most, the newest."""

LATE_MAX: Final = timedelta(seconds=60)
"""How late the newest due time may be sent and not count as missed."""

NAME_HEADER: Final = "schedule"
DUE_HEADER: Final = "schedule-due-at"
"""Headers of a run, for handlers: the schedule's name, and its due time in RFC 3339."""

MissedRuns = Literal["skip", "last", "all"]
ConcurrencyPolicy = Literal["allow", "forbid", "replace"]

_RUNS: Final = uuid.UUID("0f2a4b0e-9d55-4f3c-8f43-6a6f4be6a9d4")
_KEY_POLICIES: Final[dict[str, KeyPolicy]] = {"forbid": "reject", "replace": "replace"}


@dataclass(frozen=True)
class ScheduleSpec:
    """A schedule, with its flow looked up.

    Attributes:
        name: The schedule.
        route: The actors.
        payload: What is sent.
        timetable: When.
        text: When, as the user wrote it.
        timezone: Of the text.
        flow: The flow, or None for a route of its own.
        timeout_s: Seconds from the admission to the deadline, or None.
        missed_runs: What becomes of due times at which nothing could be sent.
        concurrency_policy: What happens when the run before has not ended.
        suspended: Makes no runs, unless somebody resumed it.
    """

    name: str
    route: tuple[str, ...]
    payload: Raw
    timetable: Timetable
    text: str
    timezone: str = "UTC"
    flow: str | None = None
    timeout_s: float | None = None
    missed_runs: MissedRuns = "last"
    concurrency_policy: ConcurrencyPolicy = "allow"
    suspended: bool = False

    @property
    def key(self) -> IdempotencyKey | None:
        """The key that a run holds until it has ended; None when runs may overlap."""
        policy = _KEY_POLICIES.get(self.concurrency_policy)
        if policy is None:
            return None
        return IdempotencyKey(f"schedule:{self.name}", "run", Idempotency(policy, None))


@dataclass(frozen=True)
class Plan:
    """What to do now about a schedule.

    Attributes:
        runs: Due times to fire, oldest first.
        missed: The newest due time that is given up, or None.
        seen_at: Once that is done, every due time up to this one was dealt with.
    """

    runs: list[datetime]
    missed: datetime | None
    seen_at: datetime


def plan(spec: ScheduleSpec, seen_at: datetime, now: datetime) -> Plan:
    """Which due times become runs, and which are given up.

    The newest due time is on time for `LATE_MAX`; all others were missed, as their successor was
    due before anything could be sent.
    """
    due = spec.timetable.due(seen_at, now, MISSED_MAX)
    if not due:
        return Plan([], None, seen_at)
    newest = due[-1]
    if spec.missed_runs == "all":
        return Plan(due, None, newest)
    if spec.missed_runs == "last" or now - newest <= LATE_MAX:
        return Plan([newest], None, newest)
    return Plan([], newest, newest)


def run_id(namespace: str, name: str, due: datetime) -> str:
    """The id of the run of a due time."""
    return str(uuid.uuid5(_RUNS, f"{namespace}:{name}:{to_rfc3339(due)}"))
