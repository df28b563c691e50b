"""Rows of tasks, as SQL: read, written, forgotten. What the other files of this folder share.

All functions run in the store's threads, inside the transaction of their job.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from asya.envelope import Route
from asya.tasks import rules
from asya.tasks.rules import TaskRow
from asya.tasks.stored_events import EventRow

COLUMNS: Final = (
    "key, id, root, parent_id, flow, status, route, n, attempt, progress, seq, digest, headers, "
    "error, created_at, updated_at, deadline_at, not_before, stuck_at"
)
OPEN: Final = "status NOT IN ('succeeded', 'failed', 'canceled')"
_CHUNKS: Final = (1, 8, 64)
"""Sizes of `IN` lists: few texts of statements, so that each is compiled once."""

_decode_route: Final = msgspec.json.Decoder(tuple[list[str], str, list[str]]).decode
_encode: Final = msgspec.json.Encoder().encode
_RowTuple = tuple[
    int, str, str, str | None, str | None, str, str, int, int, int, int,
    bytes | None, bytes, bytes | None, str, str, str | None, str | None, str | None,
]  # fmt: skip


def _route_text(route: Route) -> str:
    return _encode((route.prev, route.curr, route.next)).decode()


def to_row(found: _RowTuple) -> TaskRow:
    """A task from the values of `COLUMNS`."""
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


def load(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, TaskRow]:
    """Tasks by id; unknown ids are left out."""
    rows = {}
    for start in range(0, len(ids), _CHUNKS[-1]):
        chunk = ids[start : start + _CHUNKS[-1]]
        size = next(size for size in _CHUNKS if size >= len(chunk))
        marks = ", ".join("?" * size)
        sql = f"SELECT {COLUMNS} FROM tasks WHERE id IN ({marks})"  # noqa: S608  marks only
        for found in connection.execute(sql, (*chunk, *[None] * (size - len(chunk)))):
            row = to_row(found)
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


def save(connection: sqlite3.Connection, row: TaskRow, events: Iterable[EventRow]) -> None:
    """Store a task as it is now, and append its new events. A `key` of 0 means that it is new."""
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
        "INSERT INTO events (task, seq, kind, data, progress) VALUES (?, ?, ?, ?, ?)",
        [(row.key, event.seq, event.kind, event.data, event.progress) for event in events],
    )


def add(connection: sqlite3.Connection, row: TaskRow, body: bytes) -> None:
    """Store a new task with the envelope that is to be published."""
    save(connection, row, rules.admitted(row))
    connection.execute("INSERT INTO outbox (key, body) VALUES (?, ?)", (row.key, body))


def discard(connection: sqlite3.Connection, id: str) -> bool:
    """See `TaskStore.discard`; undoing a redrive needs it too."""
    found = connection.execute(
        "SELECT key FROM tasks JOIN outbox USING (key) WHERE id = ? AND status = 'pending'", (id,)
    ).fetchone()
    if found is None:
        return False
    forget(connection, [found])
    return True


def forget(connection: sqlite3.Connection, keys: list[tuple[int]]) -> None:
    """Remove tasks with all that belongs to them, by their keys."""
    connection.executemany("DELETE FROM events WHERE task = ?", keys)
    connection.executemany("DELETE FROM results WHERE key = ?", keys)
    connection.executemany("DELETE FROM outbox WHERE key = ?", keys)
    connection.executemany("DELETE FROM admission_keys WHERE task = ?", keys)
    connection.executemany("DELETE FROM payloads WHERE task = ?", keys)
    connection.executemany("DELETE FROM tasks WHERE key = ?", keys)
