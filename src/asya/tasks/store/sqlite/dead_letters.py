"""Dead letters as SQL: see `DeadLetterStore`. Each method is one job of a thread.

A letter is `dead` until it is `retried` (a new envelope was made from it) or `purged` (its bytes
are gone). Neither comes back when the same death is told again. The sweep forgets those that were
settled long ago; one that is dead stays until somebody deals with it.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

import msgspec

from asya.envelope import ErrorInfo
from asya.events import DeadLetter
from asya.tasks.fingerprint import fingerprint
from asya.tasks.rules import TaskRow
from asya.tasks.store.base import DeadLetterGroup, DeadLetterQuery, DeadLetterRow, DeadLetterStore
from asya.tasks.store.sqlite import rows
from asya.tasks.store.sqlite.worker import Worker

_COLUMNS: Final = "key, id, reason, actor, at, status, changed_at, retried_as, fingerprint, error"
_encode: Final = msgspec.json.Encoder().encode
_decode_error: Final = msgspec.json.Decoder(ErrorInfo).decode


def sql_fingerprint(reason: str, error: bytes | None) -> str:
    """The fingerprint as a function of the database, for its migration."""
    return fingerprint(reason, None if error is None else _decode_error(error))


class SqliteDeadLetters(DeadLetterStore):
    """The dead letters of a file.

    Args:
        writer: The store's thread that writes.
        reader: The one that reads.
    """

    def __init__(self, writer: Worker, reader: Worker) -> None:
        self._writer = writer
        self._reader = reader

    async def add(self, letter: DeadLetter) -> None:
        await self._writer.run(lambda connection: _add(connection, letter))

    async def get(self, id: str) -> DeadLetterRow | None:
        where = "id = ? ORDER BY status = 'dead' DESC, key DESC LIMIT 1"
        return await self._reader.run(lambda connection: _one(connection, where, (id,), ", body"))

    async def page(self, query: DeadLetterQuery) -> list[DeadLetterRow]:
        return await self._reader.run(lambda connection: _page(connection, query))

    async def groups(self, query: DeadLetterQuery) -> list[DeadLetterGroup]:
        return await self._reader.run(lambda connection: _groups(connection, query))

    async def redrive(
        self, letter: DeadLetterRow, row: TaskRow, body: bytes, *, force: bool
    ) -> DeadLetterRow | None:
        return await self._writer.run(
            lambda connection: _redrive(connection, letter, row, body, force=force)
        )

    async def undo_redrive(self, letter: DeadLetterRow, id: str) -> bool:
        return await self._writer.run(lambda connection: _undo_redrive(connection, letter, id))

    async def purge(self, query: DeadLetterQuery, at: str) -> int:
        return await self._writer.run(lambda connection: _purge(connection, query, at))


def _add(connection: sqlite3.Connection, letter: DeadLetter) -> None:
    error = None if letter.error is None else _encode(letter.error)
    connection.execute(
        "INSERT INTO dead_letters "
        "(id, reason, actor, at, status, changed_at, fingerprint, error, body) "
        "VALUES (?, ?, ?, ?, 'dead', ?, ?, ?, ?) ON CONFLICT (id, reason) DO NOTHING",
        (
            letter.id, letter.reason, letter.actor, letter.at, letter.at,
            fingerprint(letter.reason, letter.error), error, letter.body,
        ),
    )  # fmt: skip


def _by_key(connection: sqlite3.Connection, key: int) -> DeadLetterRow | None:
    """The letter with a key, without its bytes."""
    return _one(connection, "key = ?", (key,))


def _one(
    connection: sqlite3.Connection, where: str, values: tuple[object, ...], more: str = ""
) -> DeadLetterRow | None:
    sql = f"SELECT {_COLUMNS}{more} FROM dead_letters WHERE {where}"  # noqa: S608  our own texts
    found = connection.execute(sql, values).fetchone()
    return None if found is None else _row(found)


def _page(connection: sqlite3.Connection, query: DeadLetterQuery) -> list[DeadLetterRow]:
    where, values = _where(query)
    order = "DESC" if query.newest_first else "ASC"
    sql = f"SELECT {_COLUMNS} FROM dead_letters WHERE {where} ORDER BY key {order} LIMIT ?"  # noqa: S608  own clauses, bound values
    return [_row(found) for found in connection.execute(sql, (*values, query.limit))]


def _groups(connection: sqlite3.Connection, query: DeadLetterQuery) -> list[DeadLetterGroup]:
    where, values = _where(msgspec.structs.replace(query, before=None))
    sql = (
        "SELECT fingerprint, actor, count(*), min(at), max(at), group_concat(DISTINCT reason), "  # noqa: S608  own clauses, bound values
        f"max(key) FROM dead_letters WHERE {where} GROUP BY actor, fingerprint "
        "HAVING ? IS NULL OR max(key) < ? ORDER BY max(key) DESC LIMIT ?"
    )
    found = connection.execute(sql, (*values, query.before, query.before, query.limit)).fetchall()
    made = []
    for mark, actor, count, first, last, reasons, key in found:
        newest = _by_key(connection, key)
        if newest is not None:  # purged in between: two statements may see two states of the file
            group = DeadLetterGroup(
                mark, actor, count, first, last, sorted(reasons.split(",")), newest
            )
            made.append(group)
    return made


def _purge(connection: sqlite3.Connection, query: DeadLetterQuery, at: str) -> int:
    where, values = _where(query)
    return connection.execute(
        "UPDATE dead_letters SET status = 'purged', changed_at = ?, body = x'' WHERE key IN "  # noqa: S608  own clauses, bound values
        f"(SELECT key FROM dead_letters WHERE {where} AND status <> 'purged' LIMIT ?)",
        (at, *values, query.limit),
    ).rowcount


def _redrive(
    connection: sqlite3.Connection,
    letter: DeadLetterRow,
    task: TaskRow,
    body: bytes,
    *,
    force: bool,
) -> DeadLetterRow | None:
    current = _by_key(connection, letter.key)
    if current is None or current.status == "purged" or (current.status != "dead" and not force):
        return msgspec.structs.replace(letter, status="purged") if current is None else current
    row = msgspec.structs.replace(task)  # a job may run twice, see `worker`
    rows.add(connection, row, body)
    _settle(connection, letter.key, row.created_at, row.id)
    return None


def _undo_redrive(connection: sqlite3.Connection, letter: DeadLetterRow, id: str) -> bool:
    if not rows.discard(connection, id):
        return False
    _revive(connection, letter, id)
    return True


def _settle(connection: sqlite3.Connection, key: int, at: str, retried_as: str) -> None:
    """Mark a letter as retried."""
    connection.execute(
        "UPDATE dead_letters SET status = 'retried', changed_at = ?, retried_as = ? WHERE key = ?",
        (at, retried_as, key),
    )


def _revive(connection: sqlite3.Connection, before: DeadLetterRow, retried_as: str) -> None:
    """Undo the mark of a retry that made no envelope."""
    connection.execute(
        "UPDATE dead_letters SET status = ?, changed_at = ?, retried_as = ? "
        "WHERE key = ? AND status = 'retried' AND retried_as = ?",
        (before.status, before.changed_at, before.retried_as, before.key, retried_as),
    )


def sweep(connection: sqlite3.Connection, before: str, limit: int) -> None:
    """Forget letters that were settled before a time."""
    connection.execute(
        "DELETE FROM dead_letters WHERE key IN (SELECT key FROM dead_letters "
        "WHERE status <> 'dead' AND changed_at < ? LIMIT ?)",
        (before, limit),
    )


def _where(query: DeadLetterQuery) -> tuple[str, tuple[object, ...]]:
    wanted: list[tuple[str, object]] = [
        ("status = ?", query.status),
        ("actor = ?", query.actor),
        ("reason = ?", query.reason),
        ("fingerprint = ?", query.fingerprint),
        ("at < ?", query.older_than),
        ("key < ?", query.before),
        ("key > ?", query.after),
    ]
    given = [(clause, value) for clause, value in wanted if value is not None]
    clauses = [clause for clause, _ in given]
    values = [value for _, value in given]
    if query.ids is not None:
        clauses.append("id IN (SELECT value FROM json_each(?))")
        values.append(_encode(query.ids).decode())
    return " AND ".join(clauses) or "1", tuple(values)


def _row(found: tuple[Any, ...]) -> DeadLetterRow:
    error = None if found[9] is None else _decode_error(found[9])
    values: tuple[Any, ...] = (*found[:9], error, *found[10:])
    return DeadLetterRow(*values)
