"""Events and kept payloads as SQL: see `EventStore`. Each method is one job of a thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from asya.envelope import TERMINAL_PHASES
from asya.events import Finished, Forked, HopStarted
from asya.tasks import rules
from asya.tasks.rules import Recorded, StuckData
from asya.tasks.store.base import EventPage, EventStore, OpenTask, StoredPayload
from asya.tasks.store.sqlite import rows
from asya.tasks.store.sqlite.worker import Worker
from asya.tasks.stored_events import EventRow, TaskEvent


class SqliteEvents(EventStore):
    """The events of a file.

    Args:
        writer: The store's thread that writes.
        reader: The one that reads.
        payloads_max: Payloads of hops that are kept; the oldest go.
    """

    def __init__(self, writer: Worker, reader: Worker, payloads_max: int) -> None:
        self._writer = writer
        self._reader = reader
        self._payloads_max = payloads_max

    async def record(self, recorded: Sequence[Recorded]) -> list[str]:
        return await self._writer.run(
            lambda connection: _record(connection, recorded, self._payloads_max)
        )

    async def complete(self, end: Finished, recorded: Sequence[Recorded] = ()) -> bool:
        return await self._writer.run(
            lambda connection: _complete(connection, end, recorded, self._payloads_max)
        )

    async def page(self, id: str, *, after: int, limit: int) -> EventPage | None:
        return await self._reader.run(lambda connection: _page(connection, id, after, limit))

    async def open_tasks(self, *, after: int, limit: int) -> list[OpenTask]:
        return await self._reader.run(lambda connection: _open_tasks(connection, after, limit))

    async def mark_stuck(self, marks: Sequence[tuple[str, int, StuckData]]) -> list[str]:
        return await self._writer.run(lambda connection: _mark_stuck(connection, marks))

    async def payload(
        self, id: str, n: int, side: str, attempt: int | None = None
    ) -> StoredPayload | None:
        return await self._reader.run(lambda connection: _payload(connection, id, n, side, attempt))

    async def forget_payloads(self, before: str, limit: int) -> int:
        sql = (
            "DELETE FROM payloads WHERE key IN "
            "(SELECT key FROM payloads WHERE at < ? ORDER BY key LIMIT ?)"
        )
        return await self._writer.run(
            lambda connection: connection.execute(sql, (before, limit)).rowcount
        )


def _record(
    connection: sqlite3.Connection, recorded: Sequence[Recorded], payloads_max: int
) -> list[str]:
    by_id: dict[str, list[Recorded]] = {}
    for each in recorded:
        by_id.setdefault(each.event.id, []).append(each)
    known = rows.load(connection, list(by_id))
    changed = []
    for id_, group in by_id.items():
        row = known.get(id_)
        canceled = row is None and any(_is_canceled(connection, each.event) for each in group)
        step = rules.advance(row, [each.event for each in group], canceled=canceled)
        if step is not None:
            rows.save(connection, step.row, step.events)
            _keep_payloads(connection, step.row.key, group, payloads_max)
            changed.append(id_)
    return changed


def _is_canceled(connection: sqlite3.Connection, event: TaskEvent) -> bool:
    """Whether an event tells the root of its envelope, and that was canceled."""
    if not isinstance(event, Forked | HopStarted):
        return False
    found = connection.execute("SELECT 1 FROM cancels WHERE id = ?", (event.root,)).fetchone()
    return found is not None


def _complete(
    connection: sqlite3.Connection, end: Finished, recorded: Sequence[Recorded], payloads_max: int
) -> bool:
    row = rows.load(connection, [end.id]).get(end.id)
    events: list[EventRow] = []
    step = (
        rules.advance(row, [each.event for each in recorded], canceled=False) if recorded else None
    )
    if step is not None:
        row = step.row
        events += step.events
    last = rules.finished(row, end)
    if last is not None:
        row = last.row
        events += last.events
    if row is not None and events:
        rows.save(connection, row, events)
        _keep_payloads(connection, row.key, recorded, payloads_max)
    if last is None:
        return False
    if end.result is not None:
        connection.execute(
            "INSERT OR REPLACE INTO results (key, body) VALUES (?, ?)",
            (last.row.key, bytes(end.result)),
        )
    return True


def _page(
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
        "SELECT seq, kind, data, progress FROM events WHERE task = ? AND seq > ? ORDER BY seq LIMIT ?",
        (key, after, limit),
    )
    return EventPage([EventRow(*event) for event in found], status in TERMINAL_PHASES)


def _open_tasks(connection: sqlite3.Connection, after: int, limit: int) -> list[OpenTask]:
    found = []
    sql = f"SELECT {rows.COLUMNS} FROM tasks WHERE key = ?"  # noqa: S608  our own columns
    for key in _open_keys(connection, after, limit):
        row = rows.to_row(connection.execute(sql, key).fetchone())
        found.append(OpenTask(row, _newest_event(connection, row.key, row.seq)))
    return found


def _open_keys(connection: sqlite3.Connection, after: int, limit: int) -> Sequence[tuple[int]]:
    """Keys of tasks that have not ended, above `after`, oldest first."""
    return connection.execute(
        "SELECT key FROM tasks WHERE key IN ("
        "SELECT key FROM (SELECT key FROM tasks WHERE status = 'pending' AND key > ?1 "
        "ORDER BY key LIMIT ?2) UNION "
        "SELECT key FROM (SELECT key FROM tasks WHERE status = 'running' AND key > ?1 "
        "ORDER BY key LIMIT ?2)) ORDER BY key LIMIT ?2",
        (after, limit),
    ).fetchall()


def _newest_event(connection: sqlite3.Connection, key: int, seq: int) -> EventRow | None:
    """The newest event of a task that tells where it is."""
    found = connection.execute(
        "SELECT seq, kind, data, progress FROM events WHERE task = ? AND seq <= ? "
        "AND kind NOT IN ('sent', 'stuck') ORDER BY seq DESC LIMIT 1",
        (key, seq),
    ).fetchone()
    return None if found is None else EventRow(*found)


def _mark_stuck(
    connection: sqlite3.Connection, marks: Sequence[tuple[str, int, StuckData]]
) -> list[str]:
    known = rows.load(connection, [id_ for id_, _, _ in marks])
    marked = []
    for id_, seq, data in marks:
        row = known.get(id_)
        step = None if row is None else rules.stuck(row, seq, data)
        if step is not None:
            rows.save(connection, step.row, step.events)
            marked.append(id_)
    return marked


def _payload(
    connection: sqlite3.Connection, id: str, n: int, side: str, attempt: int | None
) -> StoredPayload | None:
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


def _keep_payloads(
    connection: sqlite3.Connection, key: int, recorded: Iterable[Recorded], count_max: int
) -> None:
    """Store what came along with recorded; the oldest go where there are more than `count_max`."""
    last = None
    for each in recorded:
        for seen in each.seen:
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
