"""kill -9 of a gateway that admits by key without a pause: a key is one task, before and after."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from asya.clock import SystemClock
from asya.tasks.idempotency import IdempotencyKey
from asya.tasks.mesh import Idempotency
from asya.tasks.service import TaskService
from asya.tasks.store.sqlite.store import SqliteStore

ADMITS = """
import asyncio, pathlib, sys
from msgspec import Raw
from asya.clock import SystemClock
from asya.tasks.idempotency import IdempotencyKey
from asya.tasks.mesh import Idempotency
from asya.tasks.service import TaskService
from asya.tasks.store.sqlite.store import SqliteStore

class Mesh:
    namespace = "default"
    async def publish(self, envelope, *, dedup_id, not_before=None): pass
    async def actors(self): return ["a"]
    async def ready(self, actor): return 0
    def problem(self): return None

async def admit(service, number):
    key = IdempotencyKey("route:a", f"k{number}", Idempotency())
    row = (await service.admit(["a"], Raw(b"1"), key=key)).row
    sys.stdout.write(f"{number} {row.id}\\n")
    sys.stdout.flush()

async def main():
    service = TaskService(SqliteStore(pathlib.Path(sys.argv[1])), Mesh(), SystemClock())
    await service.start()
    for number in range(1_000_000):
        await asyncio.gather(*(admit(service, number) for _ in range(8)))

asyncio.run(main())
"""


class NoQueue:
    """A mesh whose broker takes everything."""

    namespace = "default"

    async def publish(self, envelope: Any, *, dedup_id: Any, not_before: Any = None) -> None:
        """Take it."""

    async def actors(self) -> list[str]:
        return ["a"]

    async def ready(self, actor: Any) -> int:
        return 0

    def problem(self) -> None:
        return None


def answers_until_killed(count: Any, path: Any) -> list[tuple[str, str]]:
    """Number of the key and id of each answer, at least `count`."""
    command = [sys.executable, "-c", ADMITS, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(count)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.read().split("\n")[:-1]  # the last one may be cut
    assert process.returncode == -signal.SIGKILL
    return [(number, id_) for number, _, id_ in (line.partition(" ") for line in lines)]


@pytest.mark.parametrize("killed_after", [3, 150])
async def test_a_key_is_one_task_over_a_kill(tmp_path: Path, killed_after: int) -> None:
    """Given eight requests at a time with one key, when the gateway is killed among them, then
    each key has one task, the one that was answered, and a new gateway answers with it."""
    path = tmp_path / "tasks.db"
    answered = answers_until_killed(killed_after, path)
    assert len(answered) >= killed_after
    by_key = dict(answered)
    assert len(set(answered)) == len(by_key)

    with sqlite3.connect(path) as connection:
        (tasks,) = connection.execute("SELECT count(*) FROM tasks").fetchone()
        (keys,) = connection.execute("SELECT count(*) FROM admission_keys").fetchone()
    connection.close()
    assert tasks == keys >= len(by_key)

    mesh = NoQueue()
    service = TaskService(SqliteStore(path), mesh, SystemClock())  # type: ignore[arg-type]
    await service.start()
    for number, id_ in by_key.items():
        key = IdempotencyKey("route:a", f"k{number}", Idempotency())
        again = await service.admit(["a"], Raw(b"1"), key=key)
        assert (again.row.id, again.replayed) == (id_, True)
    await service.close()
