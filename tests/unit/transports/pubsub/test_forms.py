"""What a queue is in Pub/Sub, what KEDA is told, and what goes in one request."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from asya.addresses import parse_address
from asya.errors import MessageTooLarge, QueueMissing, TransportError, TransportUnavailable
from asya.transports.pubsub import publisher as pubsub_outbox
from asya.transports.pubsub.publisher import Outbox
from asya.transports.pubsub.queues import Found, Layout, ack_deadline_s, check_name, defect, drift
from asya.transports.pubsub.transport import PubSubTransport

LAYOUT = Layout("my-project", "shop")
QUEUE = "asya-shop-resize"
SOUND = Found(
    name=QUEUE,
    topic="projects/my-project/topics/asya-shop-resize",
    ack_deadline_s=60,
    dead_letter_topic="projects/my-project/topics/asya-shop-x-sump",
    deliveries_max=100,
    labels={"asya-namespace": "shop"},
)


def test_a_queue_is_a_topic_and_a_subscription_that_stay_and_count_deliveries() -> None:
    assert LAYOUT.topic_config(QUEUE) == {
        "name": "projects/my-project/topics/asya-shop-resize",
        "labels": {"asya-namespace": "shop"},
    }
    assert LAYOUT.subscription_config(QUEUE, 60.0) == {
        "name": "projects/my-project/subscriptions/asya-shop-resize",
        "topic": "projects/my-project/topics/asya-shop-resize",
        "ack_deadline_seconds": 60,
        "message_retention_duration": {"seconds": 604_800},
        "expiration_policy": {},
        "labels": {"asya-namespace": "shop"},
        "dead_letter_policy": {
            "dead_letter_topic": "projects/my-project/topics/asya-shop-x-sump",
            "max_delivery_attempts": 100,
        },
    }
    assert "dead_letter_policy" not in LAYOUT.subscription_config("asya-shop-x-sump", 60.0)


@pytest.mark.parametrize(
    ("lease_s", "deadline_s"), [(1, 10), (10, 10), (10.5, 11), (60, 60), (600, 600), (900, 600)]
)
def test_a_lease_becomes_a_deadline_that_pubsub_takes(lease_s: float, deadline_s: int) -> None:
    assert ack_deadline_s(lease_s) == deadline_s


@pytest.mark.parametrize("name", ["ab", "goog-x", "1abc", "a b c", "", "a" * 256, "x/y/z", "äää"])
def test_names_that_pubsub_cannot_have(name: str) -> None:
    with pytest.raises(QueueMissing):
        check_name(name)


def test_what_is_as_it_should_be_has_no_findings() -> None:
    assert drift(LAYOUT, QUEUE, SOUND, 60.0) == []
    sump = replace(
        SOUND, name="asya-shop-x-sump", topic=LAYOUT.topic("asya-shop-x-sump"), dead_letter_topic=""
    )
    assert drift(LAYOUT, "asya-shop-x-sump", sump, 60.0) == []


@pytest.mark.parametrize(
    ("changed", "said", "remedy"),
    [
        ({"ack_deadline_s": 10}, "10 s instead of 60 s", "--ack-deadline=60"),
        ({"expires_s": 31 * 86_400.0}, "after 31 days without use", "--expiration-period=never"),
        ({"retention_s": 86_400.0}, "dropped after 1 days", "--message-retention-duration=7d"),
        ({"filters": True}, "a filter", "make it again"),
        ({"dead_letter_topic": ""}, "no dead letter policy", "--max-delivery-attempts=100"),
        ({"dead_letter_topic": "projects/x/topics/y"}, "another topic", "--dead-letter-topic="),
        ({"deliveries_max": 5}, "5 deliveries at most", "--max-delivery-attempts=100"),
        ({"labels": {}}, "no label", "--update-labels=asya-namespace=shop"),
    ],
)
def test_what_differs_is_found_with_its_remedy(
    changed: dict[str, Any], said: str, remedy: str
) -> None:
    (finding,) = drift(LAYOUT, QUEUE, replace(SOUND, **changed), 60.0)
    assert said in finding.text
    assert remedy in finding.text
    assert (finding.queue, finding.fatal) == (QUEUE, False)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"topic": "projects/my-project/topics/other"}, "belongs to"),
        ({"detached": True}, "is detached"),
        ({"pushes": True}, "pushes its messages"),
    ],
)
def test_a_subscription_that_gets_nothing_is_fatal(changed: dict[str, Any], said: str) -> None:
    found = replace(SOUND, **changed)
    (finding,) = drift(LAYOUT, QUEUE, found, 60.0)
    assert said in finding.text
    assert finding.fatal
    assert defect(LAYOUT, QUEUE, found) == finding.text


def test_a_subscription_that_lost_its_topic_mends_itself() -> None:
    (finding,) = drift(LAYOUT, QUEUE, replace(SOUND, topic="_deleted-topic_"), 60.0)
    assert "its consumer makes it again" in finding.text
    assert not finding.fatal


def test_keda_asks_cloud_monitoring_by_prometheus() -> None:
    transport = PubSubTransport(parse_address("pubsub://my-project"), "shop", environ={})
    assert transport.trigger(QUEUE, 5) == {
        "type": "prometheus",
        "metadata": {
            "serverAddress": (
                "https://monitoring.googleapis.com/v1/projects/my-project/location/global/prometheus"
            ),
            "query": (
                '{"__name__"="pubsub.googleapis.com/subscription/num_undelivered_messages",'
                '"monitored_resource"="pubsub_subscription","subscription_id"="asya-shop-resize"}'
            ),
            "threshold": "5",
            "activationThreshold": "0",
        },
    }


def test_keda_has_a_scaler_of_its_own_too() -> None:
    address = parse_address("pubsub://my-project?keda=gcp-pubsub")
    trigger = PubSubTransport(address, "shop", environ={}).trigger(QUEUE, 5)
    assert trigger == {
        "type": "gcp-pubsub",
        "metadata": {
            "subscriptionName": "projects/my-project/subscriptions/asya-shop-resize",
            "mode": "NumUndeliveredMessages",
            "value": "5",
            "activationValue": "0",
            "valueIfNull": "0",
        },
    }
    with pytest.raises(ValueError, match="prometheus or gcp-pubsub"):
        parse_address("pubsub://my-project?keda=rabbitmq")


@pytest.mark.parametrize("lease_s", [0.5, 601])
def test_leases_that_pubsub_cannot_have(lease_s: float) -> None:
    with pytest.raises(TransportError, match="1 to 600 s"):
        PubSubTransport(parse_address("pubsub://p"), "shop", lease_s=lease_s, environ={})


async def test_what_needs_no_broker_is_refused_without_one() -> None:
    transport = PubSubTransport(parse_address("pubsub://p"), "shop", environ={})
    assert transport.trouble == "Pub/Sub in p does not answer (not connected)"
    with pytest.raises(MessageTooLarge, match="9995905"):
        await transport.publish(QUEUE, b"x" * 9_995_905)


class Recorded:
    """A link that keeps requests until they are answered."""

    def __init__(self) -> None:
        self.requests: list[tuple[Any, asyncio.Future[Any]]] = []

    def request(self, name: str, *, topic: str) -> Any:
        messages: list[Any] = []
        add = lambda **fields: messages.append(SimpleNamespace(**fields))  # noqa: E731 -- it stands for a field's method
        return SimpleNamespace(topic=topic, messages=SimpleNamespace(add=add), kept=messages)

    async def call(self, name: str, request: Any, resource: str) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.requests.append((request.kept, future))
        return await future

    def confirm(self, index: int) -> None:
        messages, future = self.requests[index]
        future.set_result(SimpleNamespace(message_ids=["1"] * len(messages)))


@pytest.fixture
def link() -> Recorded:
    return Recorded()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def publishing(outbox: Outbox, bodies: list[bytes]) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(outbox.put(body, None)) for body in bodies]


async def test_what_is_published_together_goes_in_one_request(link: Any) -> None:
    outbox = Outbox(link, "topic")
    tasks = publishing(outbox, [b"%d" % number for number in range(1500)])
    await settle()
    assert [len(messages) for messages, _ in link.requests] == [1000, 500]
    for index in range(2):
        link.confirm(index)
    await asyncio.gather(*tasks)


async def test_a_request_is_no_larger_than_pubsub_takes(link: Any) -> None:
    outbox = Outbox(link, "topic")
    tasks = publishing(outbox, [b"x" * 4_000_000] * 5)
    await settle()
    assert [len(messages) for messages, _ in link.requests] == [2, 2, 1]
    for index in range(3):
        link.confirm(index)
    await asyncio.gather(*tasks)


async def test_few_requests_are_on_their_way_and_the_rest_gathers(link: Any) -> None:
    outbox = Outbox(link, "topic")
    tasks = []
    for number in range(10):
        tasks += publishing(outbox, [b"%d" % number])
        await settle()
    assert [len(messages) for messages, _ in link.requests] == [1] * pubsub_outbox.REQUESTS_MAX
    link.confirm(0)
    await settle()
    assert [message.data for message in link.requests[-1][0]] == [
        b"4",
        b"5",
        b"6",
        b"7",
        b"8",
        b"9",
    ]
    for index in range(1, len(link.requests)):
        link.confirm(index)
    await asyncio.gather(*tasks)


async def test_a_message_that_is_refused_takes_no_other_with_it(link: Any) -> None:
    outbox = Outbox(link, "topic")
    tasks = publishing(outbox, [b"good", b"bad", b"good too"])
    await settle()
    link.requests[0][1].set_exception(TransportError("one of them is bad"))
    await settle()
    for index, outcome in ((1, None), (2, TransportError("bad")), (3, None)):
        if outcome is None:
            link.confirm(index)
        else:
            link.requests[index][1].set_exception(outcome)
        await settle()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), TransportError, type(None)]


async def test_an_outage_is_everybodys_own_error(link: Any) -> None:
    outbox = Outbox(link, "topic")
    tasks = publishing(outbox, [b"1", b"2"])
    await settle()
    link.requests[0][1].set_exception(TransportUnavailable("away"))
    first, second = await asyncio.gather(*tasks, return_exceptions=True)
    assert str(first) == str(second) == "away"
    assert first is not second


async def test_who_has_gone_is_not_published_for(link: Any) -> None:
    outbox = Outbox(link, "topic")
    gone, stays = publishing(outbox, [b"gone", b"stays"])
    await asyncio.sleep(0)
    gone.cancel()
    await settle()
    assert [message.data for message in link.requests[0][0]] == [b"stays"]
    link.confirm(0)
    await stays


async def test_a_message_is_never_quite_empty(link: Any) -> None:
    outbox = Outbox(link, "topic")
    tasks = [
        asyncio.create_task(outbox.put(*each))
        for each in ((b"", None), (b"", ""), (b"", "id"), (b"x", None), (b"x", "ö" * 1000))
    ]
    await settle()
    attributes = [message.attributes for message in link.requests[0][0]]
    assert attributes[:4] == [{"asya-empty": "1"}, {"asya-empty": "1"}, {"asya-id": "id"}, None]
    assert len(attributes[4]["asya-id"]) == 64
    link.confirm(0)
    await asyncio.gather(*tasks)
