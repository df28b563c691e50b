"""What only SQS can get wrong: batches, hops, leases, groups; on moto's server, by real faults."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.support.moto import CREDENTIALS, HOST, REGION, MotoServer
from tests.support.proxy import Proxy

from asya.addresses import parse_address
from asya.errors import MessageTooLarge, QueueMissing, TransportError, TransportUnavailable
from asya.testing.transport_contract import Mailbox, publish_soon
from asya.transports.sqs import messages as sqs_messages
from asya.transports.sqs.consumer import SqsDelivery
from asya.transports.sqs.transport import SqsTransport

QUEUE = "asya-kit-first"
SUMP = "asya-kit-x-sump"


class Movable:
    """A clock that is put forward."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


Open = Callable[..., Awaitable[SqsTransport]]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Connects transports, and ends them however the test ends."""
    transports: list[SqsTransport] = []

    async def connect(
        endpoint: str, options: str = "", namespace: str = "kit", **more: Any
    ) -> SqsTransport:
        settings: dict[str, Any] = {"lease_s": 30.0, "publish_timeout_s": 10.0, "poll_s": 1.0}
        address = parse_address(f"sqs://{REGION}?endpoint={endpoint}{options}")
        transport = SqsTransport(address, namespace, **(settings | more))
        transports.append(transport)
        await transport.connect()
        return transport

    yield connect
    for transport in transports:
        transport.abort()
        await transport.close()


@pytest.fixture
async def proxy(moto: MotoServer) -> AsyncIterator[Proxy]:
    proxy = Proxy(moto.port)
    await proxy.start()
    yield proxy
    await proxy.close()


@pytest.fixture
async def transport(moto: MotoServer, opened: Open) -> SqsTransport:
    return await opened(moto.endpoint)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "asya.transports.sqs" and record.levelno >= logging.WARNING
    ]


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


# -- outages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["cut", "stall"])
async def test_an_outage_is_one_line_and_its_end_another(
    proxy: Proxy, caplog: pytest.LogCaptureFixture, harm: str, opened: Open
) -> None:
    # a poll that the network holds back may still reach SQS and take a message: for a lease
    endpoint = f"http://{HOST}:{proxy.port}"
    transport = await opened(endpoint, publish_timeout_s=3.0, lease_s=3.0)
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
    assert f"SQS in {REGION} at {HOST}:{proxy.port}" in str(transport.trouble)
    proxy.resume()
    proxy.mend()
    # then it comes back by itself, and the consumer goes on
    await publish_soon(transport, b"after")
    await box.wait_for_bodies({b"after"}, timeout_s=30)
    await until(lambda: transport.trouble is None)
    lost, back = warnings(caplog)
    assert lost.startswith(f"lost the connection to SQS in {REGION} at {HOST}:{proxy.port} (")
    assert back.startswith(f"connected to SQS in {REGION} at {HOST}:{proxy.port} again after")


async def test_a_poll_that_nobody_will_answer_is_given_up(proxy: Proxy, opened: Open) -> None:
    transport = await opened(f"http://{HOST}:{proxy.port}", lease_s=2.0, publish_timeout_s=3.0)
    await transport.ensure(QUEUE)
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box)
    await until(lambda: transport._consumers[0].polls)
    proxy.half_open()
    for body in (b"1", b"2"):
        await transport.publish(QUEUE, body)
    await box.wait_for_bodies({b"1", b"2"}, timeout_s=30)


async def test_an_answer_that_is_held_up_too_long_is_not_believed(
    moto: MotoServer, proxy: Proxy, opened: Open
) -> None:
    endpoint = f"http://{HOST}:{proxy.port}"
    transport = await opened(endpoint, lease_s=2.0, poll_s=2.0, publish_timeout_s=20.0)
    direct = await opened(moto.endpoint, lease_s=20.0)
    await direct.ensure(QUEUE)
    box, second = Mailbox(), Mailbox()
    await transport.consume(QUEUE, box)
    # given a message whose way here takes longer than its lease
    asked = proxy.forwarded
    await until(lambda: proxy.forwarded > asked)
    await asyncio.sleep(0.2)
    proxy.stall()
    begun = asyncio.get_running_loop().time()
    await direct.publish(QUEUE, b"1")
    await asyncio.sleep(1.0)
    await direct.consume(QUEUE, second)
    (delivery,) = await second.wait_for(1)
    assert delivery.delivery_count == 2
    await asyncio.sleep(begun + 5.5 - asyncio.get_running_loop().time())
    proxy.resume()
    # then nobody sees it but the one who has it now
    transport._consumers[0].set_window(2)
    await direct.publish(QUEUE, b"2")
    await box.wait_for(1)
    assert box.bodies == [b"2"]
    assert delivery.held


async def test_no_endpoint_and_no_credentials_are_told_at_once(
    moto: MotoServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, opened: Open
) -> None:
    with pytest.raises(TransportUnavailable, match=r"SQS in eu-west-1 at 127.0.0.1:9 cannot be"):
        await opened("http://127.0.0.1:9")
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(TransportError, match="no usable credentials in the provider chain"):
        await opened(moto.endpoint)


# -- credentials -----------------------------------------------------------------------------------


async def ask_iam(moto: MotoServer, operation: str, **arguments: Any) -> dict[str, Any]:
    from aiobotocore.session import get_session

    making = get_session().create_client(
        "iam", region_name="us-east-1", endpoint_url=moto.endpoint,
        aws_access_key_id="root", aws_secret_access_key="root",
    )  # fmt: skip
    async with making as client:
        answer: dict[str, Any] = await getattr(client, operation)(**arguments)
        return answer


async def grant(moto: MotoServer, *actions: str) -> None:
    allowed = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    moto.post("/moto-api/reset-auth", b"inf")
    await ask_iam(moto, "put_user_policy", UserName="mesh", PolicyName="p", PolicyDocument=policy)
    moto.post("/moto-api/reset-auth", b"0")


async def new_key(moto: MotoServer) -> tuple[str, str]:
    moto.post("/moto-api/reset-auth", b"inf")
    key = (await ask_iam(moto, "create_access_key", UserName="mesh"))["AccessKey"]
    moto.post("/moto-api/reset-auth", b"0")
    return key["AccessKeyId"], key["SecretAccessKey"]


async def test_credentials_that_are_revoked_and_replaced(
    moto: MotoServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Any,
    opened: Open,
) -> None:
    # given credentials from a file, as the provider chain finds them
    def write(key: tuple[str, str]) -> None:
        lines = ["[default]", f"aws_access_key_id={key[0]}", f"aws_secret_access_key={key[1]}"]
        (tmp_path / "credentials").write_text("\n".join(lines))

    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    await ask_iam(moto, "create_user", UserName="mesh")
    await grant(moto, "sqs:*")
    old, new = await new_key(moto), await new_key(moto)
    write(old)
    transport = await opened(moto.endpoint)
    await transport.ensure(QUEUE)
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box)
    await transport.publish(QUEUE, b"before")
    await box.wait_for(1)
    # when they are revoked in the middle
    moto.post("/moto-api/reset-auth", b"inf")
    await ask_iam(moto, "delete_access_key", UserName="mesh", AccessKeyId=old[0])
    moto.post("/moto-api/reset-auth", b"0")
    with pytest.raises(TransportUnavailable, match="refuses the credentials"):
        await transport.publish(QUEUE, b"lost")
    assert "InvalidClientTokenId" in str(transport.trouble)
    # and others are put in their place
    write(new)
    await publish_soon(transport, b"after")
    await box.wait_for_bodies({b"after"})
    lost, back = warnings(caplog)
    assert "the credentials are refused: InvalidClientTokenId" in lost
    assert "again after" in back
    assert not any(secret in caplog.text for secret in (old[1], new[1]))


async def test_a_permission_that_is_missing_is_told_and_waited_for(
    moto: MotoServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    opened: Open,
) -> None:
    await ask_iam(moto, "create_user", UserName="mesh")
    await grant(moto, "sqs:*")
    key = await new_key(moto)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key[1])
    transport = await opened(moto.endpoint)
    await transport.ensure(QUEUE)
    # given that it may look, and neither make queues nor send nor receive
    await grant(moto, "sqs:GetQueueUrl", "sqs:GetQueueAttributes")
    await transport.ensure(QUEUE)
    with pytest.raises(TransportError, match="not authorized to perform: sqs:CreateQueue"):
        await transport.ensure("asya-kit-second")
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box)
    with pytest.raises(TransportError, match=r"AccessDenied: User: .*sqs:SendMessage") as caught:
        await transport.publish(QUEUE, b"no")
    assert not isinstance(caught.value, TransportUnavailable)
    await until(lambda: warnings(caplog))
    # when it may again
    await grant(moto, "sqs:*")
    await transport.publish(QUEUE, b"yes")
    await box.wait_for_bodies({b"yes"})
    cannot, again = warnings(caplog)
    assert cannot.startswith(f"cannot receive from queue {QUEUE}: SQS in")
    assert "sqs:ReceiveMessage" in cannot
    assert again == f"receiving from queue {QUEUE} again"


# -- batches ---------------------------------------------------------------------------------------


class Recorder:
    """Counts calls of SQS on their way."""

    def __init__(self, transport: SqsTransport, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._call = transport._connection.call
        monkeypatch.setattr(transport._connection, "call", self.call)

    async def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        self.calls.append((operation, arguments))
        return await self._call(operation, **arguments)

    def entries(self, operation: str) -> list[int]:
        """How many entries each call of an operation had."""
        return [len(given["Entries"]) for name, given in self.calls if name == operation]


async def test_publishes_and_acks_share_requests(
    transport: SqsTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    await transport.ensure(QUEUE)
    seen = Recorder(transport, monkeypatch)
    bodies = [b"%d" % number for number in range(40)]
    await asyncio.gather(*(transport.publish(QUEUE, body) for body in bodies))
    assert seen.entries("send_message_batch") == [10, 10, 10, 10]
    box = Mailbox()
    await transport.consume(QUEUE, box, window=40)
    await box.wait_for(40)
    for delivery in box.deliveries:
        delivery.ack()
    await transport.close()
    assert seen.entries("delete_message_batch") == [10, 10, 10, 10]
    assert sorted(box.bodies) == sorted(bodies)


async def test_a_batch_is_cut_by_its_size(
    transport: SqsTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    await transport.ensure(QUEUE)
    seen = Recorder(transport, monkeypatch)
    bodies = [bytes([65 + number]) * 400_000 for number in range(5)]
    await asyncio.gather(*(transport.publish(QUEUE, body) for body in bodies))
    assert seen.entries("send_message_batch") == [2, 2, 1]
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box, window=5)
    await box.wait_for_bodies(set(bodies))


async def test_one_bad_message_harms_no_other_of_its_batch(transport: SqsTransport) -> None:
    # given a queue that somebody made for smaller messages
    small = {"MaximumMessageSize": "2048"}
    await transport._connection.call("create_queue", QueueName=QUEUE, Attributes=small)
    await transport.ensure(QUEUE)
    bodies = [b"a", b"b" * 5000, b"c"]
    outcomes = await asyncio.gather(
        *(transport.publish(QUEUE, body) for body in bodies), return_exceptions=True
    )
    assert isinstance(outcomes[1], MessageTooLarge)
    assert not isinstance(outcomes[0], BaseException)
    assert not isinstance(outcomes[2], BaseException)
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box, window=5)
    await box.wait_for_bodies({b"a", b"c"})


# -- time ------------------------------------------------------------------------------------------


async def test_a_long_delay_goes_in_hops_and_is_never_shown_early(
    moto: MotoServer, monkeypatch: pytest.MonkeyPatch, opened: Open
) -> None:
    monkeypatch.setattr(sqs_messages, "HOP_S", 1)
    clock = Movable()
    transport = await opened(moto.endpoint, clock=clock)
    await transport.ensure(QUEUE)
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box, window=3)
    seen = Recorder(transport, monkeypatch)
    # given messages for tomorrow: one of text, one of bytes
    for body in (b"text", b"\x00\xff"):
        later = clock.now() + timedelta(days=1)
        await transport.publish(QUEUE, body, not_before=later)
    # when they have become visible twice, each was sent on unseen, then deleted
    await until(lambda: sum(seen.entries("delete_message_batch")) >= 4)
    assert sum(seen.entries("send_message_batch")) >= 6
    assert box.deliveries == []
    # then the day passes
    clock.ahead = timedelta(days=1)
    await box.wait_for(2)
    assert sorted(box.bodies) == [b"\x00\xff", b"text"]
    assert [delivery.delivery_count for delivery in box.deliveries] == [1, 1]
    assert await emptied(transport)


async def emptied(transport: SqsTransport) -> bool:
    async with asyncio.timeout(30):
        while True:
            depth = await transport.depth(QUEUE)
            if depth.ready == depth.in_flight == depth.delayed == 0:
                return True
            await asyncio.sleep(0.05)


async def test_a_hop_that_is_not_confirmed_loses_nothing(
    moto: MotoServer, monkeypatch: pytest.MonkeyPatch, opened: Open
) -> None:
    monkeypatch.setattr(sqs_messages, "HOP_S", 1)
    clock = Movable()
    transport = await opened(moto.endpoint, clock=clock, lease_s=1.0)
    await transport.ensure(QUEUE)
    await transport.publish(QUEUE, b"1", not_before=clock.now() + timedelta(hours=1))
    # given that what is sent on is refused
    send, refused = transport._publisher.send, asyncio.Event()

    async def refuse(*given: Any) -> None:
        refused.set()
        raise TransportUnavailable("refused by a test")

    monkeypatch.setattr(transport._publisher, "send", refuse)
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box)
    await refused.wait()
    monkeypatch.setattr(transport._publisher, "send", send)
    # then it comes again after its lease, and to its end
    clock.ahead = timedelta(hours=1)
    await box.wait_for(1)
    assert box.bodies == [b"1"]


async def test_nobody_holds_a_message_longer_than_sqs_allows(
    transport: SqsTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    await transport.ensure(QUEUE)
    await transport.publish(QUEUE, b"1")
    box = Mailbox()
    consumer = await transport.consume(QUEUE, box)
    (delivery,) = await box.wait_for(1)
    seen = Recorder(transport, monkeypatch)
    consumer.set_window(0)
    real = asyncio.get_running_loop().time
    ahead = 0.0
    monkeypatch.setattr(consumer, "now", lambda: real() + ahead)
    delivery.until = delivery.last  # type: ignore[attr-defined]  # as if extended for 12 hours
    # when eleven seconds are left, less a margin of two
    ahead = 12 * 3600 - 11
    delivery.extend()
    ((_, change),) = [call for call in seen.calls if call[0].startswith("change")] or [
        await first_change(seen)
    ]
    assert change["Entries"][0]["VisibilityTimeout"] in range(5, 11)
    ahead = 12 * 3600
    assert not delivery.held
    delivery.extend()
    delivery.ack()
    await transport.close()
    assert "delete_message_batch" not in [name for name, _ in seen.calls]


async def first_change(seen: Recorder) -> tuple[str, dict[str, Any]]:
    await until(lambda: seen.entries("change_message_visibility_batch"))
    return next(call for call in seen.calls if call[0].startswith("change"))


async def test_an_extension_that_is_refused_ends_the_lease(
    transport: SqsTransport,
) -> None:
    await transport.ensure(QUEUE)
    await transport.publish(QUEUE, b"1")
    box = Mailbox()
    await transport.consume(QUEUE, box)
    (delivery,) = await box.wait_for(1)
    # given that somebody else deletes the message
    url = await transport.url(QUEUE)
    assert isinstance(delivery, SqsDelivery)
    await transport._connection.call("delete_message", QueueUrl=url, ReceiptHandle=delivery.handle)
    await transport._connection.call("purge_queue", QueueUrl=url)
    assert delivery.held
    delivery.extend()
    await until(lambda: not delivery.held)


# -- queues ----------------------------------------------------------------------------------------


async def test_a_queue_deleted_under_its_consumer_is_made_again(
    transport: SqsTransport, caplog: pytest.LogCaptureFixture, opened: Open
) -> None:
    another = await opened(transport._site.endpoint)
    await transport.ensure(QUEUE)
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box)
    await another.delete(QUEUE)
    await until(lambda: warnings(caplog))
    await publish_soon(another, b"after")
    await box.wait_for_bodies({b"after"})
    assert warnings(caplog) == [f"queue {QUEUE} was deleted while being consumed; recreated it"]


async def test_a_name_that_aws_blocks_is_waited_for(
    transport: SqsTransport, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await transport.ensure(QUEUE)
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box)
    # given that SQS makes no queue of a name in the first minute after it was deleted
    make, tries = transport._make, 0

    async def blocked(queue: str, arn: str | None) -> None:
        nonlocal tries
        tries += 1
        if tries <= 2:
            raise TransportUnavailable("SQS does not make the queue again before 60 s have passed")
        await make(queue, arn)

    monkeypatch.setattr(transport, "_make", blocked)
    url = await transport.url(QUEUE)
    await transport._connection.call("delete_queue", QueueUrl=url)
    await until(lambda: tries >= 3)
    await publish_soon(transport, b"after")
    await box.wait_for_bodies({b"after"})
    deleted, back = warnings(caplog)
    assert deleted.startswith(f"queue {QUEUE} was deleted while being consumed; recreating it")
    assert back == f"queue {QUEUE} exists again"


async def test_queues_are_made_as_declared_and_left_as_they_are(transport: SqsTransport) -> None:
    # given a queue of ours, and one that somebody made in another way
    await transport.ensure(QUEUE)
    strange = {"MessageRetentionPeriod": "345600", "MaximumMessageSize": "262144"}
    await transport._connection.call("create_queue", QueueName="asya-kit-odd", Attributes=strange)
    await transport.ensure("asya-kit-odd")
    found = await transport._attributes(
        transport._connection, "asya-kit-odd", await transport.url("asya-kit-odd")
    )
    assert found["MessageRetentionPeriod"] == "345600"
    # then the differences are told, with what they mean
    inspection = await transport.inspect([QUEUE, "asya-kit-odd", "asya-kit-none", "x" * 81])
    assert inspection.queues == {QUEUE, "asya-kit-odd", SUMP}
    assert inspection.broker.startswith(f"Amazon SQS in {REGION} at 127.0.0.1:")
    assert inspection.skew_s is None or abs(inspection.skew_s) < 5
    told = [(finding.queue, finding.fatal) for finding in inspection.findings]
    assert told == [("asya-kit-odd", False)] * 3 + [("x" * 81, True)]
    assert "RedrivePolicy to asya-kit-x-sump" in inspection.findings[2].text


async def test_what_nobody_can_take_ends_with_the_dead_letters(
    transport: SqsTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asya.transports.sqs.queues.RECEIVES_MAX", 3)
    await transport.ensure(QUEUE)
    await transport.publish(QUEUE, b"poison")
    box, dead = Mailbox(), Mailbox(ack=True)
    await transport.consume(SUMP, dead)
    await transport.consume(QUEUE, box)
    for count in (1, 2, 3):
        (await box.wait_for(count))[-1].requeue()
    await dead.wait_for(1)
    assert dead.bodies == [b"poison"]
    assert len(box.deliveries) == 3


async def test_the_dead_letters_queue_is_made_again_when_it_is_missing(
    transport: SqsTransport,
) -> None:
    await transport.ensure(QUEUE)
    await transport.delete(SUMP)
    await transport.ensure("asya-kit-second")
    assert await transport.queues() == [QUEUE, "asya-kit-second", SUMP]


async def test_a_namespace_sees_no_queues_of_another(moto: MotoServer, opened: Open) -> None:
    # given the namespaces kit and kit-b, whose names of queues begin alike
    transport = await opened(moto.endpoint)
    other = await opened(moto.endpoint, namespace="kit-b")
    await transport.ensure("asya-kit-a")
    await other.ensure("asya-kit-b-a")
    assert await transport.queues() == ["asya-kit-a", SUMP]
    assert await other.queues() == ["asya-kit-b-a", "asya-kit-b-x-sump"]


async def test_names_that_sqs_has_not_are_refused_clearly(transport: SqsTransport) -> None:
    name = "asya-kit-" + "a" * 80
    with pytest.raises(TransportError, match="has 89 characters and SQS takes 80; shorten"):
        await transport.ensure(name)
    for call in (transport.publish(name, b""), transport.depth(name)):
        with pytest.raises(QueueMissing, match="has 89 characters"):
            await call
    await transport.delete(name)


# -- groups ----------------------------------------------------------------------------------------


async def test_a_fifo_queue_keeps_order_and_knows_duplicates(
    moto: MotoServer, opened: Open
) -> None:
    transport = await opened(moto.endpoint, "&fifo=true")
    await transport.ensure(QUEUE)
    assert await transport.queues() == [QUEUE, SUMP]
    # given messages of two runs, one of them twice
    for number in range(4):
        for run in ("r1", "r2"):
            body = json.dumps({"id": run, "headers": {}, "number": number}).encode()
            for _ in range(2 if number == 1 else 1):
                await transport.publish(QUEUE, body, dedup_id=f"{run}:{number}:0")
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box, window=10)
    await box.wait_for(8, timeout_s=60)
    await asyncio.sleep(0.3)
    # then each run is in order, and nothing came twice
    for run in ("r1", "r2"):
        found = [json.loads(body) for body in box.bodies]
        assert [one["number"] for one in found if one["id"] == run] == list(range(4))
    with pytest.raises(TransportError, match="delays no single messages"):
        await transport.publish(QUEUE, b"{}", not_before=datetime.now(UTC) + timedelta(hours=1))


async def test_what_is_of_one_fifo_group_comes_one_by_one(moto: MotoServer, opened: Open) -> None:
    transport = await opened(moto.endpoint, "&fifo=true")
    await transport.ensure(QUEUE)
    bodies = [b'{"id": "r1", "n": %d}' % number for number in range(3)]
    for body in bodies:
        await transport.publish(QUEUE, body)
    box = Mailbox()
    await transport.consume(QUEUE, box, window=5)
    for count, body in enumerate(bodies):
        delivery = (await box.wait_for(count + 1))[-1]
        assert (delivery.body, len(box.deliveries)) == (body, count + 1)
        delivery.ack()


async def test_a_fifo_group_stands_still_while_one_of_it_is_held(
    moto: MotoServer, opened: Open
) -> None:
    transport = await opened(moto.endpoint, "&fifo=true")
    await transport.ensure(QUEUE)
    for name in ("r1", "r1", "r2"):
        await transport.publish(QUEUE, json.dumps({"id": name}).encode())
    first, second = Mailbox(), Mailbox(ack=True)
    holding = await transport.consume(QUEUE, first, window=1)
    (held,) = await first.wait_for(1)
    holding.set_window(0)
    await transport.consume(QUEUE, second, window=5)
    await second.wait_for(1)
    assert json.loads(held.body) == {"id": "r1"}
    assert second.bodies == [b'{"id": "r2"}']
    held.ack()
    await second.wait_for(2)
    assert second.bodies[1] == b'{"id": "r1"}'


async def test_fair_queues_give_each_run_a_group(
    moto: MotoServer, monkeypatch: pytest.MonkeyPatch, opened: Open
) -> None:
    transport = await opened(moto.endpoint, "&fair=true")
    await transport.ensure(QUEUE)
    seen = Recorder(transport, monkeypatch)
    await transport.publish(QUEUE, b'{"id": "r1"}')
    await transport.publish(QUEUE, b"no envelope", dedup_id="r2:0:0")
    sent = [given["Entries"][0] for name, given in seen.calls if name == "send_message_batch"]
    assert [entry["MessageGroupId"] for entry in sent] == ["r1", "r2"]
    assert all("MessageDeduplicationId" not in entry for entry in sent)
    # and both are there at once: the groups of a standard queue lock nothing
    box = Mailbox(ack=True)
    await transport.consume(QUEUE, box, window=5)
    await box.wait_for(2)


# -- consumers -------------------------------------------------------------------------------------


async def test_a_slow_consumer_keeps_what_it_extends(moto: MotoServer, opened: Open) -> None:
    # given handlers that take three times the lease, and a second consumer that has time
    slow = await opened(moto.endpoint, lease_s=1.0)
    idle = await opened(moto.endpoint, lease_s=1.0)
    await slow.ensure(QUEUE)
    for number in range(4):
        await slow.publish(QUEUE, b"%d" % number)
    box, other = Mailbox(), Mailbox(ack=True)
    await slow.consume(QUEUE, box, window=4)
    await box.wait_for(4)
    await idle.consume(QUEUE, other, window=4)
    for _ in range(12):
        await asyncio.sleep(0.25)
        for delivery in box.deliveries:
            delivery.extend()
    for delivery in box.deliveries:
        assert delivery.held
        delivery.ack()
    assert await emptied(slow)
    assert other.deliveries == []


async def test_a_large_window_is_filled_by_polls_side_by_side(
    transport: SqsTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    await transport.ensure(QUEUE)
    bodies = {b"%d" % number for number in range(90)}
    await asyncio.gather(*(transport.publish(QUEUE, body) for body in bodies))
    box = Mailbox()
    consumer = await transport.consume(QUEUE, box, window=90)
    most = 0
    async with asyncio.timeout(30):
        while len(box.deliveries) < 90:
            most = max(most, len(transport._consumers[0].polls))
            await asyncio.sleep(0)
    assert most > 1
    # and an idle queue is asked by one
    consumer.set_window(0)
    for delivery in box.deliveries:
        delivery.ack()
    await until(lambda: not transport._consumers[0].polls)
    consumer.set_window(90)
    await until(lambda: transport._consumers[0]._side_by_side == 1)
    await until(lambda: len(transport._consumers[0].polls) == 1)


async def test_what_a_last_poll_brings_goes_to_the_others(transport: SqsTransport) -> None:
    # given a consumer that is closed while its poll waits at SQS
    await transport.ensure(QUEUE)
    box = Mailbox(ack=True)
    consumer = await transport.consume(QUEUE, box)
    await until(lambda: transport._consumers[0].polls)
    await consumer.close()
    await transport.publish(QUEUE, b"1")
    other = Mailbox(ack=True)
    await transport.consume(QUEUE, other)
    # then the message reaches another one long before a lease ends
    await other.wait_for(1, timeout_s=20)
    assert box.deliveries == []
