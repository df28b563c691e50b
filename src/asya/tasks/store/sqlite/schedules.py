"""What is known of schedules, as SQL: see `ScheduleStore`."""

from __future__ import annotations

import sqlite3

import msgspec

from asya.tasks.store.base import ScheduleRow, ScheduleStore
from asya.tasks.store.sqlite.worker import Worker


class SqliteSchedules(ScheduleStore):
    """The schedules of a file.

    Args:
        writer: The store's thread that writes.
        reader: The one that reads.
    """

    def __init__(self, writer: Worker, reader: Worker) -> None:
        self._writer = writer
        self._reader = reader

    async def all(self) -> list[ScheduleRow]:
        return await self._reader.run(_all)

    async def save(self, row: ScheduleRow) -> None:
        values = msgspec.structs.astuple(row)
        sql = "INSERT OR REPLACE INTO schedules VALUES (?, ?, ?, ?, ?, ?)"
        await self._writer.run(lambda connection: connection.execute(sql, values) and None)


def _all(connection: sqlite3.Connection) -> list[ScheduleRow]:
    found = connection.execute(
        "SELECT name, seen_at, last_at, last_id, last_error, suspended FROM schedules"
    )
    rows: list[tuple[str, str, str | None, str | None, str | None, int | None]] = found.fetchall()
    return [ScheduleRow(*row[:5], None if row[5] is None else bool(row[5])) for row in rows]
