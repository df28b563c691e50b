"""The task store in one SQLite file: the default, on a laptop and for one gateway.

Written by one thread with group commit and read by another (`worker`). Write-ahead log with
`synchronous=NORMAL`: a commit is in the operating system's hands when it returns, so the death of
any process loses nothing; a power cut may undo the last commits, and the file stays whole. A
full sync per commit would cost milliseconds each, and the embedded broker gives the same promise.
Migrations are the numbered files beside this one; `PRAGMA user_version` says which were made.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Final

import msgspec

from asya.envelope import TERMINAL_PHASES, Route
from asya.errors import StoreError
from asya.events import DeadLetter, Finished
from asya.tasks import rules
from asya.tasks.key_reservation import HeldKey, KeyReservation, decide
from asya.tasks.rules import EventRow, Note, StuckData, TaskRow
from asya.tasks.store.base import (
    EVENTS_MAX,
    Clues,
    DeadLetterGroup,
    DeadLetterQuery,
    DeadLetterRow,
    Detail,
    EventPage,
    Insertion,
    Outgoing,
    Query,
    ScheduleRow,
    Standing,
    StoredPayload,
    TaskStore,
)
from asya.tasks.store.sqlite import dead_letters as letters
from asya.tasks.store.sqlite import diagnosis as observing
from asya.tasks.store.sqlite.delayed import SqliteShelf
from asya.tasks.store.sqlite.worker import Worker

BUSY_TIMEOUT_MS: Final = 5_000
"""How long to wait for another process that writes to the file, such as a backup."""

_COLUMNS: Final = (
    "key, id, root, parent_id, flow, status, route, n, attempt, progress, seq, digest, headers, "
    "error, created_at, updated_at, deadline_at, not_before, stuck_at"
)
_OPEN: Final = "status NOT IN ('succeeded', 'failed', 'canceled')"
_CHUNKS: Final = (1, 8, 64)
"""Sizes of `IN` lists: few texts of statements, so that each is compiled once."""


class SqliteStore(TaskStore):
    """A task store in the file `path`; its folder is made when it is not there.

    Args:
        path: The database file.
        pages_max: A bound on the file's size in pages of 4 KiB, or None; past it the store says
            that its disk is full.
        payloads_max: Payloads of hops that are kept; the oldest go.
    """

    def __init__(
        self, path: Path, *, pages_max: int | None = None, payloads_max: int = 10_000
    ) -> None:
        self._path = path
        self._payloads_max = payloads_max
        self._pages_max = pages_max
        self._writer = Worker("asya-store-writer", str(path), self._connect, writes=True)
        self._reader = Worker("asya-store-reader", str(path), self._connect_reader, writes=False)
        self._shelf = SqliteShelf(self._writer, self._reader)

    @property
    def shelf(self) -> SqliteShelf:
        """See `TaskStore.shelf`."""
        return self._shelf

    async def open(self) -> None:
        """See `TaskStore.open`."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"the folder {self._path.parent} of the task store cannot be made "
                f"({error.strerror}); give another one with --data"
            ) from error
        await self._writer.start()
        await self._reader.start()

    async def close(self) -> None:
        """See `TaskStore.close`."""
        await self._reader.close()
        await self._writer.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path,
            timeout=BUSY_TIMEOUT_MS / 1000,
            isolation_level=None,
            cached_statements=256,
        )
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            if self._pages_max is not None:
                connection.execute(f"PRAGMA max_page_count={int(self._pages_max)}")
            migrate(connection, str(self._path))
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect_reader(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None
        )
        connection.execute("PRAGMA query_only=ON")
        return connection

    async def insert(
        self, row: TaskRow, body: bytes, reservation: KeyReservation | None = None
    ) -> Insertion:
        """See `TaskStore.insert`."""
        return await self._writer.run(
            lambda connection: _insert(connection, row, body, reservation)
        )

    async def discard(self, id: str) -> bool:
        """See `TaskStore.discard`."""
        return await self._writer.run(lambda connection: _discard(connection, id))

    async def published(self, ids: Sequence[str]) -> None:
        """See `TaskStore.published`."""
        await self._writer.run(lambda connection: _published(connection, ids))

    async def outbox(self, *, after: int = 0, limit: int = 100) -> list[Outgoing]:
        """See `TaskStore.outbox`."""
        return await self._reader.run(lambda connection: _outbox(connection, after, limit))

    async def record(self, notes: Sequence[Note]) -> list[str]:
        """See `TaskStore.record`."""
        return await self._writer.run(
            lambda connection: _record(connection, notes, self._payloads_max)
        )

    async def finish(self, end: Finished, notes: Sequence[Note] = ()) -> bool:
        """See `TaskStore.finish`."""
        return await self._writer.run(
            lambda connection: _finish(connection, end, notes, self._payloads_max)
        )

    async def dead_letter(self, letter: DeadLetter) -> None:
        """See `TaskStore.dead_letter`."""
        await self._writer.run(lambda connection: letters.dead_letter(connection, letter))

    async def cancel(self, id: str, at: str, *, limit: int) -> list[str] | None:
        """See `TaskStore.cancel`."""
        return await self._writer.run(lambda connection: _cancel(connection, id, at, limit))

    async def canceled(self, since: str, limit: int) -> list[str]:
        """See `TaskStore.canceled`."""
        sql = "SELECT id FROM cancels WHERE at >= ? ORDER BY at DESC LIMIT ?"
        return await self._reader.run(
            lambda connection: [found[0] for found in connection.execute(sql, (since, limit))]
        )

    async def get(self, id: str) -> Detail | None:
        """See `TaskStore.get`."""
        return await self._reader.run(lambda connection: _get(connection, id))

    async def tasks(self, query: Query) -> list[TaskRow]:
        """See `TaskStore.tasks`."""
        return await self._reader.run(lambda connection: _tasks(connection, query))

    async def events(self, id: str, *, after: int, limit: int) -> EventPage | None:
        """See `TaskStore.events`."""
        return await self._reader.run(lambda connection: _events(connection, id, after, limit))

    async def standing(self, *, after: int, limit: int) -> list[Standing]:
        """See `TaskStore.standing`."""
        return await self._reader.run(lambda connection: _standing(connection, after, limit))

    async def mark_stuck(self, marks: Sequence[tuple[str, int, StuckData]]) -> list[str]:
        """See `TaskStore.mark_stuck`."""
        return await self._writer.run(lambda connection: _mark_stuck(connection, marks))

    async def clues(self, id: str, actor: str, since: str) -> Clues | None:
        """See `TaskStore.clues`."""
        return await self._reader.run(
            lambda connection: observing.clues(connection, id, actor, since)
        )

    async def near(self, id: str) -> list[str]:
        """See `TaskStore.near`."""
        return await self._reader.run(lambda connection: observing.near(connection, id))

    async def payload(
        self, id: str, n: int, side: str, attempt: int | None = None
    ) -> StoredPayload | None:
        """See `TaskStore.payload`."""
        return await self._reader.run(
            lambda connection: observing.payload(connection, id, n, side, attempt)
        )

    async def forget_payloads(self, before: str, limit: int) -> int:
        """See `TaskStore.forget_payloads`."""
        return await self._writer.run(
            lambda connection: observing.forget_payloads(connection, before, limit)
        )

    async def get_dead_letter(self, id: str) -> DeadLetterRow | None:
        """See `TaskStore.get_dead_letter`."""
        return await self._reader.run(lambda connection: letters.letter(connection, id))

    async def dead_letters(self, query: DeadLetterQuery) -> list[DeadLetterRow]:
        """See `TaskStore.dead_letters`."""
        return await self._reader.run(lambda connection: letters.letters(connection, query))

    async def dead_letter_groups(self, query: DeadLetterQuery) -> list[DeadLetterGroup]:
        """See `TaskStore.dead_letter_groups`."""
        return await self._reader.run(lambda connection: letters.groups(connection, query))

    async def redrive(
        self, letter: DeadLetterRow, row: TaskRow, body: bytes, *, force: bool
    ) -> DeadLetterRow | None:
        """See `TaskStore.redrive`."""
        return await self._writer.run(
            lambda connection: _redrive(connection, letter, row, body, force=force)
        )

    async def undo_redrive(self, letter: DeadLetterRow, id: str) -> bool:
        """See `TaskStore.undo_redrive`."""
        return await self._writer.run(lambda connection: _undo_redrive(connection, letter, id))

    async def purge_dead_letters(self, query: DeadLetterQuery, at: str) -> int:
        """See `TaskStore.purge_dead_letters`."""
        return await self._writer.run(lambda connection: letters.purge(connection, query, at))

    async def schedules(self) -> list[ScheduleRow]:
        """See `TaskStore.schedules`."""
        return await self._reader.run(_schedules)

    async def save_schedule(self, row: ScheduleRow) -> None:
        """See `TaskStore.save_schedule`."""
        values = msgspec.structs.astuple(row)
        sql = "INSERT OR REPLACE INTO schedules VALUES (?, ?, ?, ?, ?, ?)"
        await self._writer.run(lambda connection: connection.execute(sql, values) and None)

    async def sweep(self, before: str, limit: int) -> int:
        """See `TaskStore.sweep`."""
        return await self._writer.run(lambda connection: _sweep(connection, before, limit))


def migrations() -> list[tuple[int, str]]:
    """The numbered SQL files of this package, in their order."""
    folder = resources.files("asya.tasks.store.sqlite") / "migrations"
    files = [entry for entry in folder.iterdir() if entry.name.endswith(".sql")]
    return sorted((int(entry.name.split("_")[0]), entry.read_text("utf-8")) for entry in files)


def migrate(connection: sqlite3.Connection, place: str) -> None:
    """Bring the schema up to date, each file in a transaction of its own.

    Raises:
        StoreError: The file was made by a newer version.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    steps = migrations()
    newest = steps[-1][0]
    if version > newest:
        raise StoreError(
            f"the task store {place} was made by a newer version of Asya (schema {version}, this "
            f"version knows {newest}); upgrade, or give another folder with --data"
        )
    connection.create_function("asya_fingerprint", 2, letters.sql_fingerprint, deterministic=True)
    for number, sql in steps:
        if number > version:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{sql}\nPRAGMA user_version={number};\nCOMMIT;"
            )


_decode_route: Final = msgspec.json.Decoder(tuple[list[str], str, list[str]]).decode
_encode: Final = msgspec.json.Encoder().encode
_RowTuple = tuple[
    int, str, str, str | None, str | None, str, str, int, int, int, int,
    bytes | None, bytes, bytes | None, str, str, str | None, str | None, str | None,
]  # fmt: skip


def _route_text(route: Route) -> str:
    return _encode((route.prev, route.curr, route.next)).decode()


def _row(found: _RowTuple) -> TaskRow:
    prev, curr, next_ = _decode_route(found[6])
    return TaskRow(
        key=found[0],
        id=found[1],
        root=found[2],
        parent_id=found[3],
        flow=found[4],
        status=found[5],
        route=Route(prev, curr, next_),
        n=found[7],
        attempt=found[8],
        progress=found[9],
        seq=found[10],
        digest=found[11],
        headers=found[12],
        error=found[13],
        created_at=found[14],
        updated_at=found[15],
        deadline_at=found[16],
        not_before=found[17],
        stuck_at=found[18],
    )


def _load(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, TaskRow]:
    rows = {}
    for start in range(0, len(ids), _CHUNKS[-1]):
        chunk = ids[start : start + _CHUNKS[-1]]
        size = next(size for size in _CHUNKS if size >= len(chunk))
        marks = ", ".join("?" * size)
        sql = f"SELECT {_COLUMNS} FROM tasks WHERE id IN ({marks})"  # noqa: S608  marks only
        for found in connection.execute(sql, (*chunk, *[None] * (size - len(chunk)))):
            row = _row(found)
            rows[row.id] = row
    return rows


def _save_new(connection: sqlite3.Connection, row: TaskRow) -> None:
    cursor = connection.execute(
        "INSERT INTO tasks (id, root, parent_id, flow, status, route, n, attempt, progress, seq, "
        "digest, headers, error, created_at, updated_at, deadline_at, not_before) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            row.id, row.root, row.parent_id, row.flow, row.status, _route_text(row.route), row.n,
            row.attempt, row.progress, row.seq, row.digest, row.headers, row.error,
            row.created_at, row.updated_at, row.deadline_at, row.not_before,
        ),
    )  # fmt: skip
    row.key = cursor.lastrowid or 0


def _save(connection: sqlite3.Connection, row: TaskRow, events: Iterable[EventRow]) -> None:
    if not row.key:
        _save_new(connection, row)
    else:
        connection.execute(
            "UPDATE tasks SET status = ?, route = ?, n = ?, attempt = ?, progress = ?, seq = ?, "
            "headers = ?, error = ?, updated_at = ?, deadline_at = ?, stuck_at = ? WHERE key = ?",
            (
                row.status, _route_text(row.route), row.n, row.attempt, row.progress, row.seq,
                row.headers, row.error, row.updated_at, row.deadline_at, row.stuck_at, row.key,
            ),
        )  # fmt: skip
    connection.executemany(
        "INSERT INTO events (task, seq, kind, data) VALUES (?, ?, ?, ?)",
        [(row.key, event.seq, event.kind, event.data) for event in events],
    )


def _insert(
    connection: sqlite3.Connection, task: TaskRow, body: bytes, reservation: KeyReservation | None
) -> Insertion:
    row = msgspec.structs.replace(task)  # a job may run twice, see `worker`
    known = _load(connection, [row.id]).get(row.id)
    if known is not None:
        return Insertion(False, known, _waiting(connection, known))
    replaced = None
    if reservation is not None:
        held, holder = _holder(connection, reservation)
        decision = decide(reservation, held, holder)
        if holder is not None and decision == "same":
            return Insertion(False, holder, _waiting(connection, holder))
        if holder is not None and decision in {"taken", "reused"}:
            return Insertion(False, holder, None, decision)
        if holder is not None and decision == "replace":
            _cancel(connection, holder.id, reservation.at, limit=1)
            replaced = holder.id
    _save(connection, row, rules.admitted(row))
    connection.execute("INSERT INTO outbox (key, body) VALUES (?, ?)", (row.key, body))
    if reservation is not None:
        connection.execute(
            "INSERT OR REPLACE INTO admission_keys (scope, key, task, digest, expires_at) "
            "VALUES (?, ?, ?, ?, ?)",
            (
                reservation.scope,
                reservation.key,
                row.key,
                reservation.digest,
                reservation.expires_at,
            ),
        )
    outgoing = Outgoing(row.key, row.id, body, row.not_before)
    return Insertion(True, row, outgoing, replaced=replaced)


def _waiting(connection: sqlite3.Connection, known: TaskRow) -> Outgoing | None:
    """The envelope of a task that is not known to be published."""
    found = connection.execute("SELECT body FROM outbox WHERE key = ?", (known.key,)).fetchone()
    if found is None or known.status != "pending":
        return None
    return Outgoing(known.key, known.id, found[0], known.not_before)


def _holder(
    connection: sqlite3.Connection, reservation: KeyReservation
) -> tuple[HeldKey | None, TaskRow | None]:
    """The key as stored, and the task that it was stored for."""
    held = connection.execute(
        "SELECT digest, expires_at, task FROM admission_keys WHERE scope = ? AND key = ?",
        (reservation.scope, reservation.key),
    ).fetchone()
    if held is None:
        return None, None
    sql = f"SELECT {_COLUMNS} FROM tasks WHERE key = ?"  # noqa: S608  our own columns
    found = connection.execute(sql, (held[2],)).fetchone()
    return HeldKey(held[0], held[1]), None if found is None else _row(found)


def _schedules(connection: sqlite3.Connection) -> list[ScheduleRow]:
    found = connection.execute(
        "SELECT name, seen_at, last_at, last_id, last_error, suspended FROM schedules"
    )
    rows: list[tuple[str, str, str | None, str | None, str | None, int | None]] = found.fetchall()
    return [ScheduleRow(*row[:5], None if row[5] is None else bool(row[5])) for row in rows]


def _discard(connection: sqlite3.Connection, id: str) -> bool:
    found = connection.execute(
        "SELECT key FROM tasks JOIN outbox USING (key) WHERE id = ? AND status = 'pending'", (id,)
    ).fetchone()
    if found is None:
        return False
    _forget(connection, [found])
    return True


def _forget(connection: sqlite3.Connection, keys: list[tuple[int]]) -> None:
    connection.executemany("DELETE FROM events WHERE task = ?", keys)
    connection.executemany("DELETE FROM results WHERE key = ?", keys)
    connection.executemany("DELETE FROM outbox WHERE key = ?", keys)
    connection.executemany("DELETE FROM admission_keys WHERE task = ?", keys)
    connection.executemany("DELETE FROM payloads WHERE task = ?", keys)
    connection.executemany("DELETE FROM tasks WHERE key = ?", keys)


def _published(connection: sqlite3.Connection, ids: Sequence[str]) -> None:
    connection.executemany(
        "DELETE FROM outbox WHERE key = (SELECT key FROM tasks WHERE id = ?)",
        [(id_,) for id_ in ids],
    )


def _outbox(connection: sqlite3.Connection, after: int, limit: int) -> list[Outgoing]:
    sql = (
        "SELECT key, id, body, not_before FROM outbox JOIN tasks USING (key) "
        "WHERE key > ? AND status = 'pending' ORDER BY key LIMIT ?"
    )
    return [Outgoing(*found) for found in connection.execute(sql, (after, limit))]


def _record(connection: sqlite3.Connection, notes: Sequence[Note], payloads_max: int) -> list[str]:
    by_id: dict[str, list[Note]] = {}
    for note in notes:
        by_id.setdefault(note.id, []).append(note)
    rows = _load(connection, list(by_id))
    changed = []
    for id_, group in by_id.items():
        row = rows.get(id_)
        canceled = row is None and any(_is_canceled(connection, note.root) for note in group)
        step = rules.advance(row, group, canceled=canceled)
        if step is not None:
            _save(connection, step.row, step.events)
            observing.keep_payloads(connection, step.row.key, group, payloads_max)
            changed.append(id_)
    return changed


def _is_canceled(connection: sqlite3.Connection, root: str | None) -> bool:
    if root is None:
        return False
    found = connection.execute("SELECT 1 FROM cancels WHERE id = ?", (root,)).fetchone()
    return found is not None


def _finish(
    connection: sqlite3.Connection, end: Finished, notes: Sequence[Note], payloads_max: int
) -> bool:
    row = _load(connection, [end.id]).get(end.id)
    events: list[EventRow] = []
    step = rules.advance(row, notes, canceled=False) if notes else None
    if step is not None:
        row = step.row
        events += step.events
    last = rules.finished(row, end)
    if last is not None:
        row = last.row
        events += last.events
    if row is not None and events:
        _save(connection, row, events)
        observing.keep_payloads(connection, row.key, notes, payloads_max)
    if last is None:
        return False
    if end.result is not None:
        connection.execute(
            "INSERT OR REPLACE INTO results (key, body) VALUES (?, ?)",
            (last.row.key, bytes(end.result)),
        )
    return True


def _redrive(
    connection: sqlite3.Connection,
    letter: DeadLetterRow,
    task: TaskRow,
    body: bytes,
    *,
    force: bool,
) -> DeadLetterRow | None:
    current = letters.by_key(connection, letter.key)
    if current is None or current.status == "purged" or (current.status != "dead" and not force):
        return msgspec.structs.replace(letter, status="purged") if current is None else current
    row = msgspec.structs.replace(task)  # a job may run twice, see `worker`
    _save(connection, row, rules.admitted(row))
    connection.execute("INSERT INTO outbox (key, body) VALUES (?, ?)", (row.key, body))
    letters.settle(connection, letter.key, row.created_at, row.id)
    return None


def _undo_redrive(connection: sqlite3.Connection, letter: DeadLetterRow, id: str) -> bool:
    if not _discard(connection, id):
        return False
    letters.revive(connection, letter, id)
    return True


def _cancel(
    connection: sqlite3.Connection,
    id: str,
    at: str,
    limit: int,
) -> list[str] | None:
    own = _load(connection, [id])
    children = connection.execute(
        f"SELECT {_COLUMNS} FROM tasks WHERE root = ? AND root <> id AND {_OPEN} LIMIT ?",  # noqa: S608  constants
        (id, limit - 1),
    ).fetchall()
    if not own and not children:
        return None
    canceled = []
    for row in [*own.values(), *map(_row, children)]:
        step = rules.canceled(row, at)
        if step is not None:
            _save(connection, step.row, step.events)
            canceled.append(row.id)
    if canceled:
        # one that waits for its time must still be known as canceled when that has come
        until = max(at, *(row.not_before or at for row in own.values()), at)
        connection.execute("INSERT OR IGNORE INTO cancels (id, at) VALUES (?, ?)", (id, until))
    return canceled


def _get(connection: sqlite3.Connection, id: str) -> Detail | None:
    row = _load(connection, [id]).get(id)
    if row is None:
        return None
    result = connection.execute("SELECT body FROM results WHERE key = ?", (row.key,)).fetchone()
    # No row is read past `row.seq`: two statements may see two states of the file.
    events = connection.execute(
        "SELECT seq, kind, data FROM events WHERE task = ? AND seq <= ? AND seq > ? ORDER BY seq",
        (row.key, row.seq, row.seq - EVENTS_MAX),
    )
    return Detail(row, None if result is None else result[0], [EventRow(*e) for e in events])


def _tasks(connection: sqlite3.Connection, query: Query) -> list[TaskRow]:
    wanted: list[tuple[str, tuple[object, ...]]] = []
    if query.status is not None:
        wanted.append(("status = ?", (query.status,)))
    if query.flow is not None:
        wanted.append(("flow = ?", (query.flow,)))
    if query.root is not None:
        own = "SELECT key FROM tasks WHERE id = ?"
        children = "SELECT key FROM tasks WHERE root = ? AND root <> id"
        wanted.append((f"key IN ({own} UNION {children})", (query.root, query.root)))
    if query.stuck is not None:
        wanted.append((f"stuck_at IS {'NOT ' * query.stuck}NULL", ()))
    if query.actor is not None:
        wanted.append(("instr(route, ?) > 0", (f'"{query.actor}"',)))
    if query.before is not None:
        wanted.append(("key < ?", (query.before,)))
    where = " AND ".join(clause for clause, _ in wanted) or "1"
    sql = f"SELECT {_COLUMNS} FROM tasks WHERE {where} ORDER BY key DESC LIMIT ?"  # noqa: S608  own clauses, bound values
    values = [value for _, values in wanted for value in values]
    return [_row(found) for found in connection.execute(sql, (*values, query.limit))]


def _standing(connection: sqlite3.Connection, after: int, limit: int) -> list[Standing]:
    found = []
    sql = f"SELECT {_COLUMNS} FROM tasks WHERE key = ?"  # noqa: S608  our own columns
    for key in observing.open_keys(connection, after, limit):
        row = _row(connection.execute(sql, key).fetchone())
        found.append(Standing(row, observing.newest_event(connection, row.key, row.seq)))
    return found


def _mark_stuck(
    connection: sqlite3.Connection, marks: Sequence[tuple[str, int, StuckData]]
) -> list[str]:
    rows = _load(connection, [id_ for id_, _, _ in marks])
    marked = []
    for id_, seq, data in marks:
        row = rows.get(id_)
        step = None if row is None else rules.stuck(row, seq, data)
        if step is not None:
            _save(connection, step.row, step.events)
            marked.append(id_)
    return marked


def _events(
    connection: sqlite3.Connection,
    id: str,
    after: int,
    limit: int,
) -> EventPage | None:
    # The status is read first: an end that comes between the two is told by the next page.
    task = connection.execute("SELECT key, status FROM tasks WHERE id = ?", (id,)).fetchone()
    if task is None:
        return None
    key, status = task
    found = connection.execute(
        "SELECT seq, kind, data FROM events WHERE task = ? AND seq > ? ORDER BY seq LIMIT ?",
        (key, after, limit),
    )
    return EventPage([EventRow(*event) for event in found], status in TERMINAL_PHASES)


def _sweep(connection: sqlite3.Connection, before: str, limit: int) -> int:
    keys: list[tuple[int]] = connection.execute(
        "SELECT key FROM tasks WHERE status IN ('succeeded', 'failed', 'canceled') "
        "AND updated_at < ? LIMIT ?",
        (before, limit),
    ).fetchall()
    _forget(connection, keys)
    connection.execute(
        "DELETE FROM cancels WHERE id IN (SELECT id FROM cancels WHERE at < ? LIMIT ?)",
        (before, limit),
    )
    letters.sweep(connection, before, limit)
    return len(keys)
