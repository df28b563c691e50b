"""What only Pub/Sub can get wrong: silent losses, orphans, refusals; by real faults.

On Google's emulator where it is installed and can show the fault, and on the stand-in of ours for
kills (the emulator forgets everything) and refusals (it knows no permissions).
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.proxy import HOST, Proxy
from tests.support.pubsub import PubSubEmulator, PubSubFake, free_port

from asya.addresses import parse_address
from asya.errors import QueueMissing, TransportError, TransportUnavailable
from asya.testing.transport_contract import Mailbox, publish_soon
from asya.transports.pubsub import connection as pubsub_link
from asya.transports.pubsub.transport import PubSubTransport

QUEUE = "asya-kit-first"
SUMP = "asya-kit-x-sump"
SERVERS = ["stand-in", *([] if PubSubEmulator.missing() else ["emulator"])]

Open = Callable[..., Awaitable[PubSubTransport]]


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PubSubFake]:
    if (why := PubSubFake.missing()) is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    with PubSubFake(tmp_path_factory.mktemp("pubsub") / "messages.db") as server:
        yield server


@pytest.fixture(scope="module")
def emulator() -> Iterator[PubSubEmulator]:
    with PubSubEmulator() as server:
        yield server


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("fake" if request.param == "stand-in" else "emulator")


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Connects transports to one project of the test's own, and ends them."""
    transports: list[PubSubTransport] = []
    project = f"kit-{uuid.uuid4().hex}"

    async def connect(endpoint: str, namespace: str = "kit", **more: Any) -> PubSubTransport:
        settings: dict[str, Any] = {"lease_s": 30.0, "publish_timeout_s": 2.0, "pull_s": 0.25}
        address = parse_address(f"pubsub://{project}?endpoint={endpoint}")
        transport = PubSubTransport(address, namespace, **(settings | more))
        transports.append(transport)
        await transport.connect()
        return transport

    yield connect
    await asyncio.gather(*(transport.close() for transport in transports))


@pytest.fixture
async def proxy(fake: PubSubFake) -> AsyncIterator[Proxy]:
    proxy = Proxy(fake.port)
    await proxy.start()
    yield proxy
    await proxy.close()


async def ask(transport: PubSubTransport, call: str, resource: str, /, **fields: Any) -> Any:
    """A call of somebody else who may do anything."""
    request = transport._connection.request(call, **fields)
    return await transport._connection.call(call, request, resource)


async def delete_topic(transport: PubSubTransport, queue: str) -> None:
    topic = transport._layout.topic(queue)
    await ask(transport, "DeleteTopic", topic, topic=topic)


async def delete_subscription(transport: PubSubTransport, queue: str) -> None:
    name = transport._layout.subscription(queue)
    await ask(transport, "DeleteSubscription", name, subscription=name)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "asya.transports.pubsub" and record.levelno >= logging.WARNING
    ]


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


# -- outages ---------------------------------------------------------------------------------------


async def test_a_kill_of_the_server_under_load_loses_nothing(
    fake: PubSubFake, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    transport = await opened(fake.endpoint)
    await transport.ensure(QUEUE)
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box, window=20)
    bodies = {b"%d" % number for number in range(400)}

    async def publish(some: list[bytes]) -> None:
        for body in some:
            await publish_soon(transport, body)

    # given five publishers and a consumer in the middle of their work
    ordered = sorted(bodies)
    publishing = [asyncio.create_task(publish(ordered[begin::5])) for begin in range(5)]
    await box.wait_for(100)
    # when the server is killed, and started again some seconds later
    fake.kill()
    await asyncio.sleep(3)
    await asyncio.to_thread(fake.start)
    # then everything that was accepted comes, and the log says in two lines what happened
    await asyncio.gather(*publishing)
    await box.wait_for_bodies(bodies, timeout_s=60)
    lost, back = warnings(caplog)
    assert lost.startswith("lost the connection to Pub/Sub in kit-")
    assert f" at {fake.endpoint} (" in lost
    assert f" at {fake.endpoint} again after " in back


@pytest.mark.parametrize("harm", ["cut", "stall"])
async def test_an_outage_is_one_line_and_its_end_another(
    proxy: Proxy, opened: Open, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    transport = await opened(f"{HOST}:{proxy.port}")
    await transport.ensure(QUEUE)
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box, window=5)
    await transport.publish(QUEUE, b"before")
    await box.wait_for(1)
    # when the network refuses, or goes silent with all of its connections open
    (proxy.cut if harm == "cut" else proxy.stall)()
    with pytest.raises(TransportUnavailable):
        await transport.publish(QUEUE, b"lost")
    await until(lambda: transport.trouble)
    with pytest.raises(TransportUnavailable):
        await transport.depth(QUEUE)
    proxy.resume()
    proxy.mend()
    # then it comes back by itself, and the consumer goes on
    await publish_soon(transport, b"after")
    await box.wait_for_bodies({b"after"}, timeout_s=30)
    assert transport.trouble is None
    lost, back = warnings(caplog)
    assert lost.startswith("lost the connection to Pub/Sub in kit-")
    assert back.startswith("connected to Pub/Sub in kit-")


async def test_a_connection_that_only_we_believe_in_is_noticed(
    proxy: Proxy,
    fake: PubSubFake,
    opened: Open,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pubsub_link, "SILENCE_S", 1.0)
    monkeypatch.setattr(pubsub_link, "TICK_S", 0.2)
    transport, another = await opened(f"{HOST}:{proxy.port}"), await opened(fake.endpoint)
    await transport.ensure(QUEUE)
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box)
    proxy.half_open()
    # then a consumer, which only waits, finds out by itself
    await another.publish(QUEUE, b"after")
    await box.wait_for(1, timeout_s=30)
    assert len(warnings(caplog)) == 2


async def test_refused_credentials_are_told_once_and_their_end_once(
    fake: PubSubFake, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    transport = await opened(fake.endpoint)
    queues = [QUEUE, "asya-kit-second"]
    box = Mailbox(ack=True)
    for queue in queues:
        await transport.ensure(queue)
        await transport.consume(queue, box)
    for number, status in enumerate(("PERMISSION_DENIED", "UNAUTHENTICATED"), 1):
        caplog.clear()
        try:
            await fake.deny(status)
            with pytest.raises(TransportUnavailable, match=status.lower().replace("_", " ")):
                await transport.publish(QUEUE, b"x")
            await until(lambda: transport.trouble)
            assert "refuses" in str(transport.trouble)
        finally:
            await fake.allow()
        for queue in queues:
            await transport.publish(queue, b"%d" % number)
        await box.wait_for(2 * number)
        await until(lambda: transport.trouble is None)
        refused, accepted = warnings(caplog)
        assert "refuses (" in refused
        assert "accepts again after" in accepted


async def test_a_frozen_server_is_an_outage(server: Any, opened: Open) -> None:
    transport = await opened(server.endpoint)
    await transport.ensure(QUEUE)
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box)
    server.pause()
    try:
        with pytest.raises(TransportUnavailable):
            await transport.publish(QUEUE, b"1")
    finally:
        server.resume()
    await publish_soon(transport, b"2")
    await box.wait_for_bodies({b"2"})


async def test_closing_never_hangs(fake: PubSubFake, opened: Open) -> None:
    frozen = await opened(fake.endpoint)
    await frozen.ensure(QUEUE)
    box = Mailbox()
    await frozen.consume(QUEUE, box, window=2)
    await frozen.publish(QUEUE, b"held")
    (delivery,) = await box.wait_for(1)
    fake.pause()
    try:
        delivery.ack()
        async with asyncio.timeout(30):
            await frozen.close()
    finally:
        fake.resume()


async def test_a_consumer_after_another_gets_messages_at_once(server: Any, opened: Open) -> None:
    # given a transport that was closed while its pull waited, with a lease longer than patience
    first = await opened(server.endpoint, pull_s=1.5)
    await first.ensure(QUEUE)
    await first.consume(QUEUE, Mailbox(), window=10)
    await asyncio.sleep(0.3)
    await first.close()
    # then what comes next is not given to the closed one
    second = await opened(server.endpoint)
    box = Mailbox(ack=True)
    await second.consume(QUEUE, box)
    await second.publish(QUEUE, b"next")
    (delivery,) = await box.wait_for(1)
    assert delivery.delivery_count == 1


# -- queues ----------------------------------------------------------------------------------------


async def test_a_topic_without_a_subscription_is_a_missing_queue(server: Any, opened: Open) -> None:
    transport = await opened(server.endpoint)
    topic = transport._layout.topic(QUEUE)
    await ask(transport, "CreateTopic", topic, name=topic)
    with pytest.raises(QueueMissing, match=QUEUE):
        await transport.publish(QUEUE, b"would be dropped without a word")
    await transport.ensure(QUEUE)
    await transport.publish(QUEUE, b"kept")
    await transport.consume(QUEUE, box := Mailbox(ack=True))
    await box.wait_for(1)
    assert box.bodies == [b"kept"]


async def test_a_subscription_deleted_under_its_consumer_is_made_again_and_told_once(
    server: Any, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    transport, another = await opened(server.endpoint), await opened(server.endpoint)
    await transport.ensure(QUEUE)
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box, window=5)
    await delete_subscription(another, QUEUE)
    await until(lambda: warnings(caplog))
    await another.publish(QUEUE, b"found")
    await box.wait_for(1)
    assert [line for line in warnings(caplog) if "recreated it" in line] == warnings(caplog)
    assert len(warnings(caplog)) == 1


async def test_a_topic_deleted_under_its_consumer_costs_no_message(
    server: Any, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    transport = await opened(server.endpoint, lease_s=2.0)
    await transport.ensure(QUEUE)
    box = Mailbox()
    for body in (b"1", b"2", b"3"):
        await transport.publish(QUEUE, body)
    await transport.consume(QUEUE, box, window=1)
    (held,) = await box.wait_for(1)
    # when the topic is deleted, while messages wait in the subscription that it leaves behind
    await delete_topic(transport, QUEUE)
    with pytest.raises(QueueMissing):
        await transport.publish(QUEUE, b"refused, and not dropped")
    await until(lambda: warnings(caplog))
    # then they are delivered first, and only then both are made again
    held.ack()
    for count in (2, 3):
        (await box.wait_for(count))[-1].ack()
    await until(lambda: len(warnings(caplog)) == 2)
    await publish_soon(transport, b"4")
    (await box.wait_for(4))[-1].ack()
    assert sorted(set(box.bodies)) == [b"1", b"2", b"3", b"4"]
    emptying, made = warnings(caplog)
    assert "emptying its subscription" in emptying
    assert "recreated it" in made


async def test_a_message_that_nobody_can_settle_becomes_a_dead_letter(
    server: Any, opened: Open
) -> None:
    # given a message that is given back a hundred times, far more often than a sidecar lets it
    transport = await opened(server.endpoint)
    await transport.ensure(QUEUE)
    await transport.publish(QUEUE, b"poison", dedup_id="id")
    counts: list[int] = []

    def give_back(delivery: Any) -> None:
        counts.append(delivery.delivery_count)
        delivery.requeue()

    await transport.consume(QUEUE, give_back)
    # then it is in the queue of the dead letters, and nothing is dropped
    box = Mailbox(ack=True)
    await transport.consume(SUMP, box)
    (delivery,) = await box.wait_for(1, timeout_s=60)
    assert delivery.body == b"poison"
    assert delivery.delivery_count == 1  # those of the dead letters are not counted
    assert counts[:5] == [1, 2, 3, 4, 5]
    assert 95 <= counts[-1] <= 101


async def test_what_differs_is_reported_and_not_changed(server: Any, opened: Open) -> None:
    transport = await opened(server.endpoint)
    layout = transport._layout
    await transport.ensure("asya-kit-as-it-should-be")
    topic, name = layout.topic(QUEUE), layout.subscription(QUEUE)
    await ask(transport, "CreateTopic", topic, name=topic)
    foreign = {"name": name, "topic": topic, "ack_deadline_seconds": 17}
    await ask(transport, "CreateSubscription", name, **foreign)
    stray = layout.subscription("asya-kit-stray")
    await ask(transport, "CreateSubscription", stray, name=stray, topic=topic)
    queues = ["asya-kit-as-it-should-be", QUEUE, "asya-kit-stray", "asya-kit-missing"]
    inspected = await transport.inspect(queues)
    assert inspected.queues == {"asya-kit-as-it-should-be", SUMP}
    mine = [finding.text for finding in inspected.findings if finding.queue == QUEUE]
    assert any("ack deadline of 17 s instead of 30 s" in text for text in mine)
    assert any("no dead letter policy" in text for text in mine)
    assert any("no label" in text for text in mine)
    (fatal,) = [finding for finding in inspected.findings if finding.fatal]
    assert fatal.queue == "asya-kit-stray"
    assert f"belongs to {topic}" in fatal.text
    assert not [one for one in inspected.findings if one.queue in {queues[0], queues[3]}]
    with pytest.raises(TransportError, match="belongs to"):
        await transport.ensure("asya-kit-stray")
    # a queue with another deadline works, with our lease
    await transport.ensure(QUEUE)
    await transport.publish(QUEUE, b"works")
    await transport.consume(QUEUE, box := Mailbox(ack=True))
    await box.wait_for(1)


async def test_a_namespace_whose_name_begins_another_sees_only_its_own(
    server: Any, opened: Open
) -> None:
    short, long = await opened(server.endpoint, "a"), await opened(server.endpoint, "a-b")
    await short.ensure("asya-a-b-x")
    await long.ensure("asya-a-b-y")
    assert await short.queues() == ["asya-a-b-x", "asya-a-x-sump"]
    assert await long.queues() == ["asya-a-b-x-sump", "asya-a-b-y"]


async def test_names_that_pubsub_cannot_have_are_refused(fake: PubSubFake, opened: Open) -> None:
    transport = await opened(fake.endpoint)
    for name in ("ab", "goog-x", "1abc", "a b c", "", "a" * 256):
        with pytest.raises(QueueMissing, match="no name for a queue"):
            await transport.ensure(name)
    with pytest.raises(TransportError, match="no name for a namespace"):
        await opened(fake.endpoint, "a.*")


CHILDREN = """
import asyncio, sys
from asya.addresses import parse_address
from asya.transports.opening import open_transport

async def main():
    transport = open_transport(parse_address(sys.argv[1]), "kit", lease_s=10)
    await transport.connect()
    await transport.ensure("asya-kit-first")
    await transport.consume("asya-kit-first", lambda delivery: delivery.ack(), window=5)
    done = asyncio.Event()
    async def publish():
        while not done.is_set():
            await transport.publish("asya-kit-first", b"x")
    publishing = asyncio.create_task(publish())
    for _ in range(25):
        child = await asyncio.create_subprocess_exec("true", start_new_session=True, env={})
        assert await child.wait() == 0
    done.set()
    await publishing
    await transport.close()

if sys.argv[2:]:
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.mark.parametrize("loop", ["", "uvloop"])
async def test_children_are_started_while_calls_are_under_way(fake: PubSubFake, loop: str) -> None:
    # gRPC, left to itself, lets some of them die by a signal, and complains at each
    address = f"pubsub://kit-{uuid.uuid4().hex}?endpoint={fake.endpoint}"
    command = [sys.executable, "-c", CHILDREN, address, *([loop] if loop else [])]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, b"")


# -- connecting ------------------------------------------------------------------------------------


async def test_nobody_at_the_address_is_told_in_bounded_time() -> None:
    address = parse_address(f"pubsub://kit?endpoint={HOST}:{free_port()}")
    transport = PubSubTransport(address, "kit", connect_timeout_s=2)
    async with asyncio.timeout(30):
        with pytest.raises(TransportUnavailable, match=f"no Pub/Sub answers in kit at {HOST}:"):
            await transport.connect()
        with pytest.raises(TransportUnavailable):
            await transport.publish(QUEUE, b"x")


async def test_without_credentials_it_is_said_where_they_were_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    transport = PubSubTransport(parse_address("pubsub://kit"), "kit", environ={})
    with pytest.raises(TransportUnavailable, match=r"no credentials for Pub/Sub.*missing\.json"):
        await transport.connect()


async def test_the_emulators_variable_is_an_endpoint(fake: PubSubFake) -> None:
    environ = {"PUBSUB_EMULATOR_HOST": fake.endpoint}
    transport = PubSubTransport(parse_address("pubsub://kit-variable"), "kit", environ=environ)
    await transport.connect()
    await transport.ensure(QUEUE)
    inspected = await transport.inspect([QUEUE])
    assert inspected.broker == f"Pub/Sub, project kit-variable at {fake.endpoint}"
    await transport.close()


async def test_a_queue_that_is_deleted_after_its_consumer_was_closed_stays_deleted(
    server: Any, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """Its last pull may still be under way, and ends then."""
    taker, deleter = await opened(server.endpoint, pull_s=3.0), await opened(server.endpoint)
    await taker.ensure(QUEUE)
    mailbox = Mailbox()
    consumer: Any = await taker.consume(QUEUE, mailbox)
    await publish_soon(taker, b"x")
    (await mailbox.wait_for(1))[0].ack()
    await until(lambda: consumer._intake.prefetch.requested)

    await consumer.close()
    await deleter.delete(QUEUE)
    await consumer.end(30)

    assert QUEUE not in await deleter.queues()
    assert not warnings(caplog)
