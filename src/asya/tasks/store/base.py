"""The repository seam: what a database must do for the task service.

Small and free of any SQL dialect. What a task may become is decided by `rules`, once, for all
stores; a store loads rows, asks the rules, and saves, in one transaction. Every store passes
`asya.testing.store_contract`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, Protocol

import msgspec

from asya.envelope import ErrorInfo
from asya.events import DeadLetter, Finished
from asya.tasks.key_reservation import KeyDecision, KeyReservation
from asya.tasks.rules import Recorded, StuckData, TaskRow
from asya.tasks.stored_events import EventRow
from asya.transports.delayed import DelayedMessageStore

EVENTS_MAX: Final = 5_000
"""Events that `TaskStore.get` reads of one task, the newest."""


class Outgoing(msgspec.Struct, frozen=True):
    """A stored task that is not known to be published, with its first envelope's bytes."""

    key: int
    id: str
    body: bytes
    not_before: str | None = None


class Insertion(msgspec.Struct, frozen=True):
    """The task that has the id now, or holds the key: `created` by this call, or before it.

    `outgoing` is the envelope to publish when the task is not known to be published. `refused`
    tells why `row`, which holds the key, is no answer to the reservation. `replaced` is the task that
    held the key before, and that this call canceled.
    """

    created: bool
    row: TaskRow
    outgoing: Outgoing | None = None
    refused: KeyDecision | None = None
    replaced: str | None = None


class ScheduleRow(msgspec.Struct):
    """What is known of a schedule.

    Attributes:
        name: The schedule.
        seen_at: Every due time up to this one was dealt with.
        last_at: Due time of the last run.
        last_id: The last run's envelope.
        last_error: Why the last due time made no run, or None.
        suspended: What was asked for while it ran, or None for what the manifest says.
    """

    name: str
    seen_at: str
    last_at: str | None = None
    last_id: str | None = None
    last_error: str | None = None
    suspended: bool | None = None


class Detail(msgspec.Struct, frozen=True):
    """One task with its result's bytes and its events, oldest first."""

    row: TaskRow
    result: bytes | None
    events: list[EventRow]


class OpenTask(msgspec.Struct, frozen=True):
    """An open task with the newest event that tells where it is."""

    row: TaskRow
    event: EventRow | None


class QueueFacts(msgspec.Struct, frozen=True):
    """How a task stands among others at its actor.

    Attributes:
        published: It is known to be in its first queue.
        dead_at: When it became a dead letter, or None.
        ahead: Open tasks at the same actor that came earlier, or have not moved for longer.
    """

    published: bool
    dead_at: str | None
    ahead: int


class StoredPayload(msgspec.Struct, frozen=True):
    """A payload of a hop as it was kept: `size` is that of the whole, in bytes."""

    n: int
    attempt: int
    side: str
    at: str
    size: int
    truncated: bool
    body: bytes


class EventPage(msgspec.Struct, frozen=True):
    """Events of one task, oldest first; `ended` tells whether its status is terminal."""

    events: list[EventRow]
    ended: bool


class Query(msgspec.Struct, frozen=True):
    """Which tasks to list, newest first.

    Attributes:
        status: Only this status.
        flow: Only this flow.
        actor: Only envelopes whose route has this actor, passed, current or to come.
        root: Only children of this root, and the root itself.
        stuck: Only those that are marked as stuck (True), or are not (False).
        before: Only keys below this one.
        limit: At most so many.
    """

    status: str | None = None
    flow: str | None = None
    actor: str | None = None
    root: str | None = None
    stuck: bool | None = None
    before: int | None = None
    limit: int = 50


DeadLetterStatus = Literal["dead", "retried", "purged"]


class DeadLetterRow(msgspec.Struct):
    """A dead letter as it is stored; `body` is empty in lists, and of one that is purged."""

    key: int
    id: str
    reason: str
    actor: str
    at: str
    status: DeadLetterStatus
    changed_at: str
    retried_as: str | None
    fingerprint: str
    error: ErrorInfo | None
    body: bytes = b""


class DeadLetterQuery(msgspec.Struct, frozen=True):
    """Which letters; all that is given must hold.

    Attributes:
        status: Only this status; None for any.
        ids: Only these envelopes.
        older_than: Only those that died before this time.
        before: Only keys below this one.
        after: Only keys above this one.
        newest_first: The order of a list.
        limit: At most so many.
    """

    status: DeadLetterStatus | None = "dead"
    actor: str | None = None
    reason: str | None = None
    fingerprint: str | None = None
    ids: tuple[str, ...] | None = None
    older_than: str | None = None
    before: int | None = None
    after: int | None = None
    newest_first: bool = True
    limit: int = 50


class DeadLetterGroup(msgspec.Struct, frozen=True):
    """Letters of one actor that are about the same error, with the newest of them."""

    fingerprint: str
    actor: str
    count: int
    first_at: str
    last_at: str
    reasons: list[str]
    newest: DeadLetterRow


class TaskStore(Protocol):
    """Tasks, with the envelopes that are to be published and the results. See `Store`."""

    async def insert(
        self, row: TaskRow, body: bytes, reservation: KeyReservation | None = None
    ) -> Insertion:
        """Store a new task with the envelope that is to be published, unless the id is known.

        With a `reservation`, unless another task holds the key (see `key_reservation.decide`). A known id comes
        before its key. Looking the key up, canceling the task that is replaced, and storing the
        new one with the key are one transaction.
        """
        ...

    async def discard(self, id: str) -> bool:
        """Forget a task that was never published and that nothing is known of but that."""
        ...

    async def mark_published(self, ids: Sequence[str]) -> None:
        """These envelopes are in their queues: they need not be published again."""
        ...

    async def outbox(self, *, after: int = 0, limit: int = 100) -> list[Outgoing]:
        """Pending tasks that are not known to be published, with keys above `after`."""
        ...

    async def get(self, id: str) -> Detail | None:
        """One task with its result and its newest 5,000 events."""
        ...

    async def page(self, query: Query) -> list[TaskRow]:
        """A page of tasks, newest first."""
        ...

    async def cancel(self, id: str, at: str, *, limit: int) -> list[str] | None:
        """Make a task and children of this root terminal, where they are not yet.

        Returns:
            The ids that this call canceled, at most `limit` (call again when it is as many), or
            None when the id is not known.
        """
        ...

    async def canceled(self, since: str, limit: int) -> list[str]:
        """Ids given to `cancel` since a time, newest first."""
        ...

    async def queue_facts(self, id: str, actor: str, since: str) -> QueueFacts | None:
        """What else tells of a task that stands at `actor` since a time; None: id unknown."""
        ...

    async def similar_ids(self, id: str) -> list[str]:
        """Ids that an unknown one may mean: those that begin with it, else the newest ones."""
        ...

    async def sweep(self, before: str, limit: int) -> int:
        """Forget at most `limit` tasks that ended before a time, and cancels as old.

        Dead letters stay; those that were retried or purged before that time go.

        Returns:
            How many tasks were forgotten; fewer than `limit` means that none is left.
        """
        ...


class EventStore(Protocol):
    """Events of tasks, and the payloads that came along with them. See `Store`."""

    async def record(self, recorded: Sequence[Recorded]) -> list[str]:
        """Take note of events, in their order; returns the ids that have new event rows."""
        ...

    async def complete(self, end: Finished, recorded: Sequence[Recorded] = ()) -> bool:
        """Record `recorded` (all of this id), then the end. Whether this call made it terminal."""
        ...

    async def page(self, id: str, *, after: int, limit: int) -> EventPage | None:
        """Events of a task with numbers above `after`, oldest first; None: the id is unknown."""
        ...

    async def open_tasks(self, *, after: int, limit: int) -> list[OpenTask]:
        """Open tasks with keys above `after`, oldest first."""
        ...

    async def mark_stuck(self, marks: Sequence[tuple[str, int, StuckData]]) -> list[str]:
        """Mark tasks that stand still: id, number of the newest event that was seen, and why.

        One that has moved since (`advance` takes the mark away), or is marked, stays as it is.

        Returns:
            The ids that this call marked.
        """
        ...

    async def payload(
        self, id: str, n: int, side: str, attempt: int | None = None
    ) -> StoredPayload | None:
        """What was kept of a hop's payload, `in` or `out`; without an attempt the newest one's."""
        ...

    async def forget_payloads(self, before: str, limit: int) -> int:
        """Forget at most `limit` payloads that were kept before a time; how many it were."""
        ...


class DeadLetterStore(Protocol):
    """Dead letters. See `Store`."""

    async def add(self, letter: DeadLetter) -> None:
        """Keep a dead letter; the same id and reason again changes nothing."""
        ...

    async def get(self, id: str) -> DeadLetterRow | None:
        """The dead letter of an envelope, bytes and all; of several the newest that is dead."""
        ...

    async def page(self, query: DeadLetterQuery) -> list[DeadLetterRow]:
        """A page of dead letters, without their bytes."""
        ...

    async def groups(self, query: DeadLetterQuery) -> list[DeadLetterGroup]:
        """Dead letters by actor and fingerprint, the group with the newest letter first.

        `query.before` is about the key of a group's newest letter.
        """
        ...

    async def redrive(
        self, letter: DeadLetterRow, row: TaskRow, body: bytes, *, force: bool
    ) -> DeadLetterRow | None:
        """Admit the envelope made from a letter and mark the letter, both or neither.

        Returns:
            None when it was done; else the letter as it is: it is not dead any more, and `force`
            does not help (it was purged) or was not given.
        """
        ...

    async def undo_redrive(self, letter: DeadLetterRow, id: str) -> bool:
        """Forget the task that was made from a letter and never published; put the mark back."""
        ...

    async def purge(self, query: DeadLetterQuery, at: str) -> int:
        """Throw away the bytes of at most `query.limit` letters; how many it were."""
        ...


class ScheduleStore(Protocol):
    """What is known of schedules. See `Store`."""

    async def all(self) -> list[ScheduleRow]:
        """What is known of all schedules."""
        ...

    async def save(self, row: ScheduleRow) -> None:
        """Keep what is known of a schedule, in place of what was."""
        ...


class Store(Protocol):
    """One database: five small stores that share its connections. Safe for one event loop.

    Every method that writes is durable when it returns: the death of this process loses nothing.
    Calls take effect in the order in which they were made, over all five. All raise `StoreError`
    when the database cannot do it (`StoreFull` when its disk is full): then nothing was changed,
    and the same call may be made again.

    Attributes:
        delayed: Messages whose delay their broker cannot keep; usable while the store is open.
    """

    tasks: TaskStore
    events: EventStore
    dead_letters: DeadLetterStore
    schedules: ScheduleStore
    delayed: DelayedMessageStore

    async def open(self) -> None:
        """Connect and bring the schema up to date.

        Raises:
            StoreError: No database can be used there; the text says why and what to do.
        """
        ...

    async def close(self) -> None:
        """Finish what was asked, then disconnect. Idempotent."""
        ...
