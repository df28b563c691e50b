"""SQL behind `asya why`, `asya trace` and the watcher; `sqlite` calls it in its threads."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

from asya.tasks.rules import EventRow, Note
from asya.tasks.store.base import Clues, StoredPayload

AHEAD_SCAN_MAX: Final = 20_000
"""Open tasks of each status that are looked at to tell how many stand before one."""

NEAR_MAX: Final = 2_000
"""The newest ids, among which the nearest to an unknown one is looked for."""


def newest_event(connection: sqlite3.Connection, key: int, seq: int) -> EventRow | None:
    """The newest event of a task that tells where it is."""
    found = connection.execute(
        "SELECT seq, kind, data FROM events WHERE task = ? AND seq <= ? "
        "AND kind NOT IN ('sent', 'stuck') ORDER BY seq DESC LIMIT 1",
        (key, seq),
    ).fetchone()
    return None if found is None else EventRow(*found)


def clues(connection: sqlite3.Connection, id: str, actor: str, since: str) -> Clues | None:
    """See `TaskStore.clues`."""
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
    return Clues(waits is None, None if letter is None else letter[0], ahead)


def near(connection: sqlite3.Connection, id: str) -> list[str]:
    """See `TaskStore.near`."""
    begins = connection.execute(
        "SELECT id FROM tasks WHERE id >= ?1 AND id < ?2 "
        "UNION SELECT id FROM dead_letters WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 2",
        (id, id + "\U0010ffff"),
    ).fetchall()
    newest = connection.execute(
        "SELECT id FROM (SELECT id FROM tasks ORDER BY key DESC LIMIT ?1) "
        "UNION SELECT id FROM (SELECT id FROM dead_letters ORDER BY key DESC LIMIT ?1)",
        (NEAR_MAX,),
    )
    return [found[0] for found in begins or newest.fetchall()]


def payload(
    connection: sqlite3.Connection, id: str, n: int, side: str, attempt: int | None
) -> StoredPayload | None:
    """See `TaskStore.payload`."""
    found = connection.execute(
        "SELECT p.n, p.attempt, p.side, p.at, p.size, p.truncated, p.body "
        "FROM payloads p JOIN tasks t ON t.key = p.task "
        "WHERE t.id = ? AND p.n = ? AND p.side = ? AND (? IS NULL OR p.attempt = ?) "
        "ORDER BY p.key DESC LIMIT 1",
        (id, n, side, attempt, attempt),
    ).fetchone()
    if found is None:
        return None
    number, tried, which, at, size, truncated, body = found
    return StoredPayload(number, tried, which, at, size, bool(truncated), body)


def keep_payloads(
    connection: sqlite3.Connection, key: int, notes: Iterable[Note], count_max: int
) -> None:
    """Store what came along with notes; the oldest go where there are more than `count_max`."""
    last = None
    for note in notes:
        for seen in note.seen:
            kept = seen.kept()
            last = connection.execute(
                "INSERT INTO payloads (task, n, attempt, side, at, size, truncated, body) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    key, seen.n, seen.attempt, seen.side, seen.at, kept.size, kept.truncated,
                    kept.body,
                ),
            ).lastrowid  # fmt: skip
    if last is not None:
        connection.execute("DELETE FROM payloads WHERE key <= ?", (last - count_max,))


def forget_payloads(connection: sqlite3.Connection, before: str, limit: int) -> int:
    """Forget payloads that were kept before a time."""
    return connection.execute(
        "DELETE FROM payloads WHERE key IN "
        "(SELECT key FROM payloads WHERE at < ? ORDER BY key LIMIT ?)",
        (before, limit),
    ).rowcount


def open_keys(connection: sqlite3.Connection, after: int, limit: int) -> Sequence[tuple[int]]:
    """Keys of tasks that have not ended, above `after`, oldest first."""
    return connection.execute(
        "SELECT key FROM tasks WHERE key IN ("
        "SELECT key FROM (SELECT key FROM tasks WHERE status = 'pending' AND key > ?1 "
        "ORDER BY key LIMIT ?2) UNION "
        "SELECT key FROM (SELECT key FROM tasks WHERE status = 'running' AND key > ?1 "
        "ORDER BY key LIMIT ?2)) ORDER BY key LIMIT ?2",
        (after, limit),
    ).fetchall()
