"""Tasks as SQL: see `TaskStore`. Each method is one job of the writer's or the reader's thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

import msgspec

from asya.tasks import rules
from asya.tasks.key_reservation import HeldKey, KeyReservation, decide
from asya.tasks.rules import TaskRow
from asya.tasks.store.base import (
    EVENTS_MAX,
    Detail,
    Insertion,
    Outgoing,
    Query,
    QueueFacts,
    TaskStore,
)
from asya.tasks.store.sqlite import dead_letters, rows
from asya.tasks.store.sqlite.worker import Worker
from asya.tasks.stored_events import EventRow

AHEAD_SCAN_MAX: Final = 20_000
"""Open tasks of each status that are read to count how many stand before one."""

SIMILAR_MAX: Final = 2_000
"""The newest ids, of which one may be meant by an unknown id."""


class SqliteTasks(TaskStore):
    """The tasks of a file.

    Args:
        writer: The store's thread that writes.
        reader: The one that reads.
    """

    def __init__(self, writer: Worker, reader: Worker) -> None:
        self._writer = writer
        self._reader = reader

    async def insert(
        self, row: TaskRow, body: bytes, reservation: KeyReservation | None = None
    ) -> Insertion:
        return await self._writer.run(
            lambda connection: _insert(connection, row, body, reservation)
        )

    async def discard(self, id: str) -> bool:
        return await self._writer.run(lambda connection: rows.discard(connection, id))

    async def mark_published(self, ids: Sequence[str]) -> None:
        sql = "DELETE FROM outbox WHERE key = (SELECT key FROM tasks WHERE id = ?)"
        values = [(id_,) for id_ in ids]
        await self._writer.run(lambda connection: connection.executemany(sql, values) and None)

    async def outbox(self, *, after: int = 0, limit: int = 100) -> list[Outgoing]:
        sql = (
            "SELECT key, id, body, not_before FROM outbox JOIN tasks USING (key) "
            "WHERE key > ? AND status = 'pending' ORDER BY key LIMIT ?"
        )
        return await self._reader.run(
            lambda connection: [Outgoing(*row) for row in connection.execute(sql, (after, limit))]
        )

    async def get(self, id: str) -> Detail | None:
        return await self._reader.run(lambda connection: _get(connection, id))

    async def page(self, query: Query) -> list[TaskRow]:
        return await self._reader.run(lambda connection: _page(connection, query))

    async def cancel(self, id: str, at: str, *, limit: int) -> list[str] | None:
        return await self._writer.run(lambda connection: _cancel(connection, id, at, limit))

    async def canceled(self, since: str, limit: int) -> list[str]:
        sql = "SELECT id FROM cancels WHERE at >= ? ORDER BY at DESC LIMIT ?"
        return await self._reader.run(
            lambda connection: [found[0] for found in connection.execute(sql, (since, limit))]
        )

    async def queue_facts(self, id: str, actor: str, since: str) -> QueueFacts | None:
        return await self._reader.run(lambda connection: _queue_facts(connection, id, actor, since))

    async def similar_ids(self, id: str) -> list[str]:
        return await self._reader.run(lambda connection: _similar_ids(connection, id))

    async def sweep(self, before: str, limit: int) -> int:
        return await self._writer.run(lambda connection: _sweep(connection, before, limit))


def _insert(
    connection: sqlite3.Connection, task: TaskRow, body: bytes, reservation: KeyReservation | None
) -> Insertion:
    row = msgspec.structs.replace(task)  # a job may run twice, see `worker`
    known = rows.load(connection, [row.id]).get(row.id)
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
    rows.add(connection, row, body)
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
    sql = f"SELECT {rows.COLUMNS} FROM tasks WHERE key = ?"  # noqa: S608  our own columns
    found = connection.execute(sql, (held[2],)).fetchone()
    return HeldKey(held[0], held[1]), None if found is None else rows.to_row(found)


def _cancel(
    connection: sqlite3.Connection,
    id: str,
    at: str,
    limit: int,
) -> list[str] | None:
    own = rows.load(connection, [id])
    children = connection.execute(
        f"SELECT {rows.COLUMNS} FROM tasks WHERE root = ? AND root <> id AND {rows.OPEN} LIMIT ?",  # noqa: S608  constants
        (id, limit - 1),
    ).fetchall()
    if not own and not children:
        return None
    canceled = []
    for row in [*own.values(), *map(rows.to_row, children)]:
        step = rules.canceled(row, at)
        if step is not None:
            rows.save(connection, step.row, step.events)
            canceled.append(row.id)
    if canceled:
        # one that waits for its time must still be known as canceled when that has come
        until = max(at, *(row.not_before or at for row in own.values()), at)
        connection.execute("INSERT OR IGNORE INTO cancels (id, at) VALUES (?, ?)", (id, until))
    return canceled


def _get(connection: sqlite3.Connection, id: str) -> Detail | None:
    row = rows.load(connection, [id]).get(id)
    if row is None:
        return None
    result = connection.execute("SELECT body FROM results WHERE key = ?", (row.key,)).fetchone()
    # No row is read past `row.seq`: two statements may see two states of the file.
    events = connection.execute(
        "SELECT seq, kind, data, progress FROM events WHERE task = ? AND seq <= ? AND seq > ? ORDER BY seq",
        (row.key, row.seq, row.seq - EVENTS_MAX),
    )
    return Detail(row, None if result is None else result[0], [EventRow(*e) for e in events])


def _page(connection: sqlite3.Connection, query: Query) -> list[TaskRow]:
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
    sql = f"SELECT {rows.COLUMNS} FROM tasks WHERE {where} ORDER BY key DESC LIMIT ?"  # noqa: S608  own clauses, bound values
    values = [value for _, values in wanted for value in values]
    return [rows.to_row(found) for found in connection.execute(sql, (*values, query.limit))]


def _queue_facts(
    connection: sqlite3.Connection, id: str, actor: str, since: str
) -> QueueFacts | None:
    task = connection.execute("SELECT key FROM tasks WHERE id = ?", (id,)).fetchone()
    if task is None:
        return None
    waits = connection.execute("SELECT 1 FROM outbox WHERE key = ?", task).fetchone()
    letter = connection.execute(
        "SELECT at FROM dead_letters WHERE id = ? ORDER BY key DESC LIMIT 1", (id,)
    ).fetchone()
    (ahead,) = connection.execute(
        "SELECT count(*) FROM ("
        "SELECT * FROM (SELECT key, route, updated_at FROM tasks WHERE status = 'running' "
        "ORDER BY key LIMIT ?1) UNION ALL "
        "SELECT * FROM (SELECT key, route, updated_at FROM tasks WHERE status = 'pending' "
        "ORDER BY key LIMIT ?1)) "
        "WHERE key <> ?4 AND (updated_at < ?2 OR key < ?4) AND json_extract(route, '$[1]') = ?3",
        (AHEAD_SCAN_MAX, since, actor, task[0]),
    ).fetchone()
    return QueueFacts(waits is None, None if letter is None else letter[0], ahead)


def _similar_ids(connection: sqlite3.Connection, id: str) -> list[str]:
    begins = connection.execute(
        "SELECT id FROM tasks WHERE id >= ?1 AND id < ?2 "
        "UNION SELECT id FROM dead_letters WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 2",
        (id, id + "\U0010ffff"),
    ).fetchall()
    newest = connection.execute(
        "SELECT id FROM (SELECT id FROM tasks ORDER BY key DESC LIMIT ?1) "
        "UNION SELECT id FROM (SELECT id FROM dead_letters ORDER BY key DESC LIMIT ?1)",
        (SIMILAR_MAX,),
    )
    return [found[0] for found in begins or newest.fetchall()]


def _sweep(connection: sqlite3.Connection, before: str, limit: int) -> int:
    keys: list[tuple[int]] = connection.execute(
        "SELECT key FROM tasks WHERE status IN ('succeeded', 'failed', 'canceled') "
        "AND updated_at < ? LIMIT ?",
        (before, limit),
    ).fetchall()
    rows.forget(connection, keys)
    connection.execute(
        "DELETE FROM cancels WHERE id IN (SELECT id FROM cancels WHERE at < ? LIMIT ?)",
        (before, limit),
    )
    dead_letters.sweep(connection, before, limit)
    return len(keys)
