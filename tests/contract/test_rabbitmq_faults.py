"""What only RabbitMQ can get wrong, on a real server, by real faults; each is told in two lines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psutil
import pytest
from tests.support.proxy import Proxy
from tests.support.rabbitmq import RabbitServer

from asya.addresses import parse_address
from asya.errors import QueueMissing, TransportError, TransportUnavailable
from asya.testing.transport_contract import Mailbox
from asya.transports.base import Delivery
from asya.transports.rabbitmq.transport import SETTLE_S, RabbitTransport

PREFIX = "asya-faults"
QUEUE = f"{PREFIX}-first"
PERMISSIONS = ("^asya-.*", r"^(asya-.*|amq\.default)$", "^asya-.*")
"""What a mesh needs: to configure, to write, to read; as the how-to says."""
LONG_S = 60.0
"""For what must happen, however loaded the machine is."""


class Mesh:
    """Makes transports, and closes them."""

    def __init__(self, server: RabbitServer) -> None:
        self.server = server
        self.transports: list[RabbitTransport] = []

    async def connect(
        self,
        url: str = "",
        *,
        publish_timeout_s: float = 5.0,
        connect_timeout_s: float = 5.0,
        settle_s: float = 0.0,
    ) -> RabbitTransport:
        transport = RabbitTransport(
            parse_address(url or self.server.url()),
            "faults",
            publish_timeout_s=publish_timeout_s,
            connect_timeout_s=connect_timeout_s,
            settle_s=settle_s,
        )
        await transport.connect()
        self.transports.append(transport)
        return transport


@pytest.fixture
async def mesh(rabbit: RabbitServer) -> AsyncIterator[Mesh]:
    mesh = Mesh(rabbit)
    yield mesh
    await asyncio.gather(*(transport.close() for transport in mesh.transports))
    last = await mesh.connect()
    for queue in await last.queues():
        await last.delete(queue)
    await last.close()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "asya.transports.rabbitmq" and record.levelno >= logging.WARNING
    ]


async def until(condition: partial[bool], timeout_s: float = LONG_S) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


async def refused(transport: RabbitTransport, text: str) -> None:
    """Publish until the transport is in trouble for the reason."""
    async with asyncio.timeout(LONG_S):
        while text not in (transport.trouble or ""):
            with contextlib.suppress(TransportUnavailable):
                await transport.publish(QUEUE, b"probe")
            await asyncio.sleep(0.02)


class Load:
    """Publishes numbers for ever, each until it is confirmed; several at a time."""

    def __init__(self, transport: RabbitTransport, *, width: int = 20, queue: str = QUEUE) -> None:
        self.transport = transport
        self.queue = queue
        self.confirmed: list[bytes] = []
        self.failures: list[TransportError] = []
        self._next = 0
        self._going = True
        self._tasks = [asyncio.create_task(self._work()) for _ in range(width)]

    async def _work(self) -> None:
        while self._going:
            self._next += 1
            body = str(self._next).encode()
            while True:
                try:
                    await self.transport.publish(self.queue, body)
                except TransportError as error:
                    self.failures.append(error)
                    await asyncio.sleep(0.05)
                else:
                    self.confirmed.append(body)
                    break

    async def reach(self, count: int) -> None:
        """Wait for so many more confirms."""
        goal = len(self.confirmed) + count
        await until(partial(lambda: len(self.confirmed) >= goal))

    async def stop(self) -> set[bytes]:
        """End, and say what was confirmed."""
        self._going = False
        await asyncio.wait_for(asyncio.gather(*self._tasks), LONG_S)
        return set(self.confirmed)


async def assert_all_came(
    box: Mailbox, confirmed: set[bytes], transport: RabbitTransport, queue: str = QUEUE
) -> None:
    await box.wait_for_bodies(confirmed, timeout_s=LONG_S)
    async with asyncio.timeout(LONG_S):
        while (await transport.depth(queue)).ready:
            await asyncio.sleep(0.05)
    assert set(box.bodies) == confirmed


@pytest.mark.slow
async def test_a_kill_under_load_and_a_restart_lose_nothing(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    # given a queue that has just been made, messages on all ways, and some that wait
    transport = await mesh.connect(settle_s=SETTLE_S)
    await transport.ensure(QUEUE)
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box, window=50)
    load = Load(transport)
    await load.reach(200)
    due = datetime.now(UTC) + timedelta(seconds=3)
    late = {f"late {number}".encode() for number in range(50)}
    await asyncio.gather(*(transport.publish(QUEUE, one, not_before=due) for one in late))
    # when the broker is killed, and comes back after 5 s
    await asyncio.to_thread(mesh.server.kill)
    await asyncio.sleep(5)
    assert transport.trouble is not None
    await asyncio.to_thread(mesh.server.start)
    await load.reach(200)
    # then all that was confirmed comes, in two lines
    await assert_all_came(box, await load.stop() | late, transport)
    assert transport.trouble is None
    lost, back = warnings(caplog)
    assert lost.startswith(f"lost the connection to RabbitMQ at 127.0.0.1:{mesh.server.port}")
    assert back.startswith(f"connected to RabbitMQ at 127.0.0.1:{mesh.server.port} again after")
    assert mesh.server.password not in caplog.text


async def test_a_queue_deleted_under_its_consumer_is_made_again(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    # given an operator who deletes a queue for which a message waits
    transport = await mesh.connect()
    await transport.ensure(QUEUE)
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box, window=5)
    due = datetime.now(UTC) + timedelta(seconds=3)
    await transport.publish(QUEUE, b"delayed", not_before=due)
    channel = await transport._connection.channel()
    await channel.call("queue_delete", QUEUE)
    # then it is there again, with all that leads to it
    await until(partial(lambda: bool(warnings(caplog))))
    await transport.publish(QUEUE, b"back")
    await box.wait_for_bodies({b"back", b"delayed"}, LONG_S)
    assert warnings(caplog) == [f"queue {QUEUE} was deleted while being consumed; recreated it"]


@pytest.mark.slow
async def test_revoked_credentials_are_told_and_then_over(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    ctl = mesh.server.ctl
    await asyncio.to_thread(ctl, "add_user", "worker", "first-word")
    await asyncio.to_thread(ctl, "set_permissions", "worker", *PERMISSIONS)
    transport = await mesh.connect(mesh.server.url(user="worker", password="first-word"))
    await transport.ensure(QUEUE)
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box, window=50)
    load = Load(transport, width=3)
    await load.reach(20)
    # when the password is changed and all are thrown out
    await asyncio.to_thread(ctl, "change_password", "worker", "second-word")
    await asyncio.to_thread(ctl, "close_all_connections", "the password was changed")
    await until(partial(lambda: "worker" in (transport.trouble or "")))
    with pytest.raises(TransportUnavailable, match="does not let the user worker in"):
        await transport.publish(QUEUE, b"no")
    await asyncio.to_thread(ctl, "change_password", "worker", "first-word")
    await load.reach(20)
    await assert_all_came(box, await load.stop(), transport)
    lost, back = warnings(caplog)
    assert "does not let the user worker in" in lost
    assert back.startswith("connected to RabbitMQ")
    assert "word" not in caplog.text.replace("password", "")
    # and a stranger is told at once
    with pytest.raises(TransportError, match="does not let the user worker in") as refused:
        await mesh.connect(mesh.server.url(user="worker", password="third-secret"))
    assert "third-secret" not in str(refused.value)
    await transport.close()
    await asyncio.to_thread(ctl, "delete_user", "worker")


@pytest.mark.slow
async def test_revoked_permissions_are_told_and_then_over(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    ctl = mesh.server.ctl
    await asyncio.to_thread(ctl, "add_user", "reader", "a-word")
    await asyncio.to_thread(ctl, "set_permissions", "reader", *PERMISSIONS)
    transport = await mesh.connect(mesh.server.url(user="reader", password="a-word"))
    await transport.ensure(QUEUE)
    await transport.publish(QUEUE, b"before")
    # when nothing may be written any more
    await asyncio.to_thread(ctl, "set_permissions", "reader", ".*", "", ".*")
    # a channel remembers what it was allowed to do
    await asyncio.to_thread(ctl, "close_all_connections", "the permissions were changed")
    await refused(transport, "ACCESS_REFUSED")
    with pytest.raises(TransportUnavailable, match="ACCESS_REFUSED"):
        await transport.publish(QUEUE, b"during")
    assert "ACCESS_REFUSED" in (transport.trouble or "")
    await asyncio.to_thread(ctl, "set_permissions", "reader", *PERMISSIONS)
    load = Load(transport, width=1)
    await load.reach(1)
    await load.stop()
    begun, over = warnings(caplog)[2:]
    assert "ACCESS_REFUSED" in begun
    assert over.endswith("accepts messages again")
    await transport.close()
    await asyncio.to_thread(ctl, "delete_user", "reader")


@pytest.mark.slow
async def test_a_full_disk_stops_publishing_only(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    transport = await mesh.connect(publish_timeout_s=2.0)
    await transport.ensure(QUEUE)
    waiting = {f"w{number}".encode() for number in range(50)}
    await asyncio.gather(*(transport.publish(QUEUE, one) for one in waiting))
    free = str(10**15)
    await asyncio.to_thread(mesh.server.ctl, "set_disk_free_limit", free)
    try:
        # then a publish ends in bounded time and says why
        await refused(transport, "accepts no messages")
        with pytest.raises(TransportUnavailable, match="accepts no messages"):
            await transport.publish(QUEUE, b"probe")
        assert "disk" in (transport.trouble or "")
        # and what is there can be taken and acked
        box = Mailbox(ack=True)
        await transport.consume(QUEUE, box, window=5)
        await box.wait_for_bodies(waiting, LONG_S)
        async with asyncio.timeout(LONG_S):
            while not (findings := (await with_management(mesh).inspect([QUEUE])).findings):
                await asyncio.sleep(0.2)
        assert findings[0].fatal
        assert "disk space" in findings[0].text
    finally:
        await asyncio.to_thread(mesh.server.ctl, "set_disk_free_limit", "50MB")
    await until(partial(lambda: transport.trouble is None))
    await transport.publish(QUEUE, b"after")
    await box.wait_for_bodies({b"after"}, LONG_S)
    begun, over = warnings(caplog)
    assert "accepts no messages" in begun
    assert over.endswith("accepts messages again")


@pytest.mark.slow
async def test_networks_that_break_lose_nothing(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    """All at a time, since a silent one takes seconds to be noticed."""
    await asyncio.gather(
        *(break_network(mesh, caplog, fault) for fault in ("stall", "cut", "half_open"))
    )


async def break_network(mesh: Mesh, caplog: pytest.LogCaptureFixture, fault: str) -> None:
    proxy = Proxy(mesh.server.port)
    await proxy.start()
    url = mesh.server.url(port=proxy.port, query="heartbeat=1s")
    transport = await mesh.connect(url, publish_timeout_s=1.0, connect_timeout_s=2.0)
    queue = f"{PREFIX}-{fault.replace('_', '-')}"
    await transport.ensure(queue)
    box = Mailbox(ack=True)
    await transport.consume(queue, box, window=20)
    load = Load(transport, queue=queue)
    await load.reach(100)

    def lines() -> list[str]:
        return [line for line in warnings(caplog) if f":{proxy.port} " in line]

    # when the network breaks, until that is noticed
    getattr(proxy, fault)()
    await until(partial(lambda: bool(lines())))
    proxy.resume()
    proxy.mend()
    await load.reach(100)
    # then all that was confirmed comes, in two lines, however long it took
    await assert_all_came(box, await load.stop(), transport, queue)
    lost, back = lines()
    assert lost.startswith("lost the connection to RabbitMQ at 127.0.0.1")
    assert back.startswith("connected to RabbitMQ at 127.0.0.1")
    await transport.close()
    await proxy.close()


@pytest.mark.slow
async def test_a_hundred_thousand_waiting_messages_cost_the_client_no_memory(mesh: Mesh) -> None:
    transport = await mesh.connect(publish_timeout_s=LONG_S)
    await transport.ensure(QUEUE)
    total, width = 100_000, asyncio.Semaphore(1000)

    async def publish(first: int) -> None:
        async with width:
            for number in range(first, first + 100):
                await transport.publish(QUEUE, b"%d" % number)

    before = psutil.Process().memory_info().rss
    await asyncio.gather(*(publish(first) for first in range(0, total, 100)))
    assert (await transport.depth(QUEUE)).ready == total
    held = Mailbox()
    consumer = await transport.consume(QUEUE, held, window=100)
    await held.wait_for(100, LONG_S)
    assert psutil.Process().memory_info().rss - before < 100 * 2**20
    # and each comes once
    seen: Counter[bytes] = Counter(held.bodies)
    for delivery in held.deliveries:
        delivery.ack()
    await consumer.close()

    def take(delivery: Delivery) -> None:
        seen[delivery.body] += 1
        delivery.ack()

    await transport.consume(QUEUE, take, window=500)
    await until(partial(lambda: len(seen) >= total), LONG_S)
    assert (await transport.depth(QUEUE)).ready == 0


async def test_a_slow_consumer_holds_its_window_and_nothing_else(mesh: Mesh) -> None:
    transport, another = await mesh.connect(), await mesh.connect()
    await transport.ensure(QUEUE)
    slow, fast = Mailbox(), Mailbox(ack=True)
    consumer = await transport.consume(QUEUE, slow, window=5)
    await another.consume(QUEUE, fast, window=20)
    bodies = {str(number).encode() for number in range(500)}
    await asyncio.gather(*(transport.publish(QUEUE, body) for body in bodies))
    await fast.wait_for(495, LONG_S)
    assert len(slow.deliveries) == 5
    await consumer.close()
    for delivery in slow.deliveries:
        delivery.ack()
    assert set(slow.bodies) | set(fast.bodies) == bodies
    assert {one.delivery_count for one in slow.deliveries + fast.deliveries} == {1}


async def test_a_window_that_changes_blames_no_message(mesh: Mesh) -> None:
    # given messages on their way while the window goes up and down
    transport = await mesh.connect()
    await transport.ensure(QUEUE)
    await asyncio.gather(*(transport.publish(QUEUE, b"%d" % number) for number in range(3000)))
    box = Mailbox(ack=True)
    consumer = await transport.consume(QUEUE, box, window=200)
    window = 200
    async with asyncio.timeout(LONG_S):
        while len(box.deliveries) < 3000:
            window = 201 - window
            consumer.set_window(window)
            await asyncio.sleep(0.003)
    # then all came once; on a machine that stands still for a moment, what the broker was sending
    # to a subscription that ended may count as given out once before, but never again and again
    assert len(set(box.bodies)) == len(box.bodies) == 3000
    counts = Counter(delivery.delivery_count for delivery in box.deliveries)
    assert set(counts) <= {1, 2}
    assert counts[2] <= 200, counts


async def test_windows_that_grow_one_by_one_reach_the_whole(mesh: Mesh) -> None:
    # given handlers that never end, and a window that grows while all places are taken
    transport = await mesh.connect()
    await transport.ensure(QUEUE)
    for number in range(40):
        await transport.publish(QUEUE, b"%d" % number)
    box = Mailbox()
    consumer = await transport.consume(QUEUE, box, window=1)
    for window in range(2, 21):
        consumer.set_window(window)
        await box.wait_for(window, LONG_S)
    # then one place that comes free is one message more, however the window was put together
    for count in range(20):
        box.deliveries[count].ack()
        await box.wait_for(21 + count, LONG_S)
    assert len(set(box.bodies)) == 40


async def test_acks_given_all_at_once_reach_the_broker_before_the_end(mesh: Mesh) -> None:
    transport, another = await mesh.connect(), await mesh.connect()
    await transport.ensure(QUEUE)
    await asyncio.gather(*(transport.publish(QUEUE, b"%d" % number) for number in range(500)))
    box = Mailbox()
    consumer = await transport.consume(QUEUE, box, window=500)
    await box.wait_for(500, LONG_S)
    for delivery in reversed(box.deliveries):
        delivery.ack()
    await consumer.close()
    await transport.close()
    assert (await another.depth(QUEUE)).ready == 0


async def test_a_deleted_actor_blocks_no_delay(mesh: Mesh) -> None:
    transport = await mesh.connect()
    other = f"{PREFIX}-other"
    await transport.ensure(QUEUE)
    await transport.ensure(other)
    due = datetime.now(UTC) + timedelta(seconds=1)
    await asyncio.gather(
        *(transport.publish(other, b"%d" % number, not_before=due) for number in range(60))
    )
    await transport.delete(other)
    with pytest.raises(QueueMissing, match=other):
        await transport.publish(other, b"nobody", not_before=due)
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box, window=10)
    later = datetime.now(UTC) + timedelta(seconds=1.5)
    await transport.publish(QUEUE, b"flows", not_before=later)
    await box.wait_for_bodies({b"flows"}, LONG_S)
    assert (await transport.inspect([QUEUE])).findings == ()


async def test_what_is_due_without_a_queue_is_kept_and_told(mesh: Mesh) -> None:
    # given a queue that somebody deletes behind our back, and nobody who would make it again
    transport = await mesh.connect()
    await transport.ensure(QUEUE)
    due = datetime.now(UTC) + timedelta(seconds=0.5)
    await transport.publish(QUEUE, b"stranded", not_before=due)
    channel = await transport._connection.channel()
    await channel.call("queue_delete", QUEUE)
    async with asyncio.timeout(LONG_S):
        while not (findings := (await transport.inspect([QUEUE])).findings):
            await asyncio.sleep(0.1)
    assert "1 messages in asya-faults.undeliverable were due" in findings[0].text
    await channel.call("queue_purge", "asya-faults.undeliverable")


async def test_deliveries_without_end_lead_to_the_dead_letters(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asya.transports.rabbitmq.queues.DELIVERIES_MAX", 20)
    transport = await mesh.connect()
    sump, box = f"{PREFIX}-x-sump", Mailbox(ack=True)
    await transport.ensure(sump)
    await transport.ensure(QUEUE)
    await transport.publish(QUEUE, b"poison")
    counts: list[int] = []

    def refuse(delivery: Delivery) -> None:
        counts.append(delivery.delivery_count)
        delivery.requeue()

    await transport.consume(QUEUE, refuse)
    await transport.consume(sump, box)
    await box.wait_for_bodies({b"poison"}, LONG_S)
    assert counts == list(range(1, 22))


async def test_a_queue_of_another_kind_is_told_and_left_alone(mesh: Mesh) -> None:
    transport = await mesh.connect()
    channel, strange = await transport._connection.channel(), f"{PREFIX}-strange"
    await channel.call("queue_declare", strange, durable=True, arguments={"x-max-priority": 5})
    try:
        with pytest.raises(TransportError, match=r"inequivalent arg.*Nothing was changed"):
            await transport.ensure(strange)
        inspection = await transport.inspect([strange, f"{PREFIX}-missing"])
        (finding,) = inspection.findings
        assert finding.fatal
        assert finding.queue == strange
        assert "inequivalent arg" in finding.text
        assert inspection.broker.startswith("RabbitMQ 3")
        assert (await transport.depth(strange)).ready == 0
    finally:
        await channel.call("queue_delete", strange)


async def test_missing_parts_are_told_and_made_again(mesh: Mesh) -> None:
    transport = await mesh.connect()
    await transport.ensure(QUEUE)
    channel = await transport._connection.channel()
    for gone in ("asya-faults.later", "asya-faults.delay-3"):
        await channel.call("exchange_delete", gone)
    found = {finding.text.split()[0] for finding in (await transport.inspect([QUEUE])).findings}
    assert found == {"asya-faults.later", "asya-faults.delay-3"}
    # and a publish that needs them makes them, after a refusal or two
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box)
    async with asyncio.timeout(LONG_S):
        while not box.deliveries:
            with contextlib.suppress(TransportError):
                due = datetime.now(UTC) + timedelta(seconds=0.3)
                await transport.publish(QUEUE, b"found", not_before=due)
            await asyncio.sleep(0.2)
    assert (await transport.inspect([QUEUE])).findings == ()


def with_management(mesh: Mesh) -> RabbitTransport:
    url = mesh.server.url(query=f"management={mesh.server.management}")
    transport = RabbitTransport(parse_address(url), "faults")
    mesh.transports.append(transport)
    return transport


async def test_the_management_plugin_tells_what_is_in_flight(mesh: Mesh) -> None:
    transport = with_management(mesh)
    await transport.connect()
    assert transport.capabilities.counts_in_flight
    await transport.ensure(QUEUE)
    for number in range(5):
        await transport.publish(QUEUE, b"%d" % number)
    box = Mailbox()
    await transport.consume(QUEUE, box, window=2)
    await box.wait_for(2)
    async with asyncio.timeout(LONG_S):
        while (depth := await transport.depth(QUEUE)).in_flight != 2:
            await asyncio.sleep(0.2)
    assert depth.ready == 3
    # and which bindings are missing
    channel = await transport._connection.channel()
    generation = min(transport._registry.generations[QUEUE])
    key = f"{QUEUE}.{generation}.#"
    await channel.call("queue_unbind", QUEUE, "asya-faults.in", key)
    async with asyncio.timeout(LONG_S):
        while not (findings := (await transport.inspect([QUEUE])).findings):
            await asyncio.sleep(0.2)
    assert "1 bindings are missing, such as asya-faults.in" in findings[0].text
    await transport.ensure(QUEUE)
    assert (await transport.inspect([QUEUE])).findings == ()


async def test_two_who_make_and_delete_a_queue_agree(mesh: Mesh) -> None:
    first, second = await mesh.connect(), await mesh.connect()
    due = timedelta(seconds=0.3)
    await asyncio.gather(first.ensure(QUEUE), second.ensure(QUEUE))
    box = Mailbox(ack=True)
    for maker, user in ((first, second), (second, first)):
        # given one who deletes the queue and makes it anew, then the other can delay to it
        await maker.delete(QUEUE)
        await maker.ensure(QUEUE)
        await user.publish(
            QUEUE, b"1" if maker is first else b"2", not_before=datetime.now(UTC) + due
        )
    await first.consume(QUEUE, box)
    await box.wait_for(1, LONG_S)
    await asyncio.sleep(0.5)
    assert box.bodies == [b"2"]


async def test_names_that_would_be_patterns_are_refused(mesh: Mesh) -> None:
    transport = await mesh.connect()
    for name in ("a.b", "a*", "#", "", "a b", "x" * 240):
        with pytest.raises(TransportError, match="no name for a queue"):
            await transport.ensure(name)
    with pytest.raises(TransportError, match="no name"):
        RabbitTransport(parse_address(mesh.server.url()), "a.b")


async def test_nobody_at_the_address_is_told_without_the_password() -> None:
    address = parse_address("amqp://user:secret@127.0.0.1:1/")
    transport = RabbitTransport(address, "faults")
    with pytest.raises(TransportUnavailable, match=r"127.0.0.1:1 .*is it running") as told:
        await transport.connect()
    assert "secret" not in str(told.value) + repr(transport)
    with pytest.raises(TransportUnavailable):
        await transport.publish(QUEUE, b"x")


async def test_tls_needs_a_certificate_that_is_trusted(mesh: Mesh, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    made = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", key),
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await made.wait() == 0
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    proxy = Proxy(mesh.server.port, tls=context)
    await proxy.start()
    plain = mesh.server.url(port=proxy.port).replace("amqp://", "amqps://")
    with pytest.raises(TransportUnavailable, match="certificate verify failed"):
        await mesh.connect(plain)
    transport = await mesh.connect(f"{plain}?cafile={certificate}")
    await transport.ensure(QUEUE)
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box, window=10)
    bodies = {b"x" * size for size in (1, 70_000, 200_000)}
    await asyncio.gather(*(transport.publish(QUEUE, body) for body in bodies))
    await box.wait_for_bodies(bodies, LONG_S)
    await transport.close()
    await proxy.close()


async def test_a_delay_that_the_ladder_cannot_keep_is_refused(mesh: Mesh) -> None:
    transport = await mesh.connect()
    await transport.ensure(QUEUE)
    longest = transport.capabilities.delay_max_s
    assert longest is not None
    due = datetime.now(UTC) + timedelta(seconds=longest + 60)
    with pytest.raises(TransportError, match="at most 32767"):
        await transport.publish(QUEUE, b"x", not_before=due)
