"""kill -9 of a gateway that admits without a pause: what was answered is there."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asya.clock import SystemClock
from asya.tasks.service import TaskService
from asya.tasks.store.base import Query
from asya.tasks.store.sqlite.store import SqliteStore

ADMITS = """
import asyncio, pathlib, sys
from msgspec import Raw
from asya.clock import SystemClock
from asya.tasks.service import TaskService
from asya.tasks.store.sqlite.store import SqliteStore

class Mesh:
    namespace = "default"
    async def publish(self, envelope, *, dedup_id, not_before=None):
        with open(sys.argv[2], "ab", buffering=0) as queue:
            queue.write(envelope.id.encode() + b"\\n")
    async def actors(self): return ["a"]
    async def ready(self, actor): return 0
    def problem(self): return None

async def admit(service, number):
    while True:
        row = (await service.admit(["a"], Raw(b'"' + b"x" * 1000 + b'"'))).row
        sys.stdout.write(row.id + "\\n")
        sys.stdout.flush()

async def main():
    service = TaskService(SqliteStore(pathlib.Path(sys.argv[1])), Mesh(), SystemClock())
    await service.start()
    await asyncio.gather(*(admit(service, number) for number in range(16)))

asyncio.run(main())
"""


class QueueFile:
    """The queue that outlives the gateway; a `dedup_id` that it has is dropped."""

    namespace = "default"

    def __init__(self, path: Any) -> None:
        self.ids = path.read_text().splitlines() if path.exists() else []
        self.fresh: list[str] = []

    async def publish(self, envelope: Any, *, dedup_id: Any, not_before: Any = None) -> None:
        assert dedup_id == f"{envelope.id}:0"
        if envelope.id not in set(self.ids):
            self.fresh.append(envelope.id)

    async def actors(self) -> list[str]:
        return ["a"]

    async def ready(self, actor: Any) -> int:
        return 0

    def cancel(self, ids: Any) -> None:
        raise AssertionError

    async def actor_status(self) -> list[Any]:
        return []

    async def one_status(self, actor: Any) -> None:
        return None

    def flows(self) -> dict[str, Any]:
        return {}

    def problem(self) -> None:
        return None


def kill_after(count: Any, path: Any, queue: Any) -> list[str]:
    """The ids that a process has answered until it was killed, at least `count`."""
    command = [sys.executable, "-c", ADMITS, str(path), str(queue)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        answered = [process.stdout.readline().strip() for _ in range(count)]
        process.send_signal(signal.SIGKILL)
        answered += process.stdout.read().split("\n")[:-1]  # the last one may be cut
    assert process.returncode == -signal.SIGKILL
    return answered


@pytest.mark.parametrize("killed_after", [1, 40, 700])
async def test_every_answered_id_survives_a_kill(tmp_path: Path, killed_after: int) -> None:
    """Given a process that admits, when it is killed, then each id that it answered is in the
    store and in the queue, and after a restart so is each that it stored."""
    path, queue = tmp_path / "tasks.db", tmp_path / "queue"
    answered = kill_after(killed_after, path, queue)

    mesh = QueueFile(queue)
    service = TaskService(SqliteStore(path), mesh, SystemClock())
    await service.start()
    rows = await service.page(Query(limit=1_000_000))
    stored = {row.id for row in rows}
    assert len(answered) >= killed_after
    assert set(answered) <= stored
    assert set(answered) <= set(mesh.ids)
    assert {row.status for row in rows} == {"pending"}
    while await service._store.tasks.outbox():
        await asyncio.sleep(0.05)
    await service.close()
    assert stored <= set(mesh.ids) | set(mesh.fresh)

    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
    connection.close()
