"""Delayed messages as SQL: see `asya.transports.delayed.DelayedMessageStore`.

A table of its own, `shelf`, which knows nothing of tasks.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from asya.tasks.store.sqlite.worker import Worker
from asya.transports.delayed import DelayedMessageStore, ScheduledMessage

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)


class SqliteDelayedMessages(DelayedMessageStore):
    """The delayed messages of a file.

    Args:
        writer: The store's thread that writes.
        reader: The one that reads.
    """

    def __init__(self, writer: Worker, reader: Worker) -> None:
        self._writer = writer
        self._reader = reader

    async def put(self, queue: str, body: bytes, due_at: datetime, dedup_id: str | None) -> bool:
        values = (queue, (due_at - _EPOCH) // _US, dedup_id, body)
        sql = "INSERT OR IGNORE INTO shelf (queue, due_at, dedup_id, body) VALUES (?, ?, ?, ?)"
        return await self._writer.run(lambda store: store.execute(sql, values).rowcount == 1)

    async def due(
        self, until: datetime, limit: int, without: Collection[str] = ()
    ) -> Sequence[ScheduledMessage]:
        def read(store: sqlite3.Connection) -> list[ScheduledMessage]:
            sql = (
                "SELECT key, queue, body, dedup_id FROM shelf "  # noqa: S608  marks only
                f"WHERE due_at <= ? AND {_not_in(without)} ORDER BY due_at, key LIMIT ?"
            )
            found = store.execute(sql, ((until - _EPOCH) // _US, *without, limit))
            return [ScheduledMessage(*row) for row in found]

        return await self._reader.run(read)

    async def next_due(self, without: Collection[str] = ()) -> datetime | None:
        sql = (
            f"SELECT due_at FROM shelf WHERE {_not_in(without)} "  # noqa: S608  marks only
            "ORDER BY due_at LIMIT 1"
        )
        found = await self._reader.run(lambda store: store.execute(sql, (*without,)).fetchone())
        return None if found is None else _EPOCH + found[0] * _US

    async def remove(self, keys: Sequence[int]) -> None:
        rows = [(key,) for key in keys]
        sql = "DELETE FROM shelf WHERE key = ?"
        await self._writer.run(lambda store: store.executemany(sql, rows) and None)

    async def counts(self) -> dict[str, int]:
        sql = "SELECT queue, count(*) FROM shelf GROUP BY queue"
        return await self._reader.run(lambda store: dict(store.execute(sql).fetchall()))

    async def count(self, queue: str) -> int:
        sql = "SELECT count(*) FROM shelf WHERE queue = ?"
        found: tuple[int] = await self._reader.run(
            lambda store: store.execute(sql, (queue,)).fetchone()
        )
        return found[0]

    async def clear(self, queue: str) -> None:
        sql = "DELETE FROM shelf WHERE queue = ?"
        await self._writer.run(lambda store: store.execute(sql, (queue,)) and None)


def _not_in(queues: Collection[str]) -> str:
    return f"queue NOT IN ({', '.join('?' * len(queues))})" if queues else "1"
