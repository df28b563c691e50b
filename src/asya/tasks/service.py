"""The task service: every envelope that a client sent, from admission to its end.

The gateway stands in front of it. Sidecars and the crew tell it what happens: it is their
`events.Listener` and `events.Ledger`. The store holds what is true of a task. This file holds the
order of steps: an envelope is stored before it is published, published before the client is
answered, and its end is stored before the last actor's message is acked. One service runs in one
event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from msgspec import Raw

from asya.blobs.base import BlobStore
from asya.blobs.claims import CHECKED_IN, Claims, no_claims
from asya.chores import ChoreRunner, Leader
from asya.clock import Clock, to_rfc3339
from asya.envelope import BLOB_HEADER, FLOW_HEADER, Envelope, decode, encode, new_envelope
from asya.errors import (
    BlobUnavailable,
    StoreError,
    TransportError,
)
from asya.events import DeadLetter, Event, Finished, Flown, Forked, Ledger
from asya.tasks.admission import (
    Admission,
    Gate,
    check_headers,
    check_id,
    check_payload,
    check_route,
    digest,
    new_row,
)
from asya.tasks.dead_letters import DeadLetters
from asya.tasks.deadlines import Deadlines
from asya.tasks.diagnosis.facts import LOOK_EVERY_S, Capturing, Diagnosis
from asya.tasks.diagnosis.why import Facts
from asya.tasks.idempotency import IdempotencyKey, refused_key
from asya.tasks.key_reservation import KeyReservation
from asya.tasks.mesh import ActorStatus, MeshClient
from asya.tasks.outbox import Outbox
from asya.tasks.recorder import Recorder
from asya.tasks.refusals import RETRY_AFTER_S, Kind, Refusal, refuses_store_errors, store_refusal
from asya.tasks.retention import EVERY_S as RETENTION_FIRST_S
from asya.tasks.retention import Retention
from asya.tasks.rules import Recorded, TaskRow
from asya.tasks.schedule import ScheduleSpec
from asya.tasks.scheduler import Scheduler
from asya.tasks.store.base import (
    Detail,
    EventPage,
    Insertion,
    Query,
    Store,
    StoredPayload,
)
from asya.tasks.watchers import Watch, Watches

CANCEL_STEP: Final = 1_000
"""Tasks that one transaction cancels."""

CANCELED_RECENTLY_MAX: Final = 10_000
"""Ids that `canceled_recently` gives a supervisor that starts again."""

EVENT_MAX: Final = 2**62
"""No task has an event of this number."""

WAITERS_MAX: Final = 10_000
"""Requests that may wait at a time. One more is answered as if its time were over."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServiceLimits:
    """The settings that the service reads; defaults as in `asya.settings`.

    Attributes:
        payload_max_bytes: The largest payload that is admitted.
        queue_max: Messages that may wait in the first actor's queue; more are refused.
        retention_s: How long ended tasks are kept, in seconds.
        wait_max_s: How long a client may wait for an end, in seconds.
    """

    payload_max_bytes: int = 4 * 1024 * 1024
    queue_max: int = 100_000
    retention_s: float = 7 * 24 * 3600.0
    wait_max_s: float = 600.0


class Ending:
    """Waits for an end, at most `wait_max_s`. Without a future it does not wait at all."""

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
        ledger: Makes the ledger that counts ends, and then asks the service's own to store them.
        leader: Whether this process runs the chores; without one it does.

    Attributes:
        chores: Runs what the service does by itself, from `start` to `close`. Others may be added.
        schedules: Fires them.
        diagnosis: Why envelopes are where they are, and how long actors take.
        dead_letters: Envelopes that nobody could handle.
        ledger: Where envelopes end: the service itself, in what `ledger` made of it.
    """

    def __init__(
        self,
        store: Store,
        mesh: MeshClient,
        clock: Clock,
        limits: ServiceLimits | None = None,
        *,
        schedules: Sequence[ScheduleSpec] = (),
        capturing: Capturing | None = None,
        claims: Claims | None = None,
        ledger: Callable[[Ledger], Ledger] | None = None,
        leader: Leader | None = None,
    ) -> None:
        self._claims = no_claims() if claims is None else claims
        self.limits = limits or ServiceLimits()
        self._store = store
        self._mesh = mesh
        self._clock = clock
        self._gate = Gate(mesh, self.limits.queue_max)
        self._watches = Watches()
        self._recorder = Recorder(store, self._recorded)
        self.ledger: Ledger = self if ledger is None else ledger(self)
        self._deadlines = Deadlines(clock, self._up_to_date, self._end_late)
        self.diagnosis = Diagnosis(
            store, mesh, clock, capturing, self._recorded, self._deadlines.add
        )
        self._outbox = Outbox(store, mesh, clock, self._recorder, self._gate)
        self.dead_letters = DeadLetters(
            store,
            mesh,
            clock,
            self._claims,
            payload_max_bytes=self.limits.payload_max_bytes,
            check=self.check_route,
            published=self._published,
            unknown=self.unknown,
        )
        self.schedules = Scheduler(
            self, store.schedules, schedules, namespace=mesh.namespace, clock=clock
        )
        self.chores = ChoreRunner(clock, leader)
        self._add_chores(capturing, schedules=bool(schedules))

    @property
    def blobs(self) -> BlobStore:
        """Where big results are."""
        return self._claims.store

    # Life

    async def start(self) -> None:
        """Open the store and begin the chores.

        Raises:
            StoreError: The store cannot be opened.
        """
        await self._store.open()
        self._recorder.start()
        self.chores.start()

    def release(self) -> None:
        """End all event streams and answer all waiting requests; called before the server stops."""
        self._watches.release()

    async def close(self) -> None:
        """Release everybody, store what is pending, close the store. Idempotent."""
        self.release()
        if not self.chores.running:
            return
        await self.chores.close()
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
        if not self.chores.running:
            return "the gateway does not run"
        if self._watches.released:
            return "the gateway shuts down"
        return self._mesh.problem()

    @refuses_store_errors
    async def check(self) -> None:
        """Check that envelopes can be admitted now.

        Raises:
            Refusal: It cannot.
        """
        problem = self.problem()
        if problem is not None:
            raise Refusal(Kind.UNAVAILABLE, problem, retry_after_s=RETRY_AFTER_S)
        await self._store.tasks.outbox(limit=1)

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
        key: IdempotencyKey | None = None,
    ) -> Admission:
        """Admit a new envelope. When this returns, it is stored and confirmed in its first queue.

        The same id again, with the same route and payload, gives the task that exists. What the
        same key leads to is up to its policy: that task, a refusal, or a new task in its place.

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
            Refusal: Nothing is left behind. Only after `unavailable` the envelope may run all the
                same, because the broker's answer was lost; the same id or key again is safe.
        """
        check_route(actors)
        check_id(id)
        check_headers(headers or {})
        check_payload(payload, self.limits.payload_max_bytes)
        await self.check_route(actors)
        all_headers, content = dict(headers or {}), payload
        if len(payload) > self._claims.threshold_bytes:
            checked_in = await self._check_in(payload)
            if checked_in is not None:
                all_headers[BLOB_HEADER], content, payload = checked_in, checked_in, CHECKED_IN
        if flow is not None:
            all_headers[FLOW_HEADER] = flow
        now = self._clock.now()
        begin = now if not_before is None else max(now, not_before)
        envelope = new_envelope(
            list(actors),
            payload,
            now=now,
            id=id or str(uuid.uuid4()),
            headers=all_headers,
            deadline=None if timeout_s is None else begin + timedelta(seconds=timeout_s),
        )
        row = new_row(envelope)
        row.digest = digest(actors, content)
        if begin > now:
            row.not_before = to_rfc3339(begin)
            # The time in its first queue counts from when it may be taken.
            envelope.status.updated_at = row.not_before
        reservation = None if key is None else key.reservation(content, now)
        insertion = await self._insert(row, envelope, reservation)
        found = insertion.row
        if not found.ended:
            self._deadlines.add(found.id, found.deadline_at)
        return Admission(found, not insertion.created)

    async def _insert(
        self, row: TaskRow, envelope: Envelope, reservation: KeyReservation | None
    ) -> Insertion:
        """Store a new envelope, or find the task that its id or key leads to, and publish it.

        Raises:
            Refusal: The store or the broker failed, or the id or key belongs to another request.
        """
        async with contextlib.AsyncExitStack() as alone:
            # The key before the id, always: two requests with both must not wait for each other.
            for mark in (row.id,) if reservation is None else (reservation.mark, row.id):
                await alone.enter_async_context(self._outbox.alone(mark))
            try:
                insertion = await self._store.tasks.insert(row, encode(envelope), reservation)
            except StoreError as error:
                raise store_refusal(error) from error
            self.diagnosis.admitted()
            _check_found(row, insertion, reservation)
            if insertion.replaced is not None:
                await self._canceled_by_key(insertion.replaced)
            if insertion.outgoing is not None:
                again = envelope if insertion.created else decode(insertion.outgoing.body)
                not_before, keyed = insertion.row.not_before, reservation is not None
                await self._outbox.publish(again, not_before, new=insertion.created, keyed=keyed)
        return insertion

    async def _check_in(self, payload: Raw) -> Raw | None:
        """Put a payload over the threshold into the blob store; gives its reference."""
        try:
            return await self._claims.claim(payload, self._claims.threshold_bytes)
        except BlobUnavailable as error:
            raise Refusal(
                Kind.BLOBS_UNAVAILABLE, str(error), retry_after_s=RETRY_AFTER_S
            ) from error

    async def check_route(self, actors: Sequence[str]) -> None:
        """Refuse a route that cannot be taken now.

        Raises:
            Refusal: The mesh is in trouble, an actor is unknown, or its queue is full.
        """
        problem = self.problem()
        if problem is not None:
            raise Refusal(Kind.UNAVAILABLE, problem, retry_after_s=RETRY_AFTER_S)
        await self._gate.check(actors)

    def _published(self, envelope: Envelope) -> None:
        """A new envelope is in its first queue."""
        self.diagnosis.admitted()
        self._outbox.published(envelope)

    @refuses_store_errors
    async def unknown(self, id: str) -> Refusal:
        """The refusal of an id that no task has; names the nearest one that has."""
        return unknown(id, await self.diagnosis.nearest_id(id))

    @refuses_store_errors
    async def whole_id(self, id: str) -> str | None:
        """The one id that begins with these characters, or None (see `Diagnosis.whole_id`)."""
        return await self.diagnosis.whole_id(id)

    async def _canceled_by_key(self, id: str) -> None:
        """Tell the mesh of a task that the store canceled for its key, and cancel its children."""
        self._mesh.cancel({id})
        self._watches.ended(id)
        await self.cancel(id)

    @refuses_store_errors
    async def get(self, id: str) -> Detail:
        """One task.

        Raises:
            Refusal: Not known, or the store cannot be read.
        """
        detail = await self._store.tasks.get(id)
        if detail is None:
            raise await self.unknown(id)
        return detail

    @refuses_store_errors
    async def find(self, id: str) -> Detail | None:
        """One task, or None for an id that is not known."""
        return await self._store.tasks.get(id)

    @refuses_store_errors
    async def check_known(self, id: str) -> None:
        """Refuse an id that no task has.

        Raises:
            Refusal: Not known, or the store cannot be read.
        """
        if await self._store.events.page(id, after=EVENT_MAX, limit=1) is None:
            raise await self.unknown(id)

    async def actors(self) -> list[ActorStatus]:
        """What runs, with the percentiles of each actor's newest calls.

        Raises:
            Refusal: The broker does not answer.
        """
        try:
            actors = await self._mesh.actor_status()
        except TransportError as error:
            raise Refusal(Kind.UNAVAILABLE, str(error), retry_after_s=RETRY_AFTER_S) from error
        return [self.diagnosis.with_latency(each) for each in actors]

    @refuses_store_errors
    async def facts(self, id: str) -> Facts:
        """What is known about where an envelope is and why, also of an id that is not known."""
        await self._recorder.flush()
        return await self.diagnosis.facts(id)

    @refuses_store_errors
    async def payload(self, id: str, n: int, side: str, attempt: int | None) -> StoredPayload:
        """What was kept of a hop's payload.

        Raises:
            Refusal: The envelope is not known, or nothing was kept.
        """
        await self._recorder.flush()
        found = await self._store.events.payload(id, n, side, attempt)
        if found is not None:
            return found
        await self.get(id)
        raise Refusal(
            Kind.NOT_FOUND,
            f"no payload ({side}) of hop {n} is kept: the envelope has not reached that hop, "
            "spec.capture leaves it out, or it is too old",
            id=id,
        )

    @refuses_store_errors
    async def page(self, query: Query) -> list[TaskRow]:
        """A page of tasks, newest first."""
        return await self._store.tasks.page(query)

    @refuses_store_errors
    async def wait(self, id: str, timeout_s: float) -> Detail:
        """The task once it has ended, or as it is when the time is over (see `Ending`)."""
        with self.ending(id) as ending:
            detail = await self.get(id)
            if detail.row.ended or not await ending.within(timeout_s):
                return detail
        return await self.get(id)

    @contextlib.contextmanager
    def ending(self, id: str, *, wanted: bool = True) -> Iterator[Ending]:
        """Something to wait for: the end of an envelope, which may not even be admitted yet."""
        if not wanted or self._watches.waiting >= WAITERS_MAX:
            yield Ending(None, 0)
            return
        future = self._watches.add_waiter(id)
        try:
            yield Ending(future, self.limits.wait_max_s)
        finally:
            self._watches.remove_waiter(id, future)

    @refuses_store_errors
    async def cancel(self, id: str) -> None:
        """End a task as canceled, and all children of this root; what has ended stays as it is.

        Raises:
            Refusal: Not known, or the store cannot be written.
        """
        await self._recorder.flush()
        at = to_rfc3339(self._clock.now())
        while True:
            canceled = await self._store.tasks.cancel(id, at, limit=CANCEL_STEP)
            if canceled is None:
                raise await self.unknown(id)
            if canceled:
                self._mesh.cancel({id, *canceled})
            for one in canceled:
                self._deadlines.drop(one)
                self._watches.ended(one)
            if len(canceled) < CANCEL_STEP - 1:
                return

    @refuses_store_errors
    async def events(self, id: str, *, after: int, limit: int) -> EventPage | None:
        """Stored events with numbers above `after`, oldest first; None for an unknown id."""
        return await self._store.events.page(id, after=after, limit=limit)

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

    async def canceled_recently(self) -> Sequence[str]:
        """Ids canceled within the retention time: a supervisor that starts tells its sidecars.

        Raises:
            StoreError: The store cannot be read.
        """
        since = self._clock.now() - timedelta(seconds=self.limits.retention_s)
        return await self._store.tasks.canceled(to_rfc3339(since), CANCELED_RECENTLY_MAX)

    # What the mesh tells

    def emit(self, event: Event) -> None:
        """See `events.Listener`."""
        if isinstance(event, Flown):
            self._watches.fly(event)
        else:
            if isinstance(event, Forked):
                self._deadlines.add(event.id, event.deadline_at)
            self._recorder.add(Recorded(event, self.diagnosis.take(event)))

    async def finish(self, end: Finished) -> bool:
        """See `events.Ledger`."""
        recorded = self._recorder.pop(end.id)
        try:
            first = await self._store.events.complete(end, recorded)
        except StoreError:
            for each in recorded:
                self._recorder.add(each)
            raise
        self._deadlines.drop(end.id)
        self._watches.ended(end.id)
        return first

    async def _up_to_date(self, id: str) -> Detail | None:
        """A task, with every event that has been emitted until now."""
        await self._recorder.flush()
        return await self._store.tasks.get(id)

    async def _end_late(self, end: Finished) -> bool:
        return await self.ledger.finish(end)

    async def dead_letter(self, letter: DeadLetter) -> None:
        """See `events.Ledger`."""
        await self._store.dead_letters.add(letter)

    def _recorded(self, ids: Iterable[str]) -> None:
        for id_ in ids:
            self._watches.wake(id_)

    # Chores

    def _add_chores(self, capturing: Capturing | None, *, schedules: bool) -> None:
        keep_s = (capturing or Capturing()).keep_s
        retention = Retention(self._store, self.limits.retention_s, keep_s)
        self.chores.add(self._outbox, "outbox")
        self.chores.add(retention, "retention", first_s=RETENTION_FIRST_S)
        self.chores.add(self.diagnosis, "watcher", first_s=LOOK_EVERY_S, pause_s=LOOK_EVERY_S)
        self.chores.add(self._deadlines, "deadlines")
        if schedules:
            self.chores.add(self.schedules, "schedules")


def _check_found(row: TaskRow, insertion: Insertion, reservation: KeyReservation | None) -> None:
    """Refuse a request whose id or key belongs to a task of another request."""
    found = insertion.row
    if insertion.refused is not None and reservation is not None:
        raise refused_key(insertion.refused, reservation, found.id)
    if not insertion.created and found.id == row.id and found.digest not in {None, row.digest}:
        raise Refusal(
            Kind.ID_CONFLICT,
            f"the id {row.id!r} belongs to an envelope with another route or payload",
            id=row.id,
        )


def unknown(id: str, close: str | None = None) -> Refusal:
    """The refusal of an id that no task has; `close` is the nearest one that has."""
    hint = f"; did you mean {close}?" if close else ""
    text = f"there is no envelope {id!r}, or it was swept{hint}"
    return Refusal(Kind.UNKNOWN_ENVELOPE, text, id=id, nearest=close)
