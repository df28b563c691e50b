"""What only NATS can get wrong: requests, layout, orphans; on a real server, by real faults."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.support.proxy import Proxy

from asya.errors import QueueMissing, TransportError, TransportUnavailable
from asya.local.broker import NatsServer
from asya.testing.transport_contract import PATIENCE_S, QUIET_S, Mailbox, publish_soon
from asya.transports.nats.consumer import PullConsumer
from asya.transports.nats.transport import NatsTransport

QUEUE = "asya-kit-first"
LEASE_S = 30.0
"""What comes well before its end has not come by its end."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def transport(server: NatsServer) -> AsyncIterator[NatsTransport]:
    transport = await connected(server)
    yield transport
    await transport.close()


@pytest.fixture
async def impatient(server: NatsServer) -> AsyncIterator[NatsTransport]:
    """One that takes a server for gone after a second, busy as the machine may be."""
    transport = await connected(server, publish_timeout_s=1.0)
    yield transport
    await transport.close()


async def connected(
    server: NatsServer, lease_s: float = LEASE_S, publish_timeout_s: float = 20.0
) -> NatsTransport:
    transport = NatsTransport(
        server.url, "kit", lease_s=lease_s, publish_timeout_s=publish_timeout_s
    )
    await transport.connect()
    return transport


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "asya.transports.nats" and record.levelno >= logging.WARNING
    ]


async def quiet() -> None:
    """Give what is wrongly on its way the time to come."""
    await asyncio.sleep(QUIET_S)


async def kill(server: NatsServer) -> None:
    gone = asyncio.Event()
    server.on_exit = lambda code: gone.set()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    await gone.wait()


async def freeze(server: NatsServer) -> None:
    """Stop the server where it stands; returns when all of its threads do."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    process = psutil.Process(server.pid)
    async with asyncio.timeout(30):
        while any(
            psutil.Process(thread.id).status() != psutil.STATUS_STOPPED
            for thread in process.threads()
        ):
            await asyncio.sleep(0.005)


async def test_orphans_of_many_queues_come_back_at_once(server: NatsServer) -> None:
    # given a client that is killed while it holds messages of 25 queues, with a long lease
    killed = await connected(server)
    queues = [f"asya-kit-{number:02}" for number in range(25)]
    box = Mailbox()
    for queue in queues:
        await killed.ensure(queue)
        for body in (b"held", b"held too", b"waiting"):
            await killed.publish(queue, body)
        await killed.consume(queue, box, window=2)
    await box.wait_for(50)
    killed.abort()
    # when the next one recovers them all, and one that was empty
    transport = await connected(server)
    await transport.ensure("asya-kit-empty")
    found = await asyncio.gather(
        *(transport.recover_orphans(q) for q in [*queues, "asya-kit-empty"])
    )
    # then they come at once, counted, and later deliveries have their long lease
    assert found == [2] * 25 + [0]
    again = Mailbox()
    for queue in queues:
        await transport.consume(queue, again, window=3)
    deliveries = await again.wait_for(75, timeout_s=LEASE_S / 2)
    assert sorted(d.delivery_count for d in deliveries) == [1] * 25 + [2] * 50
    await asyncio.sleep(0.5)
    assert len(again.deliveries) == 75
    await transport.close()


async def test_a_loss_and_a_return_of_the_server_are_one_line_each(
    server: NatsServer, impatient: NatsTransport, caplog: pytest.LogCaptureFixture
) -> None:
    await impatient.ensure(QUEUE)
    box = Mailbox(ack=True)
    await impatient.consume(QUEUE, box)
    await kill(server)
    with pytest.raises(TransportUnavailable):
        await impatient.publish(QUEUE, b"1", dedup_id="1")
    await server.start()
    await publish_soon(impatient, b"2", "2")
    await box.wait_for_bodies({b"2"})
    lost, back = warnings(caplog)
    assert lost.startswith(f"lost the connection to NATS at 127.0.0.1:{server.port}")
    assert back.startswith(f"connected to NATS at 127.0.0.1:{server.port} again")
    assert server.url.split("//")[1].split("@")[0] not in caplog.text


async def test_a_loss_with_unsent_bytes_leaves_nothing_behind(
    server: NatsServer,
    transport: NatsTransport,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await transport.ensure(QUEUE)
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box)
    await quiet()
    before, files = len(asyncio.all_tasks()), psutil.Process().num_fds()

    async def reset() -> None:
        raise ConnectionResetError("reset by a test")

    for number in range(3):
        # given bytes that the client cannot write any more, over which its own close fails
        client = transport._connection._client
        monkeypatch.setattr(client._transport, "drain", reset)
        client._pending.append(b"PING\r\n")
        client._pending_data_size += 6
        await kill(server)
        await server.start()
        await publish_soon(transport, b"%d" % number)
        await box.wait_for(number + 1)
    del client
    await quiet()
    gc.collect()
    # then no task, no socket and no traceback of the lost connections stays
    assert len(asyncio.all_tasks()) <= before
    assert psutil.Process().num_fds() <= files
    assert "Traceback" not in caplog.text
    assert "never retrieved" not in caplog.text


async def test_what_is_held_over_a_restart_can_be_settled(
    server: NatsServer, transport: NatsTransport
) -> None:
    await transport.ensure(QUEUE)
    for body in (b"done", b"again"):
        await transport.publish(QUEUE, body)
    box = Mailbox()
    await transport.consume(QUEUE, box, window=2)
    done, again = await box.wait_for(2)
    await asyncio.sleep(0.5)  # so that the server has written down that they are held
    await kill(server)
    await server.start()
    assert done.held
    done.ack()
    again.requeue()
    await publish_soon(transport, b"new")
    await box.wait_for_bodies({b"new"})
    for delivery in box.deliveries:
        delivery.ack()
    await quiet()
    assert box.bodies.count(b"done") == 1
    assert box.bodies.count(b"again") == 2


async def test_a_frozen_server_is_an_outage(server: NatsServer, impatient: NatsTransport) -> None:
    await impatient.ensure(QUEUE)
    box = Mailbox(ack=True)
    await impatient.consume(QUEUE, box)
    assert server.pid is not None
    await freeze(server)
    try:
        async with asyncio.timeout(20):
            with pytest.raises(TransportUnavailable, match="did not answer within 1 s"):
                await impatient.publish(QUEUE, b"1", dedup_id="1")
    finally:
        os.kill(server.pid, signal.SIGCONT)
    await publish_soon(impatient, b"1", "1")
    await publish_soon(impatient, b"2", "2")
    await box.wait_for_bodies({b"1", b"2"})
    assert sorted(box.bodies) == [b"1", b"2"]


async def test_a_silent_network_hands_a_message_to_nobody_only_a_few_times(
    server: NatsServer, transport: NatsTransport
) -> None:
    # given a consumer with a short lease, and a network that forwards nothing any more
    network = Proxy(server.port)
    await network.start()
    try:
        through = server.url.replace(f":{server.port}", f":{network.port}")
        cut_off = NatsTransport(through, "kit", lease_s=1.0)
        await cut_off.connect()
        await cut_off.ensure(QUEUE)
        box = Mailbox(ack=True)
        await cut_off.consume(QUEUE, box, window=20)
        await asking(transport, lambda count: count > 0)
        network.stall()
        # when a message comes, which the server sends to the requests that stand, lease after lease
        await transport.publish(QUEUE, b"1")
        about = await asking(transport, lambda count: count == 0)
        # then the requests have ended long before that counts like a handler that kills its process
        assert 1 <= about["delivered"]["consumer_seq"] <= 3
        network.resume()
        await box.wait_for(1, timeout_s=60)
        await cut_off.close()
    finally:
        await network.close()


async def asking(transport: NatsTransport, enough: Callable[[int], bool]) -> dict[str, Any]:
    """What the server knows of the consumer, once it holds so many requests of it."""
    async with asyncio.timeout(60):
        while True:
            about = await transport._api(f"CONSUMER.INFO.asya-kit.{QUEUE}")
            if enough(about["num_waiting"]):
                return about
            await asyncio.sleep(0.05)


async def test_closing_never_hangs(server: NatsServer) -> None:
    frozen, alone = await connected(server), await connected(server)
    for transport in (frozen, alone):
        await transport.ensure(QUEUE)
        await transport.consume(QUEUE, Mailbox())
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    async with asyncio.timeout(30):
        await frozen.close()
        os.kill(server.pid, signal.SIGKILL)
        await alone.close()


async def test_a_queue_deleted_under_its_consumer_is_made_again_and_told_once(
    server: NatsServer, transport: NatsTransport, caplog: pytest.LogCaptureFixture
) -> None:
    await transport.ensure(QUEUE)
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box, window=5)
    another = await connected(server)
    await another.delete(QUEUE)
    async with asyncio.timeout(30):
        while QUEUE not in await another.queues():
            await asyncio.sleep(0.02)
    await another.ensure(QUEUE)
    await another.publish(QUEUE, b"found")
    await box.wait_for(1)
    assert [line for line in warnings(caplog) if "recreated it" in line] == warnings(caplog)
    assert len(warnings(caplog)) == 1
    await another.close()


async def test_a_stream_deleted_under_its_consumers_is_made_again(
    server: NatsServer, transport: NatsTransport
) -> None:
    await transport.ensure(QUEUE)
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box)
    await quiet()
    await transport._api("STREAM.DELETE.asya-kit")
    async with asyncio.timeout(20):
        while not box.deliveries:
            try:
                await transport.publish(QUEUE, b"back", dedup_id="back")
            except TransportError:
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.1)


async def test_deleting_stops_the_own_consumers(transport: NatsTransport) -> None:
    await transport.ensure(QUEUE)
    await transport.consume(QUEUE, Mailbox())
    await transport.delete(QUEUE)
    await asyncio.sleep(0.5)
    assert await transport.queues() == []
    with pytest.raises(QueueMissing):
        await transport.publish(QUEUE, b"nobody")


async def test_lost_requests_are_noticed_by_the_silence(
    transport: NatsTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asya.transports.nats.pulls.SILENCE_S", 0.5)
    await transport.ensure(QUEUE)
    box = Mailbox(ack=True)
    consumer = await transport.consume(QUEUE, box)
    await quiet()
    # given a consumer whose request the server does not know
    assert isinstance(consumer, PullConsumer)
    await transport._connection.unsubscribe(consumer._subscription)
    await transport.publish(QUEUE, b"found")
    # then it asks again
    await box.wait_for(1)


async def test_a_window_that_shrinks_under_load_blames_no_message(
    transport: NatsTransport,
) -> None:
    # given messages on their way while the window falls from 200 to 1, again and again
    await transport.ensure(QUEUE)
    await asyncio.gather(*(transport.publish(QUEUE, b"%d" % number) for number in range(3000)))
    box = Mailbox(ack=True)
    consumer = await transport.consume(QUEUE, box, window=200)
    window = 200
    async with asyncio.timeout(20):
        while len(box.deliveries) < 3000:
            window = 201 - window
            consumer.set_window(window)
            await asyncio.sleep(0.003)
    # then none of them counts as delivered twice
    await quiet()
    assert {delivery.delivery_count for delivery in box.deliveries} == {1}
    assert len(set(box.bodies)) == len(box.bodies) == 3000


async def test_a_surplus_without_a_place_goes_to_others(
    server: NatsServer, transport: NatsTransport
) -> None:
    # given a window that shrank while messages were on their way, and a receiver that is stuck
    await transport.ensure(QUEUE)
    stuck, other = Mailbox(), Mailbox(ack=True)
    consumer = await transport.consume(QUEUE, stuck, window=50)
    await quiet()
    publishing = [
        asyncio.create_task(transport.publish(QUEUE, b"%d" % number)) for number in range(50)
    ]
    await stuck.wait_for(1)
    consumer.set_window(0)
    await asyncio.gather(*publishing)
    # then everything that it was not shown is with another soon, long before the lease ends
    another = await connected(server)
    await another.consume(QUEUE, other, window=50)
    await other.wait_for(50 - len(stuck.deliveries), timeout_s=LEASE_S / 2)
    await another.close()


async def test_more_queues_than_one_page_are_listed(
    server: NatsServer, transport: NatsTransport
) -> None:
    names = [f"asya-kit-{number:04}" for number in range(1100)]
    for begin in range(0, len(names), 100):
        await asyncio.gather(*(transport.ensure(name) for name in names[begin : begin + 100]))
    assert await transport.queues() == names
    # a server takes 10 ms for each of them to stop
    await kill(server)


async def test_many_delayed_messages_are_counted(transport: NatsTransport) -> None:
    await transport.ensure(QUEUE)
    await transport.ensure("asya-kit-second")
    later = datetime.now(UTC) + timedelta(hours=1)
    await asyncio.gather(
        *(transport.publish(QUEUE, b"x", dedup_id=f"{n}", not_before=later) for n in range(1500))
    )
    assert (await transport.depth(QUEUE)).delayed == 1500
    assert (await transport.depth("asya-kit-second")).delayed == 0


async def test_an_older_stream_is_brought_up_to_date(
    server: NatsServer, transport: NatsTransport
) -> None:
    subjects = ["asya-old.q.*"]
    old = {"name": "asya-old", "subjects": subjects, "retention": "workqueue", "max_msgs": 12345}
    await transport._api("STREAM.CREATE.asya-old", old)
    newer = NatsTransport(server.url, "old")
    await newer.connect()
    config = (await newer._api("STREAM.INFO.asya-old"))["config"]
    assert config["allow_msg_schedules"]
    assert config["max_msgs"] == 12345
    await newer.close()


async def test_names_that_would_be_patterns_are_refused(transport: NatsTransport) -> None:
    for name in ("a.b", "*", ">", "", "a b"):
        with pytest.raises(TransportError, match="NATS allows no"):
            await transport.ensure(name)
    with pytest.raises(TransportError, match="cannot be used with NATS"):
        NatsTransport("nats://127.0.0.1", "a.*")


async def test_nobody_at_the_address_is_told_without_the_password() -> None:
    transport = NatsTransport("nats://user:secret@127.0.0.1:1", "kit", connect_timeout_s=2)
    async with asyncio.timeout(20):
        with pytest.raises(TransportUnavailable, match=r"127\.0\.0\.1:1") as caught:
            await transport.connect()
    assert "secret" not in str(caught.value)


async def test_a_queue_deleted_and_made_in_the_same_moment_can_be_made_again(
    server: NatsServer,
) -> None:
    # given a server that loses the folder of a consumer now and then, when both happen at once
    one, other = await connected(server), await connected(server)
    for number in range(30):
        queue = f"{QUEUE}-{number}"
        await one.ensure(queue)
        await one.publish(queue, b"before")
        await asyncio.gather(one.delete(queue), other.ensure(queue))
        # when it is made once more
        await one.ensure(queue)
        # then it takes and gives messages, and keeps them over a restart (below)
        await one.publish(queue, b"after")
    await asyncio.gather(one.close(), other.close())
    await kill(server)
    await server.start()
    back = await connected(server)
    for number in range(30):
        box = Mailbox(ack=True)
        await back.ensure(f"{QUEUE}-{number}")
        await back.consume(f"{QUEUE}-{number}", box)
        await box.wait_for_bodies({b"after"})
    await back.close()


async def test_a_close_in_the_middle_of_connecting_again_ends(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a client that loses a cancellation, as `wait_for` of Python 3.11 does when what it
    # waits for fails in the same moment
    transport = await connected(server)
    trying = asyncio.Event()

    async def connect(*args: Any, **kwargs: Any) -> None:
        trying.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionRefusedError from None

    monkeypatch.setattr("nats.aio.client.Client.connect", connect)
    await kill(server)
    await trying.wait()
    # when, then
    async with asyncio.timeout(PATIENCE_S):
        await transport.close()
