"""Facts behind `asya why`, latencies per actor, and the chore that marks what is stuck.

The chore reads open tasks in pages, one per run, and sleeps while there are none, so an idle mesh
does not pay for it. A mark is an event of its own in the store; whatever moves a task removes it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

import msgspec

from asya.clock import Clock, from_rfc3339, to_rfc3339
from asya.envelope import ErrorInfo
from asya.errors import TransportError, nearest
from asya.events import Event, HopEnded, HopStarted
from asya.tasks.diagnosis.latency import ActorLatency, Latencies
from asya.tasks.diagnosis.stuck import stuck_after_s
from asya.tasks.diagnosis.why import (
    ActorFacts,
    DeadLetterFact,
    Facts,
    FailureFacts,
    Position,
    Times,
)
from asya.tasks.mesh import ActorStatus, MeshClient
from asya.tasks.rules import Failure, StuckData, TaskRow
from asya.tasks.store.base import DeadLetterQuery, OpenTask, Query, Store
from asya.tasks.store.payloads import Keeping, Seen
from asya.tasks.stored_events import EventRow, StoredEnd, StoredStart, stored_hop

LOOK_EVERY_S: Final = 2.0
"""Time between two looks of the watcher, while anything is open."""

PAGE: Final = 500
"""Open tasks that one look reads; the next look goes on behind them."""

PREFIX_MIN: Final = 8
"""Characters of an id that stand for it, wherever one is taken, where only one begins with them."""

CHILDREN_MAX: Final = 500
"""Children of a fan-out that are counted, the newest."""

LINES_MAX: Final = 10
"""Lines of the log that one look may write."""

_decode_failure = msgspec.json.Decoder(Failure).decode
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Capturing:
    """How payloads of hops are kept; defaults as in `asya.settings`.

    Attributes:
        keeping: How much of one, and what is masked.
        keep_s: For how long, in seconds.
    """

    keeping: Keeping = field(default_factory=Keeping)
    keep_s: float = 24 * 3600.0


class Diagnosis:
    """See the module's text.

    Args:
        store: Open before `watch` begins.
        mesh: For what runs.
        clock: The time of day.
        capturing: What is kept of payloads that sidecars hand over.
        on_marked: Is told the ids that have been marked.
        on_open: Is told the id and the deadline of each open task that the watcher passes over.
    """

    def __init__(
        self,
        store: Store,
        mesh: MeshClient,
        clock: Clock,
        capturing: Capturing | None = None,
        on_marked: Callable[[Iterable[str]], None] = lambda ids: None,
        on_open: Callable[[str, str | None], None] = lambda _id, _at: None,
    ) -> None:
        self._on_open = on_open
        self._on_marked = on_marked
        self._store = store
        self._mesh = mesh
        self._clock = clock
        self._capturing = capturing or Capturing()
        self._latencies = Latencies()
        self.woken = asyncio.Event()
        self._after = 0

    # -- what the sidecars tell -------------------------------------------------------------------

    def take(self, event: Event) -> tuple[Seen, ...]:
        """Learn from an event; gives the payloads that came along and are to be kept."""
        self.woken.set()
        if isinstance(event, HopStarted):
            self._latencies.started(event)
            if event.payload is not None:
                return (self._seen(event, "in", event.payload),)
        elif isinstance(event, HopEnded):
            self._latencies.ended(event)
            given, made = event.payload_in, event.payload
            both = (("in", given), ("out", made))
            return tuple(self._seen(event, side, raw) for side, raw in both if raw is not None)
        return ()

    def _seen(self, event: HopStarted | HopEnded, side: str, payload: msgspec.Raw) -> Seen:
        keeping = self._capturing.keeping
        return Seen(event.n, event.attempt, side, event.at, payload, keeping)

    def admitted(self) -> None:
        """There is a new task: the watcher has something to look at."""
        self.woken.set()

    # -- what is asked ----------------------------------------------------------------------------

    def latency(self, actor: str) -> ActorLatency:
        """How long an actor usually takes."""
        return self._latencies.of(actor)

    def with_latency(self, status: ActorStatus) -> ActorStatus:
        """The status of an actor with its percentiles."""
        latency = self._latencies.of(status.name)
        return replace(
            status,
            p50_ms=_ms(latency.handler.p50_s),
            p99_ms=_ms(latency.handler.p99_s),
            queue_p99_ms=_ms(latency.queue.p99_s),
        )

    async def nearest_id(self, id: str) -> str | None:
        """The id that an unknown one most likely means; one that begins with it comes first."""
        close = await self._store.tasks.similar_ids(id)
        begins = [each for each in close if each.startswith(id)]
        return begins[0] if len(begins) == 1 else nearest(id, close)

    async def whole_id(self, id: str) -> str | None:
        """The one id that begins with these characters, or None.

        None for fewer than `PREFIX_MIN` of them, and when no id begins so, or several do.
        """
        if len(id) < PREFIX_MIN:
            return None
        begins = [each for each in await self._store.tasks.similar_ids(id) if each.startswith(id)]
        return begins[0] if len(begins) == 1 else None

    async def facts(self, id: str) -> Facts:
        """All that is known of why an envelope is where it is."""
        now = self._clock.now()
        detail = await self._store.tasks.get(id)
        if detail is None:
            whole = await self.whole_id(id)
            if whole is None or whole == id:
                return Facts(id, now, nearest=await self.nearest_id(id))
            return await self.facts(whole)
        row = detail.row
        position = position_of(row, newest_that_tells(detail.events))
        failure = None if row.error is None else _decode_failure(row.error)
        actor_name = position.actor if position is not None else row.route.curr
        found = await self._store.tasks.queue_facts(id, actor_name, row.updated_at)
        actor = None if row.ended else await self._actor(actor_name)
        family = await self._store.tasks.page(Query(root=id, limit=CHILDREN_MAX))
        names = [] if row.ended or actor is not None else await self._mesh.actors()
        return Facts(
            id,
            now,
            status=row.status,
            times=Times(
                moment(row.created_at),
                moment(row.updated_at),
                moment(row.not_before),
                moment(row.deadline_at),
            ),
            failure=FailureFacts(
                _one_line(failure),
                None if failure is None else failure.reason,
                None if found is None else moment(found.dead_at),
                await self._letter(id) if found is not None and found.dead_at else None,
            ),
            published=found is None or found.published or bool(row.n) or row.status != "pending",
            problem=self._mesh.problem(),
            position=position,
            at=ActorFacts(
                actor,
                0 if found is None else found.ahead,
                self._latencies.of(actor_name),
                moment(self._latencies.newest_start(actor_name)),
                nearest(actor_name, names),
            ),
            children=Counter(each.status for each in family if each.id != id),
        )

    async def _letter(self, id: str) -> DeadLetterFact | None:
        """What became of its dead letter."""
        found = await self._store.dead_letters.page(
            DeadLetterQuery(status=None, ids=(id,), limit=1)
        )
        if not found:
            return None
        return DeadLetterFact(found[0].status, moment(found[0].changed_at), found[0].retried_as)

    async def _actor(self, name: str) -> ActorStatus | None:
        try:
            return await self._mesh.one_status(name)
        except TransportError:
            return None

    # -- the watcher ------------------------------------------------------------------------------

    async def run_once(self, now: datetime) -> float | None:
        """Mark what stands still, a page of open tasks at a time; see `asya.chores.Chore`.

        Whatever is emitted or admitted wakes it, so an idle mesh does not pay for it.
        """
        await self.look()
        return None

    async def look(self) -> list[str]:
        """Read one page of open tasks; gives the ids that are now marked as stuck."""
        page = await self._store.events.open_tasks(after=self._after, limit=PAGE)
        if page or self._after:
            self.woken.set()  # there is more, or there may be something by the next look
        self._after = page[-1].row.key if len(page) == PAGE else 0
        for each in page:
            self._on_open(each.row.id, each.row.deadline_at)
        now = self._clock.now()
        found = [mark for each in page if (mark := self._mark(each, now)) is not None]
        if not found:
            return []
        marked = await self._store.events.mark_stuck(
            [(each.row.id, each.row.seq, data) for each, data in found]
        )
        self._on_marked(marked)
        told = [(each.row.id, data) for each, data in found if each.row.id in marked]
        for id_, data in told[:LINES_MAX]:
            log.warning(
                "%s since %s, where %.3g s are usual; asya why %s",
                data.state, data.since, data.usual_s, id_,
                extra={"actor": data.actor, "envelope": id_},
            )  # fmt: skip
        if len(told) > LINES_MAX:
            rest = len(told) - LINES_MAX
            log.warning("%d more stand still; GET /v1/envelopes?stuck=true lists them", rest)
        return marked

    def _mark(self, standing: OpenTask, now: datetime) -> tuple[OpenTask, StuckData] | None:
        row = standing.row
        position = position_of(row, standing.event)
        begin = moment(row.not_before)
        if position is None or row.stuck_at is not None or row.status == "paused":
            return None
        if begin is not None and begin > now:
            return None
        since = max(position.since, begin or position.since, position.retry_at or position.since)
        latency = self._latencies.of(position.actor)
        usual = latency.handler if position.state == "running" else latency.queue
        limit_s = stuck_after_s(usual)
        if limit_s is None or usual.p99_s is None or (now - since).total_seconds() <= limit_s:
            return None
        state = "running" if position.state == "running" else "queued"
        at = to_rfc3339(now)
        return standing, StuckData(at, position.actor, state, to_rfc3339(since), usual.p99_s)


def position_of(row: TaskRow, event: EventRow | None) -> Position | None:
    """Where an open task is, by the newest event that tells; None where it has ended."""
    if row.ended:
        return None
    updated = moment(row.updated_at)
    assert updated is not None
    if event is None or event.kind == "status":
        return Position("queued", row.route.curr, updated, row.n)
    hop = stored_hop(event)
    at = moment(hop.at) or updated
    if isinstance(hop, StoredStart):
        return Position("running", hop.actor, at, hop.n, hop.attempt, hop.replica)
    error = _one_line(hop.error) if isinstance(hop, StoredEnd) else None
    if isinstance(hop, StoredEnd) and hop.state == "retrying":
        return Position(
            "retrying", hop.actor, at, hop.n, hop.attempt, None, moment(hop.retry_at),
            hop.attempts_max, error,
        )  # fmt: skip
    return Position("queued", row.route.curr, at, hop.n, hop.attempt, error=error)


def newest_that_tells(events: Sequence[EventRow]) -> EventRow | None:
    """The newest event that tells where an envelope is."""
    telling = (each for each in reversed(events) if each.kind not in {"sent", "stuck"})
    return next(telling, None)


def moment(text: str | None) -> datetime | None:
    """The moment that a stored text names; None where there is none, or nobody can read it."""
    try:
        return None if text is None else from_rfc3339(text)
    except ValueError:
        return None


def _one_line(failure: Failure | ErrorInfo | None) -> str | None:
    if failure is None:
        return None
    text = f"{failure.type}: {failure.message}" if failure.message else failure.type
    return text.partition("\n")[0]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
