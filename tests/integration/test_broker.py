"""The embedded NATS server: real processes, real signals, a real full disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from asya.errors import TransportUnavailable, UsageError, how_to_install
from asya.local.broker import NatsServer, find_binary
from asya.testing.transport_contract import Mailbox
from asya.transports.base import Delivery
from asya.transports.nats.transport import NatsTransport

QUEUE = "asya-it-one"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    await server.start()
    yield server
    # an open client would try to reconnect for ever, also while the loop is closed
    while OPENED:
        await OPENED.pop().close()
    await server.stop()


OPENED: list[NatsTransport] = []
"""Clients of the running test."""


async def connect(server: NatsServer, timeout_s: float = 10.0) -> NatsTransport:
    transport = NatsTransport(server.url, "it", lease_s=2.0, publish_timeout_s=timeout_s)
    OPENED.append(transport)
    await transport.connect()
    return transport


async def drain(transport: NatsTransport, queue: str) -> list[bytes]:
    """All messages of a queue, acked."""
    box = Mailbox(ack=True)
    consumer = await transport.consume(queue, box, window=200)
    async with asyncio.timeout(30):
        while (depth := await transport.depth(queue)).ready + depth.in_flight:
            await asyncio.sleep(0.05)
    await consumer.close()
    return box.bodies


async def test_it_is_ready_soon_and_stops_for_good(server: NatsServer) -> None:
    pid = server.pid
    assert pid is not None
    assert os.getpgid(pid) == pid
    async with asyncio.timeout(20):
        await server.restart()
    await server.start()
    assert server.running
    await server.stop()
    await server.stop()
    assert not server.running
    assert not psutil.pid_exists(pid)
    assert server.disk_problem() is None


async def test_the_port_and_the_token_are_kept_over_runs(server: NatsServer) -> None:
    url = server.url
    await server.stop()
    again = NatsServer(server.log_path.parent)
    await again.start()
    try:
        assert again.url == url
    finally:
        await again.stop()


async def test_a_remembered_port_that_is_taken_is_replaced(server: NatsServer) -> None:
    port = server.port
    await server.stop()
    squatter = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)
    try:
        await server.start()
        assert server.port != port
        assert await (await connect(server)).queues() == []
    finally:
        squatter.close()


async def test_a_fixed_port_that_is_taken_is_told(server: NatsServer, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"port {server.port} on 127.0.0.1 is in use"):
        await NatsServer(tmp_path / "other", port=server.port).start()


async def test_nobody_connects_without_the_token(server: NatsServer) -> None:
    stranger = NatsTransport(f"nats://127.0.0.1:{server.port}", "it", connect_timeout_s=1.0)
    with pytest.raises(TransportUnavailable, match=f"127.0.0.1:{server.port}"):
        await stranger.connect()
    assert (server.log_path.parent / "nats.conf").stat().st_mode & 0o077 == 0
    assert (server.log_path.parent / "nats.json").stat().st_mode & 0o077 == 0


async def test_an_exit_is_told_with_its_code(server: NatsServer) -> None:
    codes: asyncio.Queue[int] = asyncio.Queue()
    server.on_exit = codes.put_nowait
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    assert await asyncio.wait_for(codes.get(), 30) == -signal.SIGKILL
    await server.start()
    await server.stop()
    assert codes.empty()


async def test_a_leftover_of_a_killed_supervisor_is_ended_and_its_messages_kept(
    tmp_path: Path,
) -> None:
    # given a supervisor that was killed, with its server running on
    folder = tmp_path / "nats"
    code = (
        "import asyncio, os, pathlib, signal, sys\n"
        "from asya.local.broker import NatsServer\n"
        "async def main():\n"
        "    await NatsServer(pathlib.Path(sys.argv[1])).start()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", code, str(folder)]
    killed = await asyncio.to_thread(subprocess.run, command, check=False, timeout=20)
    assert killed.returncode == -signal.SIGKILL
    record = json.loads((folder / "nats.json").read_text())
    leftover = psutil.Process(record["pid"])
    url = f"nats://{record['token']}@127.0.0.1:{record['port']}"
    transport = NatsTransport(url, "it")
    await transport.connect()
    await transport.ensure(QUEUE)
    await transport.publish(QUEUE, b"kept")
    # when the next one starts, and even when the note of the process is lost
    (folder / "nats.json").unlink()
    server = NatsServer(folder)
    await server.start()
    try:
        # then there is one server, with the messages
        assert not leftover.is_running() or leftover.status() == psutil.STATUS_ZOMBIE
        another = await connect(server)
        assert await drain(another, QUEUE) == [b"kept"]
        await another.close()
    finally:
        await transport.close()
        await server.stop()


async def test_a_stranger_with_the_noted_process_id_is_left_alone(server: NatsServer) -> None:
    await server.stop()
    stranger = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        state = server.log_path.parent / "nats.json"
        record = json.loads(state.read_text())
        record["pid"] = stranger.pid
        record["created"] = psutil.Process(stranger.pid).create_time()
        state.write_text(json.dumps(record))
        await server.start()
        assert stranger.returncode is None
        assert psutil.Process(stranger.pid).is_running()
    finally:
        stranger.kill()
        await stranger.wait()


async def test_a_missing_program_is_told_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(UsageError, match=re.escape(how_to_install("local"))):
        find_binary()
    with pytest.raises(UsageError, match="no/such"):
        find_binary("/no/such/nats-server")


async def test_a_program_that_fails_is_told_with_its_log(tmp_path: Path) -> None:
    program = tmp_path / "broken"
    program.write_text("#!/bin/sh\necho 'the store is from the future' >&2\nexit 3\n")
    program.chmod(0o755)
    server = NatsServer(tmp_path / "nats", binary=program)
    with pytest.raises(TransportUnavailable, match=r"return code 3[\s\S]*from the future"):
        await server.start()
    assert not server.running


async def test_a_large_log_is_put_aside(server: NatsServer) -> None:
    await server.stop()
    with server.log_path.open("ab") as log:
        log.truncate(5 * 1024 * 1024)
    await server.restart()
    assert server.log_path.stat().st_size < 1024 * 1024


async def test_kill_9_under_load_loses_nothing(server: NatsServer) -> None:
    """Publishers and a consumer at work, the server killed three times."""
    transport = await connect(server, timeout_s=2.0)
    await transport.ensure(QUEUE)
    await transport.ensure("asya-it-two")
    restarts: set[asyncio.Task[None]] = set()
    accepted: set[str] = set()
    forwarding: set[asyncio.Task[None]] = set()
    running = True

    def start_again(_: int) -> None:
        restarts.add(asyncio.create_task(server.start()))

    server.on_exit = start_again

    async def publish(worker: int) -> None:
        number = 0
        while running:
            number += 1
            name = f"{worker}-{number}"
            while True:
                try:
                    await transport.publish(QUEUE, name.encode(), dedup_id=name)
                    break
                except TransportUnavailable:
                    await asyncio.sleep(0.02)
            accepted.add(name)

    async def forward(delivery: Delivery) -> None:
        try:
            dedup_id = f"two-{delivery.body.decode()}"
            await transport.publish("asya-it-two", delivery.body, dedup_id=dedup_id)
        except TransportUnavailable:
            delivery.requeue()
        else:
            delivery.ack()

    def on_delivery(delivery: Delivery) -> None:
        task = asyncio.create_task(forward(delivery))
        forwarding.add(task)
        task.add_done_callback(forwarding.discard)

    await transport.consume(QUEUE, on_delivery, window=50)
    workers = [asyncio.create_task(publish(worker)) for worker in range(10)]
    for _ in range(3):
        await asyncio.sleep(0.5)
        before = len(accepted)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            while not server.running or len(accepted) < before + 100:
                await asyncio.sleep(0.01)
    running = False
    await asyncio.gather(*workers)
    async with asyncio.timeout(60):
        while (depth := await transport.depth(QUEUE)).ready + depth.in_flight:
            await asyncio.sleep(0.05)
    server.on_exit = None
    arrived = [body.decode() for body in await drain(transport, "asya-it-two")]
    assert accepted <= set(arrived)
    await transport.close()
    await asyncio.gather(*restarts)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("making a small disk needs root and mount")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = [mount, "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True, timeout=10)
    if mounted.returncode != 0:
        pytest.skip(f"no small disk here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=10)


async def test_a_full_disk_is_told_and_loses_nothing_that_was_accepted(small_disk: Path) -> None:
    # given a broker whose disk gets full
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * 4 * 2**20)
    server = NatsServer(small_disk / "nats", reserve_bytes=2**20)
    await server.start()
    transport = await connect(server, timeout_s=3.0)
    try:
        await transport.ensure(QUEUE)
        assert server.disk_problem() is None
        accepted: set[bytes] = set()

        async def fill() -> None:
            for number in range(1000):
                body = f"{number:06}".encode() + b"x" * 60_000
                await transport.publish(QUEUE, body, dedup_id=str(number))
                accepted.add(body)

        with pytest.raises(TransportUnavailable):
            await fill()
        assert len(accepted) > 20
        # then it says so, with what to do
        assert "free some space" in (server.disk_problem() or "")
        # and with room again it says that it needs a restart
        ballast.unlink()
        assert "restarted" in (server.disk_problem() or "")
        # when it gets that, everything that was accepted is there
        await server.restart()
        assert server.disk_problem() is None
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(TransportUnavailable):
                    await transport.publish(QUEUE, b"after", dedup_id="after")
                    break
                await asyncio.sleep(0.05)
        assert {*accepted, b"after"} <= set(await drain(transport, QUEUE))
    finally:
        await transport.close()
        await server.stop()


async def test_a_start_on_a_full_disk_is_told(small_disk: Path) -> None:
    server = NatsServer(small_disk / "nats")
    (small_disk / "nats").mkdir()
    with contextlib.suppress(OSError), (small_disk / "ballast").open("wb") as ballast:
        while True:
            ballast.write(b"\0" * 4096)
            ballast.flush()
    with pytest.raises(TransportUnavailable, match="full disk"):
        await server.start()
    assert not server.running
