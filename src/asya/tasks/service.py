"""The task service: every envelope that a client sent, from admission to its end.

HTTP, and later MCP and A2A, are thin faces of it; sidecars and the crew tell it what happens, as
an `events.Listener` and an `events.Ledger`. What is true of a task lives in the store; this file
holds the order of things: stored before published, published before answered, terminal stored
before the last actor's message is acked. One service runs in one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from msgspec import Raw

from asya.blobs.claims import CHECKED_IN, Claims, no_claims
from asya.clock import Clock, from_rfc3339, to_rfc3339
from asya.envelope import BLOB_HEADER, FLOW_HEADER, Envelope, decode, encode, new_envelope, raw_json
from asya.errors import (
    AsyaError,
    BlobUnavailable,
    MessageTooLarge,
    QueueMissing,
    StoreError,
    StoreFull,
    TransportError,
    TransportUnavailable,
)
from asya.events import DeadLetter, Event, Finished, Flown, Forked, Ledger
from asya.tasks.admission import (
    Gate,
    check_headers,
    check_id,
    check_payload,
    check_route,
    digest,
)
from asya.tasks.dead_letters import DeadLetters
from asya.tasks.deadlines import Deadlines
from asya.tasks.diagnosis.facts import Capturing, Insight
from asya.tasks.diagnosis.why import Facts
from asya.tasks.idempotency import AdmissionKey, refused_key
from asya.tasks.key_reservation import KeyReservation
from asya.tasks.mesh import MeshClient
from asya.tasks.recorder import Recorder
from asya.tasks.refusals import RETRY_AFTER_S, Kind, Refusal
from asya.tasks.rules import TaskRow, note_of
from asya.tasks.schedule import ScheduleSpec
from asya.tasks.scheduler import Scheduler
from asya.tasks.store.base import (
    Detail,
    EventPage,
    Insertion,
    Outgoing,
    Query,
    StoredPayload,
    TaskStore,
)
from asya.tasks.watchers import Watch, Watches

CANCEL_STEP: Final = 1_000
"""Tasks that one transaction cancels."""

CANCELED_RECENTLY_MAX: Final = 10_000
"""Ids that `canceled_recently` gives a supervisor that starts again."""

SWEEP_STEP: Final = 200
"""Tasks that one transaction forgets; between two of them others can write."""

SWEEP_EVERY_S: Final = 60.0
OUTBOX_EVERY_S: Final = 5.0

OUTBOX_AGE_S: Final = 30.0
"""How long an envelope may be stored and not marked as published before it is published again."""

WAITERS_MAX: Final = 10_000
"""Requests that may wait at a time; one more is answered as if its time were over."""

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServiceLimits:
    """The settings that the service reads; defaults as in `asya.settings`.

    Attributes:
        payload_max_bytes: The largest payload that is admitted.
        queue_max: Messages that may wait in the first actor's queue before a 429.
        retention_s: How long ended tasks are kept, in seconds.
        wait_max_s: The longest `?wait=`, in seconds.
    """

    payload_max_bytes: int = 4 * 1024 * 1024
    queue_max: int = 100_000
    retention_s: float = 7 * 24 * 3600.0
    wait_max_s: float = 600.0


@dataclass(frozen=True)
class Admission:
    """The task that a request led to; `replayed`: it was there before."""

    row: TaskRow
    replayed: bool


class Ending:
    """An end that can be waited for, at most `wait_max_s`; never, when too many wait already."""

    def __init__(self, future: asyncio.Future[None] | None, wait_max_s: float) -> None:
        self._future = future
        self._wait_max_s = wait_max_s

    async def within(self, timeout_s: float) -> bool:
        """Whether the envelope ended in time, or the gateway shuts down."""
        if self._future is None:
            return False
        try:
            async with asyncio.timeout(min(timeout_s, self._wait_max_s)):
                await self._future
        except TimeoutError:
            return False
        return True

    def give_up(self) -> None:
        """Nobody waits any more."""
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


class TaskService:
    """Admits, follows, cancels and ends tasks.

    Args:
        store: Where tasks live.
        mesh: Where envelopes go.
        clock: The time of day.
        limits: Bounds.
        schedules: What to send again and again.
        capturing: What is kept of the payloads of hops.
        claims: Where big payloads go; without them every payload travels in its message.

    Attributes:
        blobs: Where big results are.
        schedules: Fires them.
        insight: Why envelopes are where they are, and how long actors take.
        dead_letters: Envelopes that nobody could handle.
        late_ends: Who is told of ends that are made at deadlines: the service, or who counts them
            before it.
    """

    def __init__(
        self,
        store: TaskStore,
        mesh: MeshClient,
        clock: Clock,
        limits: ServiceLimits | None = None,
        schedules: Sequence[ScheduleSpec] = (),
        capturing: Capturing | None = None,
        claims: Claims | None = None,
    ) -> None:
        self._claims = no_claims() if claims is None else claims
        self.blobs = self._claims.store
        self.limits = limits or ServiceLimits()
        self._store = store
        self._mesh = mesh
        self._clock = clock
        self._gate = Gate(mesh, self.limits.queue_max)
        self._watches = Watches()
        self._recorder = Recorder(store, self._recorded)
        self.late_ends: Ledger = self
        self._deadlines = Deadlines(clock, self._up_to_date, self._end_late)
        self.insight = Insight(store, mesh, clock, capturing, self._recorded, self._deadlines.add)
        self._admitting: dict[str, asyncio.Future[None]] = {}
        self._chores: list[asyncio.Task[None]] = []
        self._started = False
        self.dead_letters = DeadLetters(
            store,
            mesh,
            clock,
            self._claims,
            payload_max_bytes=self.limits.payload_max_bytes,
            check=self._check_route,
            published=self._is_published,
            unknown=self.unknown,
        )
        self.schedules = Scheduler(self, store, schedules, namespace=mesh.namespace, clock=clock)

    # Life

    async def start(self) -> None:
        """Open the store and begin the chores: publish what was stored and not published, sweep.

        Raises:
            StoreError: The store cannot be opened.
        """
        await self._store.open()
        self._started = True
        self._recorder.start()
        self.schedules.start()
        self._chores = [
            asyncio.create_task(self._publish_leftovers(), name="asya-outbox"),
            asyncio.create_task(self._sweep(), name="asya-sweep"),
            asyncio.create_task(self.insight.watch(), name="asya-watcher"),
            asyncio.create_task(self._deadlines.run(), name="asya-deadlines"),
        ]

    def release(self) -> None:
        """End all event streams and answer all waiting requests; called before the server stops."""
        self._watches.release()

    async def close(self) -> None:
        """Release everybody, store what is pending, close the store. Idempotent."""
        self.release()
        if not self._started:
            return
        self._started = False
        await self.schedules.close()
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await self._gate.close()
        await self._recorder.flush()
        await self._store.close()

    def now(self) -> datetime:
        """The time of day, by the service's clock."""
        return self._clock.now()

    @property
    def events_dropped(self) -> int:
        """Events that were not stored: there were too many, or the store did not take them."""
        return self._recorder.dropped

    def problem(self) -> str | None:
        """Why no envelope can be taken now, or None."""
        if not self._started:
            return "the gateway does not run"
        if self._watches.released:
            return "the gateway shuts down"
        return self._mesh.problem()

    async def check(self) -> None:
        """Find out whether the service can do its work.

        Raises:
            Refusal: It cannot.
        """
        problem = self.problem()
        if problem is not None:
            raise Refusal(Kind.UNAVAILABLE, problem, retry_after_s=RETRY_AFTER_S)
        await _read(self._store.outbox(limit=1))

    # What clients ask for

    async def admit(
        self,
        actors: Sequence[str],
        payload: Raw,
        *,
        id: str | None = None,
        headers: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        flow: str | None = None,
        not_before: datetime | None = None,
        key: AdmissionKey | None = None,
    ) -> TaskRow:
        """As `take`; the task alone."""
        taken = await self.take(
            actors,
            payload,
            id=id,
            headers=headers,
            timeout_s=timeout_s,
            flow=flow,
            not_before=not_before,
            key=key,
        )
        return taken.row

    async def take(
        self,
        actors: Sequence[str],
        payload: Raw,
        *,
        id: str | None = None,
        headers: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
        flow: str | None = None,
        not_before: datetime | None = None,
        key: AdmissionKey | None = None,
    ) -> Admission:
        """Take a new envelope: when this returns it is stored, and confirmed in its first queue.

        The same id again, with the same route and payload, gives the task that is there; so does
        the same key, or it is refused, or takes the task's place, as its policy says.

        Args:
            actors: The route.
            payload: JSON, known to be whole.
            id: The client's own id, or None for a new UUID.
            headers: Values are JSON values, or `Raw`.
            timeout_s: Seconds to the deadline, from `not_before` on, or None for no deadline.
            flow: The flow that it came in by.
            not_before: When it may begin; None, or a time that has passed, for at once.
            key: The client's idempotency key with its rules.

        Raises:
            Refusal: Refused; nothing is left behind. After `unavailable` it may run
                nevertheless (the broker's answer was lost); the same id or key again is safe.
        """
        check_route(actors)
        check_id(id)
        check_headers(headers or {})
        check_payload(payload, self.limits.payload_max_bytes)
        await self._check_route(actors)
        big = len(payload) > self._claims.threshold_bytes
        checked_in = await self._check_in(payload) if big else None
        all_headers = dict(headers or {})
        content = payload if checked_in is None else checked_in
        if checked_in is not None:
            all_headers[BLOB_HEADER], payload = checked_in, CHECKED_IN
        row, envelope = self._first(actors, payload, id, all_headers, timeout_s, flow, not_before)
        row.digest = digest(actors, content)
        reservation = None if key is None else key.reservation(content, self._clock.now())
        async with contextlib.AsyncExitStack() as alone:
            for mark in (row.id,) if reservation is None else (reservation.mark, row.id):
                await alone.enter_async_context(self._alone(mark))
            insertion = await self._insert(row, encode(envelope), reservation)
            self.insight.admitted()
            found = insertion.row
            _check_found(row, insertion, reservation)
            if insertion.replaced is not None:
                await self._canceled_by_key(insertion.replaced)
            if insertion.outgoing is not None:
                again = envelope if insertion.created else decode(insertion.outgoing.body)
                await self._publish(
                    again,
                    found.not_before,
                    new=insertion.created,
                    keyed=reservation is not None,
                )
        if not found.ended:
            self._deadlines.add(found.id, found.deadline_at)
        return Admission(found, not insertion.created)

    async def _check_in(self, payload: Raw) -> Raw | None:
        """What stands for a payload over the threshold: it goes to the blob store first."""
        try:
            return await self._claims.claim(payload, self._claims.threshold_bytes)
        except BlobUnavailable as error:
            raise Refusal(
                Kind.BLOBS_UNAVAILABLE, str(error), retry_after_s=RETRY_AFTER_S
            ) from error

    async def _check_route(self, actors: Sequence[str]) -> None:
        """Refuse a route that cannot be taken now."""
        problem = self.problem()
        if problem is not None:
            raise Refusal(Kind.UNAVAILABLE, problem, retry_after_s=RETRY_AFTER_S)
        await self._gate.check(actors)

    def _is_published(self, envelope: Envelope) -> None:
        """A new envelope is in its first queue, from where it is taken at once."""
        self.insight.admitted()
        self._recorder.add_published(envelope.id)
        self._gate.admitted(envelope.route.curr)

    async def unknown(self, id: str) -> Refusal:
        """The refusal of an id that no task has; names the nearest one that has."""
        return unknown(id, await _read(self.insight.nearest_id(id)))

    async def whole_id(self, id: str) -> str | None:
        """The one id that begins with these characters, or None (see `Insight.whole_id`)."""
        return await _read(self.insight.whole_id(id))

    async def _canceled_by_key(self, id: str) -> None:
        """Tell of a task that the store canceled, and cancel its children."""
        self._mesh.cancel({id})
        self._watches.ended(id)
        await self.cancel(id)

    def _first(
        self,
        actors: Sequence[str],
        payload: Raw,
        id: str | None,
        headers: Mapping[str, Any],
        timeout_s: float | None,
        flow: str | None,
        not_before: datetime | None,
    ) -> tuple[TaskRow, Envelope]:
        now = self._clock.now()
        begin = now if not_before is None else max(now, not_before)
        all_headers = dict(headers)
        if flow is not None:
            all_headers[FLOW_HEADER] = flow
        deadline = None if timeout_s is None else begin + timedelta(seconds=timeout_s)
        envelope = new_envelope(
            list(actors),
            payload,
            now=now,
            id=id or str(uuid.uuid4()),
            headers=all_headers,
            deadline=deadline,
        )
        row = TaskRow(
            id=envelope.id,
            root=envelope.id,
            route=envelope.route,
            created_at=envelope.status.created_at,
            updated_at=envelope.status.updated_at,
            flow=flow,
            headers=bytes(raw_json(envelope.headers)),
            deadline_at=envelope.status.deadline_at,
            not_before=to_rfc3339(begin) if begin > now else None,
        )
        # the time in its first queue counts from when it may be taken
        envelope.status.updated_at = to_rfc3339(begin)
        return row, envelope

    @contextlib.asynccontextmanager
    async def _alone(self, id: str) -> AsyncIterator[None]:
        """One admission of an id at a time: a second one must not answer before the first is sure."""
        while id in self._admitting:
            await asyncio.wait([self._admitting[id]])
        mine = self._admitting[id] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            del self._admitting[id]
            mine.set_result(None)

    async def _insert(
        self, row: TaskRow, body: bytes, reservation: KeyReservation | None
    ) -> Insertion:
        try:
            return await self._store.insert(row, body, reservation)
        except StoreError as error:
            raise store_problem(error) from error

    async def _publish(
        self, envelope: Envelope, not_before: str | None, *, new: bool, keyed: bool
    ) -> None:
        """Publish a stored envelope; on failure a new task is forgotten again.

        One that was there before stays: it may have been answered, and not yet marked. When the broker's answer was lost the envelope may be in the queue all the same: its events
        then make the task anew, and the same id again is recognised by broker and store.
        A key would be forgotten with its task: that task stays, and a chore publishes it.
        """
        try:
            await self._mesh.publish(
                envelope, dedup_id=f"{envelope.id}:0", not_before=_moment(not_before)
            )
        except TransportError as error:
            if new and not (keyed and isinstance(error, TransportUnavailable)):
                await self._take_back(envelope.id)
            raise _publish_problem(envelope, error) from error
        self._recorder.add_published(envelope.id)
        if not_before is None:
            self._gate.admitted(envelope.route.curr)

    async def _take_back(self, id: str) -> None:
        try:
            await self._store.discard(id)
        except StoreError as error:  # then the chore publishes it: the client may see it run
            _log.warning("the task could not be taken back: %s", error, extra={"envelope": id})

    async def get(self, id: str) -> Detail:
        """One task.

        Raises:
            Refusal: Not known, or the store cannot be read.
        """
        detail = await _read(self._store.get(id))
        if detail is None:
            raise await self.unknown(id)
        return detail

    async def facts(self, id: str) -> Facts:
        """What is known of why an envelope is where it is; an unknown id is a fact like others."""
        await self._recorder.flush()
        return await _read(self.insight.facts(id))

    async def payload(self, id: str, n: int, side: str, attempt: int | None) -> StoredPayload:
        """What was kept of a hop's payload.

        Raises:
            Refusal: The envelope is not known, or nothing was kept.
        """
        await self._recorder.flush()
        found = await _read(self._store.payload(id, n, side, attempt))
        if found is not None:
            return found
        await self.get(id)
        raise Refusal(
            Kind.NOT_FOUND,
            f"of hop {n} no payload ({side}) is kept: it has not come there, spec.capture leaves "
            "it out, or it was forgotten",
            id=id,
        )

    async def list(self, query: Query) -> list[TaskRow]:
        """A page of tasks, newest first."""
        return await _read(self._store.tasks(query))

    async def wait(self, id: str, timeout_s: float) -> Detail:
        """The task when it has ended, or as it is when the time is over (see `Ending`)."""
        with self.ending(id) as ending:
            detail = await self.get(id)
            if detail.row.ended or not await ending.within(timeout_s):
                return detail
        return await self.get(id)

    @contextlib.contextmanager
    def ending(self, id: str, *, wanted: bool = True) -> Iterator[Ending]:
        """The end of an envelope that has not ended yet, and may not be admitted yet."""
        if not wanted or self._watches.waiting >= WAITERS_MAX:
            yield Ending(None, 0)
            return
        future = self._watches.add_waiter(id)
        try:
            yield Ending(future, self.limits.wait_max_s)
        finally:
            self._watches.remove_waiter(id, future)

    async def cancel(self, id: str) -> None:
        """End a task as canceled, and all children of this root; what has ended stays as it is.

        Raises:
            Refusal: Not known, or the store cannot be written.
        """
        await self._recorder.flush()
        at = to_rfc3339(self._clock.now())
        while True:
            try:
                canceled = await self._store.cancel(id, at, limit=CANCEL_STEP)
            except StoreError as error:
                raise store_problem(error) from error
            if canceled is None:
                raise await self.unknown(id)
            if canceled:
                self._mesh.cancel({id, *canceled})
            for one in canceled:
                self._deadlines.drop(one)
                self._watches.ended(one)
            if len(canceled) < CANCEL_STEP - 1:
                return

    async def events(self, id: str, *, after: int, limit: int) -> EventPage | None:
        """Stored events with numbers above `after`, oldest first; None for an unknown id."""
        return await _read(self._store.events(id, after=after, limit=limit))

    @contextlib.contextmanager
    def watch(self, id: str) -> Iterator[Watch]:
        """A `Watch` of one envelope for the time of the block."""
        watch = self._watches.add(id)
        try:
            yield watch
        finally:
            self._watches.remove(watch)

    @property
    def watching(self) -> int:
        """Watchers that are open."""
        return self._watches.open

    @property
    def waiting(self) -> int:
        """Requests that wait for an end."""
        return self._watches.waiting

    @property
    def dropped(self) -> int:
        """Events that were dropped since the start."""
        return self._recorder.dropped

    async def canceled_recently(self) -> Sequence[str]:
        """Ids canceled within the retention time: a supervisor that starts tells its sidecars.

        Raises:
            StoreError: The store cannot be read.
        """
        since = self._clock.now() - timedelta(seconds=self.limits.retention_s)
        return await self._store.canceled(to_rfc3339(since), CANCELED_RECENTLY_MAX)

    # What the mesh tells

    def emit(self, event: Event) -> None:
        """See `events.Listener`."""
        if isinstance(event, Flown):
            self._watches.fly(event)
        else:
            if isinstance(event, Forked):
                self._deadlines.add(event.id, event.deadline_at)
            note = note_of(event)
            note.seen = self.insight.take(event)
            self._recorder.add(note)

    async def finish(self, end: Finished) -> bool:
        """See `events.Ledger`."""
        notes = self._recorder.take(end.id)
        try:
            first = await self._store.finish(end, notes)
        except StoreError:
            for note in notes:
                self._recorder.add(note)
            raise
        self._deadlines.drop(end.id)
        self._watches.ended(end.id)
        return first

    async def _up_to_date(self, id: str) -> Detail | None:
        """A task with all that was told of it up to now."""
        await self._recorder.flush()
        return await self._store.get(id)

    async def _end_late(self, end: Finished) -> bool:
        return await self.late_ends.finish(end)

    async def dead_letter(self, letter: DeadLetter) -> None:
        """See `events.Ledger`."""
        await self._store.dead_letter(letter)

    def _recorded(self, ids: Iterable[str]) -> None:
        for id_ in ids:
            self._watches.wake(id_)

    # Chores

    async def _publish_leftovers(self) -> None:
        """Publish what was stored and is not known to be published: a crash between the two."""
        await self._publish_page(older_than=None)
        while True:
            await asyncio.sleep(OUTBOX_EVERY_S)
            await self._publish_page(older_than=OUTBOX_AGE_S)

    async def _publish_page(self, *, older_than: float | None) -> None:
        after = 0
        with contextlib.suppress(AsyaError):  # the next round tries again
            while page := await self._store.outbox(after=after):
                after = page[-1].key
                for outgoing in page:
                    await self._publish_leftover(outgoing, older_than)

    async def _publish_leftover(self, outgoing: Outgoing, older_than: float | None) -> None:
        if outgoing.id in self._admitting:
            return
        envelope = decode(outgoing.body)
        if older_than is not None:
            limit = to_rfc3339(self._clock.now() - timedelta(seconds=older_than))
            if envelope.status.created_at > limit:
                return
        begin = _moment(outgoing.not_before)
        try:
            await self._mesh.publish(envelope, dedup_id=f"{envelope.id}:0", not_before=begin)
        except TransportError as error:
            _log.warning("it is not published yet: %s", error, extra={"envelope": envelope.id})
        else:
            self._recorder.add_published(envelope.id)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            before = self._clock.now() - timedelta(seconds=self.limits.retention_s)
            try:
                while await self._store.sweep(to_rfc3339(before), SWEEP_STEP) == SWEEP_STEP:
                    await asyncio.sleep(0.01)
                await self.insight.forget()
            except StoreError as error:
                _log.warning("old tasks were not swept: %s", error)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else from_rfc3339(text)


def _check_found(row: TaskRow, insertion: Insertion, reservation: KeyReservation | None) -> None:
    """Refuse a request whose id or key belongs to a task that is no answer to it."""
    found = insertion.row
    if insertion.refused is not None and reservation is not None:
        raise refused_key(insertion.refused, reservation, found.id)
    if not insertion.created and found.id == row.id and found.digest not in {None, row.digest}:
        raise Refusal(
            Kind.ID_CONFLICT,
            f"the id {row.id!r} belongs to an envelope with another route or payload",
            id=row.id,
        )


async def _read(reading: Awaitable[_T]) -> _T:
    try:
        return await reading
    except StoreError as error:
        raise store_problem(error) from error


def unknown(id: str, close: str | None = None) -> Refusal:
    """The refusal of an id that no task has; `close` is the nearest one that has."""
    hint = f"; did you mean {close}?" if close else ""
    text = f"there is no envelope {id!r}, or it was swept{hint}"
    return Refusal(Kind.UNKNOWN_ENVELOPE, text, id=id, nearest=close)


def store_problem(error: StoreError) -> Refusal:
    """The refusal of what the store cannot do now."""
    kind = Kind.DISK_FULL if isinstance(error, StoreFull) else Kind.STORE_UNAVAILABLE
    return Refusal(kind, str(error), retry_after_s=RETRY_AFTER_S)


def _publish_problem(envelope: Envelope, error: TransportError) -> Refusal:
    if isinstance(error, MessageTooLarge):
        return Refusal(Kind.TOO_LARGE, str(error), id=envelope.id)
    if isinstance(error, QueueMissing):
        return Refusal(
            Kind.UNKNOWN_ACTOR, f"the actor {envelope.route.curr!r} has no queue", id=envelope.id
        )
    return Refusal(Kind.UNAVAILABLE, str(error), id=envelope.id, retry_after_s=RETRY_AFTER_S)
