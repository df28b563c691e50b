"""The repository seam: what a database must do for the task service.

Small and free of any SQL dialect. What a task may become is decided by `rules`, once, for all
stores; a store loads rows, asks the rules, and saves, in one transaction. Every store passes
`asya.testing.store_contract`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from asya.envelope import ErrorInfo
from asya.events import DeadLetter, Finished
from asya.tasks.key_reservation import KeyDecision, KeyReservation
from asya.tasks.rules import EventRow, Note, StuckData, TaskRow
from asya.transports.delayed import Shelf

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


class Standing(msgspec.Struct, frozen=True):
    """An open task with the newest event that tells where it is."""

    row: TaskRow
    event: EventRow | None


class Clues(msgspec.Struct, frozen=True):
    """What the store knows besides of why a task is where it is.

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


class TaskStore(ABC):
    """Tasks and their events. Safe for one event loop.

    Every method that writes is durable when it returns: the death of this process loses nothing.
    Calls take effect in the order in which they were made. All raise `StoreError` when the
    database cannot do it (`StoreFull` when its disk is full): then nothing was changed, and the
    same call may be made again.
    """

    @property
    @abstractmethod
    def shelf(self) -> Shelf:
        """Where messages wait that their broker cannot keep so long; usable while it is open."""

    @abstractmethod
    async def open(self) -> None:
        """Connect and bring the schema up to date.

        Raises:
            StoreError: No database can be used there; the text says why and what to do.
        """

    @abstractmethod
    async def close(self) -> None:
        """Finish what was asked, then disconnect. Idempotent."""

    @abstractmethod
    async def insert(
        self, row: TaskRow, body: bytes, reservation: KeyReservation | None = None
    ) -> Insertion:
        """Store a new task with the envelope that is to be published, unless the id is known.

        With a `reservation`, unless another task holds the key (see `key_reservation.decide`). A known id comes
        before its key. Looking the key up, canceling the task that is replaced, and storing the
        new one with the key are one transaction.
        """

    @abstractmethod
    async def discard(self, id: str) -> bool:
        """Forget a task that was never published and that nothing is known of but that."""

    @abstractmethod
    async def published(self, ids: Sequence[str]) -> None:
        """These envelopes are in their queues: they need not be published again."""

    @abstractmethod
    async def outbox(self, *, after: int = 0, limit: int = 100) -> list[Outgoing]:
        """Pending tasks that are not known to be published, with keys above `after`."""

    @abstractmethod
    async def record(self, notes: Sequence[Note]) -> list[str]:
        """Take note of events, in their order; returns the ids that have new event rows."""

    @abstractmethod
    async def finish(self, end: Finished, notes: Sequence[Note] = ()) -> bool:
        """Record `notes` (all of this id), then the end. Whether this call made it terminal."""

    @abstractmethod
    async def dead_letter(self, letter: DeadLetter) -> None:
        """Keep a dead letter; the same id and reason again changes nothing."""

    @abstractmethod
    async def cancel(self, id: str, at: str, *, limit: int) -> list[str] | None:
        """Make a task and children of this root terminal, where they are not yet.

        Returns:
            The ids that this call canceled, at most `limit` (call again when it is as many), or
            None when the id is not known.
        """

    @abstractmethod
    async def canceled(self, since: str, limit: int) -> list[str]:
        """Ids given to `cancel` since a time, newest first."""

    @abstractmethod
    async def get(self, id: str) -> Detail | None:
        """One task with its result and its newest 5,000 events."""

    @abstractmethod
    async def tasks(self, query: Query) -> list[TaskRow]:
        """A page of tasks, newest first."""

    @abstractmethod
    async def events(self, id: str, *, after: int, limit: int) -> EventPage | None:
        """Events of a task with numbers above `after`, oldest first; None: the id is unknown."""

    @abstractmethod
    async def standing(self, *, after: int, limit: int) -> list[Standing]:
        """Open tasks with keys above `after`, oldest first."""

    @abstractmethod
    async def mark_stuck(self, marks: Sequence[tuple[str, int, StuckData]]) -> list[str]:
        """Mark tasks that stand still: id, number of the newest event that was seen, and why.

        One that has moved since (`advance` takes the mark away), or is marked, stays as it is.

        Returns:
            The ids that this call marked.
        """

    @abstractmethod
    async def clues(self, id: str, actor: str, since: str) -> Clues | None:
        """What else tells of a task that stands at `actor` since a time; None: id unknown."""

    @abstractmethod
    async def near(self, id: str) -> list[str]:
        """Ids that an unknown one may mean: those that begin with it, else the newest ones."""

    @abstractmethod
    async def payload(
        self, id: str, n: int, side: str, attempt: int | None = None
    ) -> StoredPayload | None:
        """What was kept of a hop's payload, `in` or `out`; without an attempt the newest one's."""

    @abstractmethod
    async def forget_payloads(self, before: str, limit: int) -> int:
        """Forget at most `limit` payloads that were kept before a time; how many it were."""

    @abstractmethod
    async def get_dead_letter(self, id: str) -> DeadLetterRow | None:
        """The dead letter of an envelope, bytes and all; of several the newest that is dead."""

    @abstractmethod
    async def dead_letters(self, query: DeadLetterQuery) -> list[DeadLetterRow]:
        """A page of dead letters, without their bytes."""

    @abstractmethod
    async def dead_letter_groups(self, query: DeadLetterQuery) -> list[DeadLetterGroup]:
        """Dead letters by actor and fingerprint, the group with the newest letter first.

        `query.before` is about the key of a group's newest letter.
        """

    @abstractmethod
    async def redrive(
        self, letter: DeadLetterRow, row: TaskRow, body: bytes, *, force: bool
    ) -> DeadLetterRow | None:
        """Admit the envelope made from a letter and mark the letter, both or neither.

        Returns:
            None when it was done; else the letter as it is: it is not dead any more, and `force`
            does not help (it was purged) or was not given.
        """

    @abstractmethod
    async def undo_redrive(self, letter: DeadLetterRow, id: str) -> bool:
        """Forget the task that was made from a letter and never published; put the mark back."""

    @abstractmethod
    async def purge_dead_letters(self, query: DeadLetterQuery, at: str) -> int:
        """Throw away the bytes of at most `query.limit` letters; how many it were."""

    @abstractmethod
    async def schedules(self) -> list[ScheduleRow]:
        """What is known of all schedules."""

    @abstractmethod
    async def save_schedule(self, row: ScheduleRow) -> None:
        """Keep what is known of a schedule, in place of what was."""

    @abstractmethod
    async def sweep(self, before: str, limit: int) -> int:
        """Forget at most `limit` tasks that ended before a time, and cancels as old.

        Dead letters stay; those that were retried or purged before that time go.

        Returns:
            How many tasks were forgotten; fewer than `limit` means that none is left.
        """
