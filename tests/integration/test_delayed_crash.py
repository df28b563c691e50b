"""kill -9 of who sends delayed messages, before the store removes what was confirmed: none is lost."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from asya.local.broker import NatsServer
from asya.tasks.store.sqlite.store import SqliteStore
from asya.testing.transport_contract import Mailbox
from asya.transports.delayed import BATCH
from asya.transports.nats.transport import NatsTransport

COUNT = 200

SENDS = """
import asyncio, dataclasses, os, pathlib, sys
from asya.crashpoints import arm_from
from asya.tasks.store.sqlite.store import SqliteStore
from asya.transports.delayed import DelayingTransport
from asya.transports.nats.transport import NatsTransport

async def main():
    store = SqliteStore(pathlib.Path(sys.argv[1]))
    await store.open()
    inner = NatsTransport(sys.argv[2], "crash")
    inner.capabilities = dataclasses.replace(inner.capabilities, delay_max_s=0)
    await inner.connect()
    if len(sys.argv) > 3:
        arm_from(sys.argv[3])
    await DelayingTransport(inner, store.delayed).start()
    while await store.delayed.counts():
        await asyncio.sleep(0.02)

asyncio.run(main())
"""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    await server.start()
    yield server
    await server.stop()


async def sender(*arguments: object) -> int:
    """Run a process that sends what is due; gives its exit code."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SENDS, *map(str, arguments), env={**os.environ}
    )
    return await asyncio.wait_for(process.wait(), 60)


@pytest.mark.parametrize("with_ids", [True, False], ids=["ids", "no-ids"])
async def test_every_message_arrives_however_often_the_sender_dies(
    tmp_path: Path, server: NatsServer, with_ids: bool
) -> None:
    transport = NatsTransport(server.url, "crash")
    await transport.connect()
    await transport.ensure("asya-crash-a")
    store = SqliteStore(tmp_path / "tasks.db")
    await store.open()
    now = datetime.now(UTC)
    for number in range(COUNT):
        due_at = now + timedelta(milliseconds=number)
        dedup_id = str(number) if with_ids else None
        await store.delayed.put("asya-crash-a", str(number).encode(), due_at, dedup_id)
    await store.close()

    deaths = 0
    while await sender(tmp_path / "tasks.db", server.url, f"before-unshelve:{deaths + 1}") != 0:
        deaths += 1

    box = Mailbox(ack=True)
    await transport.consume("asya-crash-a", box, window=100)
    await box.wait_for_bodies({str(number).encode() for number in range(COUNT)})
    await transport.close()
    assert deaths >= 2
    often = Counter(box.bodies).values()
    assert max(often) == 1 if with_ids else max(often) <= deaths + 1
    assert sum(often) <= COUNT + deaths * BATCH
