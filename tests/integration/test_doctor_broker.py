"""`asya doctor` on a real NATS server: what it finds there, and that it changes nothing."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from asya.clock import from_rfc3339
from asya.codes import Code
from asya.errors import QueueMissing
from asya.local.broker import NatsServer, left_running
from asya.local.doctor import SetUp, brokers
from asya.local.doctor.checks import Check, Finding, run
from asya.transports.nats.connection import Connection
from asya.transports.nats.transport import NatsTransport

Look = Callable[[], Any]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def look(server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "handlers.py").write_text("def double(payload): return 2 * payload\n")

    async def found() -> list[Finding]:
        setup = SetUp.read(["handlers.py:double"], tmp_path, {}, {"transport_url": server.url})
        checks = [Check("broker", brokers.check_broker)]
        return await asyncio.to_thread(lambda: list(run(checks, setup)))

    return found


@pytest.fixture
async def queues(server: NatsServer) -> AsyncIterator[Callable[..., Any]]:
    """Makes queues, as a mesh would."""
    transport = NatsTransport(server.url, "default")

    async def make(*names: str) -> None:
        await transport.connect()
        await asyncio.gather(*(transport.ensure(f"asya-default-{name}") for name in names))

    yield make
    await transport.close()


async def ask(server: NatsServer, call: str, body: bytes = b"") -> dict[str, Any]:
    connection = Connection(server.url, name="test", connect_timeout_s=5, timeout_s=5)
    await connection.open()
    try:
        return await connection.request(f"$JS.API.{call}", body)
    finally:
        await connection.close()


async def test_an_empty_server_is_well_and_stays_empty(look: Look, server: NatsServer) -> None:
    (found,) = await look()
    assert found.state == "ok"
    assert "nothing of the namespace default yet" in found.text
    assert "@" not in found.text, "the token is for nobody's eyes"
    with pytest.raises(QueueMissing):
        await ask(server, "STREAM.INFO.asya-default")


async def test_all_queues_are_there(look: Look, queues: Any) -> None:
    await queues("double", "x-sink", "x-sump")
    (found,) = await look()
    assert found.state == "ok"
    assert "3 queues, clock " in found.text


async def test_queues_that_are_missing_or_belong_to_nobody_are_named(
    look: Look, queues: Any
) -> None:
    await queues("x-sink", "x-sump", "gone")
    missing, strange, found = await look()
    assert (missing.state, missing.code) == ("warn", Code.QUEUE_MISSING)
    assert "asya-default-double missing" in missing.text
    assert (strange.state, "asya-default-gone belong to no actor" in strange.text) == ("warn", True)
    assert found.state == "ok"


async def test_a_stream_of_somebody_else_is_refused(look: Look, server: NatsServer) -> None:
    stream = {"name": "asya-default", "subjects": ["x"], "retention": "limits"}
    await ask(server, "STREAM.CREATE.asya-default", json.dumps(stream).encode())
    found = (await look())[0]
    assert (found.state, found.code) == ("fail", Code.TRANSPORT)
    assert "not made by Asya" in found.text


async def test_a_stream_that_cannot_delay_is_named(look: Look, server: NatsServer) -> None:
    stream = {"name": "asya-default", "subjects": ["x"], "retention": "workqueue"}
    await ask(server, "STREAM.CREATE.asya-default", json.dumps(stream).encode())
    found = (await look())[0]
    assert (found.state, found.code) == ("fail", Code.BROKER_OUTDATED)


async def test_clocks_that_are_apart(
    look: Look, queues: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await queues("double", "x-sink", "x-sump")
    monkeypatch.setattr(
        "asya.transports.nats.probe.from_rfc3339",
        lambda text: from_rfc3339(text) + timedelta(seconds=9),
    )
    skewed = (await look())[0]
    assert (skewed.state, skewed.code) == ("fail", Code.CLOCK_WRONG)
    assert "its clock is +9.0 s from ours" in skewed.text


async def test_a_server_that_runs_on_a_folder_is_found(server: NatsServer, tmp_path: Path) -> None:
    assert left_running(tmp_path / "nats") == [server.pid]
    assert left_running(tmp_path / "other") == []
