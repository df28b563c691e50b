"""The SQLite store: the contract, and what only a file can do wrong."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asya.errors import StoreError, StoreFull
from asya.gateway.http.present import envelope_view, event_text
from asya.tasks.store.base import DeadLetterQuery, Query
from asya.tasks.store.sqlite.migrations import migrations
from asya.tasks.store.sqlite.store import SqliteStore
from asya.tasks.store.sqlite.worker import Worker
from asya.testing.store_contract import (
    StoreContract,
    dead_letter,
    ended,
    finished,
    new_task,
    started,
)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Any]:
    store = SqliteStore(tmp_path / "data" / "tasks.db")
    await store.open()
    yield store
    await store.close()


class TestSqliteStore(StoreContract):
    pass


async def test_a_store_that_is_opened_again_has_everything(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    first = SqliteStore(path)
    await first.open()
    await first.tasks.insert(new_task("t"), b"body")
    await first.events.complete(finished("u"))
    await first.close()

    second = SqliteStore(path)
    await second.open()
    assert [row.id for row in await second.tasks.page(Query())] == ["u", "t"]
    assert len(await second.tasks.outbox()) == 1
    await second.close()


async def test_jobs_that_were_asked_before_the_close_are_done(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "tasks.db")
    await store.open()
    inserts = [asyncio.create_task(store.tasks.insert(new_task(f"t{n}"), b"")) for n in range(50)]
    await asyncio.sleep(0)
    await store.close()
    assert all(insertion.created for insertion in await asyncio.gather(*inserts))
    with pytest.raises(StoreError, match="closed"):
        await store.tasks.get("t0")


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    newest = migrations()[-1][0]
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version={newest + 1}")
    connection.close()
    with pytest.raises(StoreError, match=f"newer version of Asya .schema {newest + 1}"):
        await SqliteStore(path).open()


async def test_letters_of_an_older_schema_get_their_fingerprints(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with sqlite3.connect(path) as connection:
        for number, sql in migrations()[:3]:
            connection.executescript(f"{sql}\nPRAGMA user_version={number};")
        letters = "INSERT INTO dead_letters (id, reason, actor, at, error, body) VALUES "
        error = b'{"type":"ValueError","message":"row 1"}'
        connection.execute(f"{letters} ('old', 'PolicyExhausted', 'a', 'then', ?, x'31')", (error,))
        connection.execute(f"{letters} ('odd', 'ParseError', 'a', 'then', NULL, x'32')")
    connection.close()
    store = SqliteStore(path)
    await store.open()
    await dead_letter(store, "new", message="row 2")
    new, odd, old = await store.dead_letters.page(DeadLetterQuery())
    assert new.fingerprint == old.fingerprint != odd.fingerprint
    assert (old.status, old.changed_at, new.key > odd.key) == ("dead", "then", True)
    kept = await store.dead_letters.get("old")
    assert kept is not None
    assert kept.body == b"1"
    await store.close()


async def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    path.write_bytes(b"this is no database, and long enough to be read as one" * 100)
    with pytest.raises(StoreError, match=r"tasks\.db is damaged .* move the file away"):
        await SqliteStore(path).open()
    assert path.read_bytes().startswith(b"this is no database")


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/data .* cannot be made .* --data"):
        await SqliteStore(tmp_path / "file" / "data" / "tasks.db").open()


def test_a_folder_without_write_permission_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    tmp_path.chmod(0o755)
    program = (
        "import asyncio, os, pathlib, sys\n"
        "from asya.errors import StoreError\n"
        "from asya.tasks.store.sqlite.store import SqliteStore\n"
        "if os.getuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: asyncio.run(SqliteStore(pathlib.Path(sys.argv[1])).open())\n"
        "except StoreError as error: print(error)\n"
    )
    linked = Path("/tmp") / f"asya-locked-{os.getpid()}"
    if os.getuid() == 0:  # the folders above tmp_path may be closed to others
        linked.mkdir(mode=0o755)
        folder = linked
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, str(folder / "tasks.db")],
            capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
    finally:
        if linked.exists():
            linked.rmdir()
    assert "cannot be written" in done.stdout
    assert "--data" in done.stdout


async def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    """Given no more room, when a task is inserted, then it is refused; what was there stays."""
    path = tmp_path / "tasks.db"
    store = SqliteStore(path, pages_max=60)
    await store.open()
    kept = []
    with pytest.raises(StoreFull, match="full; make room"):  # noqa: PT012  until it is full
        for number in range(1000):
            await store.tasks.insert(new_task(f"t{number}"), b"x" * 5000)
            kept.append(f"t{number}")
    assert kept
    assert [row.id for row in reversed(await store.tasks.page(Query(limit=1000)))] == kept
    await store.close()

    roomy = SqliteStore(path)
    await roomy.open()
    assert (await roomy.tasks.insert(new_task("after"), b"x" * 5000)).created
    assert len(await roomy.tasks.page(Query(limit=1000))) == len(kept) + 1
    await roomy.close()


async def test_one_bad_job_does_not_harm_its_neighbours(tmp_path: Path) -> None:
    """Given jobs of one transaction, when one fails, then only that one does."""
    path = tmp_path / "jobs.db"

    def connect() -> Any:
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("CREATE TABLE IF NOT EXISTS numbers (n INTEGER PRIMARY KEY)")
        return connection

    def add(number: int) -> Any:
        return lambda connection: connection.execute("INSERT INTO numbers VALUES (?)", (number,))

    worker = Worker("test-writer", str(path), connect, writes=True)
    await worker.start()
    outcomes = await asyncio.gather(
        *(worker.run(add(number)) for number in (1, 2, 1, 3)), return_exceptions=True
    )
    numbers = await worker.run(lambda c: [n for (n,) in c.execute("SELECT n FROM numbers")])
    await worker.close()
    assert [isinstance(outcome, StoreError) for outcome in outcomes] == [False, False, True, False]
    assert numbers == [1, 2, 3]


async def test_a_caller_that_gives_up_does_not_undo_its_job(store: SqliteStore) -> None:
    insert = asyncio.create_task(store.tasks.insert(new_task("t"), b""))
    await asyncio.sleep(0)
    insert.cancel()
    await asyncio.gather(insert, return_exceptions=True)
    await store.events.record([started("t")])
    detail = await store.tasks.get("t")
    assert detail is not None
    assert detail.row.digest == b"digest"
    assert detail is not None
    assert detail.row.status == "running"


DATA = Path(__file__).parent / "data"


async def test_a_data_folder_of_an_older_version_shows_the_same(tmp_path: Path) -> None:
    """Given a database with schema 5, then each task and its stream look as they did then.

    `schema_5.sql` is the dump of a database that the version before schema 6 wrote;
    `schema_5_views.json` is what that version showed of it.
    """
    path = tmp_path / "tasks.db"
    with sqlite3.connect(path) as connection:
        connection.executescript((DATA / "schema_5.sql").read_text())
    connection.close()
    store = SqliteStore(path)
    await store.open()
    for id_, expected in json.loads((DATA / "schema_5_views.json").read_bytes()).items():
        detail = await store.tasks.get(id_)
        assert detail is not None
        assert json.loads(msgspec.json.encode(envelope_view(detail))) == expected["view"]
        stream = [event_text(id_, event)[0].decode() for event in detail.events]
        assert stream == expected["stream"]
    await store.events.record([ended("runs", 1)])
    detail = await store.tasks.get("runs")
    assert detail is not None
    hops = envelope_view(detail).hops
    assert isinstance(hops, list)
    assert [hop.state for hop in hops] == ["succeeded", "succeeded"], (
        "old and new rows fold together"
    )
    await store.close()
