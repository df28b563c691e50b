"""One thread that owns one SQLite connection, and a queue of jobs for it.

A writer takes all jobs that wait, runs them in one transaction and answers them all after the
commit (group commit): under load the cost of a commit is shared, and an idle store answers at
once. When a transaction fails its jobs run again one by one, so that only the bad one fails;
jobs must therefore be functions of the connection alone. Used by `sqlite` only.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

from asya.errors import StoreError, StoreFull

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], Any]

WAITING_MAX: Final = 10_000
"""Jobs that may wait; one more is refused rather than kept in memory."""

BATCH_MAX: Final = 256
"""Jobs of one transaction: a commit stays in the range of milliseconds."""


class _Job:
    __slots__ = ("failed", "future", "operation", "outcome")

    def __init__(self, operation: Operation, future: asyncio.Future[Any]) -> None:
        self.operation = operation
        self.future = future
        self.outcome: Any = None
        self.failed: BaseException | None = None


class Worker:
    """Runs jobs on a connection of its own, in their order.

    Args:
        name: For the thread.
        place: The database's path, for the texts of errors.
        connect: Makes the connection, in the thread.
        writes: Whether jobs are grouped into transactions.
    """

    def __init__(
        self, name: str, place: str, connect: Callable[[], sqlite3.Connection], *, writes: bool
    ) -> None:
        self._place = place
        self._connect = connect
        self._writes = writes
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._waiting = 0
        self._closed = True
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    async def start(self) -> None:
        """Start the thread and connect.

        Raises:
            StoreError: The database cannot be opened.
        """
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._ended = asyncio.Event()
        self._closed = False
        self._thread.start()
        try:
            await self._opened
        except sqlite3.Error as error:
            self._closed = True
            raise store_error(error, self._place) from error

    async def run(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run a job and return what it returned, after the commit where it writes.

        Raises:
            StoreError: The database could not do it, or too many jobs wait.
        """
        if self._closed:
            raise StoreError(f"the task store {self._place} is closed")
        if self._waiting >= WAITING_MAX:
            raise StoreError(f"{WAITING_MAX} jobs wait for the task store {self._place} already")
        job = _Job(operation, self._loop.create_future())
        self._waiting += 1
        self._jobs.put(job)
        try:
            outcome: T = await job.future
        except sqlite3.Error as error:
            raise store_error(error, self._place) from error
        return outcome

    async def close(self) -> None:
        """Run what waits, close the connection, end the thread."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        await self._ended.wait()
        self._thread.join()

    def _work(self) -> None:
        try:
            connection = self._connect()
        except BaseException as error:
            self._tell(self._opened.set_exception, error)
            return
        self._tell(self._opened.set_result, None)
        open_ = True
        while open_:
            batch = self._next_batch()
            if batch[-1] is None:
                open_ = False
            jobs = [job for job in batch if job is not None]
            if jobs:
                self._perform(connection, jobs)
                self._tell(self._settle, jobs)
        with contextlib.suppress(sqlite3.Error):  # all commits are made; this only tidies up
            connection.close()
        self._tell(self._ended.set)

    def _next_batch(self) -> list[_Job | None]:
        batch = [self._jobs.get()]
        while batch[-1] is not None and len(batch) < BATCH_MAX:
            try:
                batch.append(self._jobs.get_nowait())
            except Empty:
                break
        return batch

    def _perform(self, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
        if not self._writes:
            for job in jobs:
                _attempt(connection, [job])
            return
        if not _commit(connection, jobs) and len(jobs) > 1:
            for job in jobs:
                _commit(connection, [job])

    def _settle(self, jobs: list[_Job]) -> None:
        self._waiting -= len(jobs)
        for job in jobs:
            if job.future.done():
                continue
            if job.failed is None:
                job.future.set_result(job.outcome)
            else:
                job.future.set_exception(job.failed)

    def _tell(self, callback: Callable[..., object], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(callback, *args)


def _attempt(connection: sqlite3.Connection, jobs: list[_Job]) -> bool:
    for job in jobs:
        job.failed = None
        try:
            job.outcome = job.operation(connection)
        except BaseException as error:
            job.failed = error
            return False
    return True


def _commit(connection: sqlite3.Connection, jobs: list[_Job]) -> bool:
    try:
        connection.execute("BEGIN IMMEDIATE")
        done = _attempt(connection, jobs)
        if done:
            connection.execute("COMMIT")
            return True
    except sqlite3.Error as error:  # the transaction as a whole: locked, or full at the commit
        for job in jobs:
            job.failed = error
    with contextlib.suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return False


def store_error(error: sqlite3.Error, place: str) -> StoreError:
    """The error of this package for an error of the driver."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StoreFull(f"the disk of the task store {place} is full; make room")
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return StoreError(
            f"the task store {place} is damaged ({error}); move the file away to start with an "
            "empty one, or put a backup in its place"
        )
    if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}:
        return StoreError(
            f"the task store {place} cannot be written ({error}); check the permissions of the "
            "file and its folder, or give another folder with --data"
        )
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreError(f"the task store {place} is held by another process ({error})")
    return StoreError(f"the task store {place}: {error}")
