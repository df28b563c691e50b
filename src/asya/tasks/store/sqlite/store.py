"""The task store in one SQLite file: the default, on a laptop and for one gateway.

Written by one thread with group commit and read by another (`worker`). Write-ahead log with
`synchronous=NORMAL`: a commit is in the operating system's hands when it returns, so the death of
any process loses nothing; a power cut may undo the last commits, and the file stays whole. A
full sync per commit would cost milliseconds each, and the embedded broker gives the same promise.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from asya.errors import StoreError
from asya.tasks.store.base import Store
from asya.tasks.store.sqlite.dead_letters import SqliteDeadLetters
from asya.tasks.store.sqlite.delayed import SqliteDelayedMessages
from asya.tasks.store.sqlite.events import SqliteEvents
from asya.tasks.store.sqlite.migrations import migrate
from asya.tasks.store.sqlite.schedules import SqliteSchedules
from asya.tasks.store.sqlite.tasks import SqliteTasks
from asya.tasks.store.sqlite.worker import Worker

BUSY_TIMEOUT_MS: Final = 5_000
"""How long to wait for another process that writes to the file, such as a backup."""


class SqliteStore(Store):
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
        self._pages_max = pages_max
        self._writer = Worker("asya-store-writer", str(path), self._connect, writes=True)
        self._reader = Worker("asya-store-reader", str(path), self._connect_reader, writes=False)
        self.tasks = SqliteTasks(self._writer, self._reader)
        self.events = SqliteEvents(self._writer, self._reader, payloads_max)
        self.dead_letters = SqliteDeadLetters(self._writer, self._reader)
        self.schedules = SqliteSchedules(self._writer, self._reader)
        self.delayed = SqliteDelayedMessages(self._writer, self._reader)

    async def open(self) -> None:
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
