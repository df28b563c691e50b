"""Which brokers a mesh uses, and the one transport that its parts see."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asya import manifest
from asya.addresses import Address
from asya.clock import SystemClock
from asya.codes import Code
from asya.errors import UsageError
from asya.local.notices import Notice, QueueLeft
from asya.local.transports import LocalTransports, brokers_in_use, check_addresses
from asya.settings import Settings
from asya.transports.base import Transport
from asya.transports.memory.transport import MemoryTransport
from asya.transports.mixed import MixedTransport

Actors = Callable[..., list[manifest.AsyncActor]]
RABBIT = "amqp://u:p@r:1"


@pytest.fixture
def actors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Actors:
    """Actors by the names of their brokers; None is the default."""
    monkeypatch.chdir(tmp_path)

    def made(**transports: str | None) -> list[manifest.AsyncActor]:
        for name, transport in transports.items():
            where = f", transport: {transport}" if transport else ""
            Path(f"{name}.yaml").write_text(
                f"apiVersion: asya.sh/v1alpha1\nkind: AsyncActor\nmetadata: {{name: {name}}}\n"
                f"spec: {{handler: h.f{where}}}\n"
            )
        return list(manifest.load(["."]).actors)

    return made


class Away(MemoryTransport):
    """One whose broker may be away."""

    told: str | None = None

    @property
    def trouble(self) -> str | None:
        return self.told


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> dict[str, Away]:
    """The transports that were made, by the names of their brokers."""
    made: dict[str, Away] = {}

    def open_one(address: Address, namespace: str, **given: Any) -> Transport:
        size = 1000 if address.transport == "sqs" else 2000
        made[address.transport] = Away(namespace, message_max_bytes=size)
        return made[address.transport]

    monkeypatch.setattr("asya.local.transports.open_transport", open_one)
    return made


def transports(actors: list[manifest.AsyncActor], settings: Settings) -> LocalTransports:
    return LocalTransports(actors, settings, Path("data"), tell=print, clock=SystemClock())


def test_the_default_broker_comes_first_and_has_the_ends(actors: Actors) -> None:
    settings = Settings(transport="rabbitmq", transport_url=RABBIT, sqs_url="sqs://r")

    uses = brokers_in_use(actors(a="sqs", b=None, c="nats", d="rabbitmq"), settings)

    queues = {use.transport: [q.removeprefix("asya-default-") for q in use.queues] for use in uses}
    assert list(queues) == ["rabbitmq", "sqs", "nats"]
    assert queues == {"rabbitmq": ["b", "d", "x-sink", "x-sump"], "sqs": ["a"], "nats": ["c"]}
    places = [use.address and use.address.where for use in uses]
    assert places == ["r:1", "r", None]


def test_an_actor_without_an_address_of_its_broker_is_refused(actors: Actors) -> None:
    found = actors(a="sqs", b="pubsub", c="nats", d=None)
    with pytest.raises(UsageError) as caught:
        check_addresses(found, Settings(sqs_url="sqs://r"))
    assert caught.value.code == Code.ADDRESS_MISSING
    assert str(caught.value).startswith("b.yaml:1: actor b: pubsub has no address; set pubsubUrl")
    check_addresses(found, Settings(sqs_url="sqs://r", pubsub_url="pubsub://p"))


def test_people_are_told_the_brokers_where_there_are_others(actors: Actors) -> None:
    found = actors(a="nats", b=None)
    assert transports(found, Settings()).shown() == []
    rabbit = Settings(transport="rabbitmq", transport_url=RABBIT)
    assert transports(found, rabbit).shown() == ["RabbitMQ at r:1", "NATS (started here)"]


async def test_with_one_broker_nothing_stands_between(
    actors: Actors, opened: dict[str, Away]
) -> None:
    settings = Settings(transport="rabbitmq", transport_url=RABBIT)
    mine = transports(actors(a=None, b="rabbitmq"), settings)
    async with contextlib.AsyncExitStack() as stack:
        await mine.start(stack)
    assert mine.inner is opened["rabbitmq"]
    assert mine.others == {}


async def test_queues_go_to_their_brokers_and_sizes_to_the_smallest(
    actors: Actors, opened: dict[str, Away]
) -> None:
    settings = Settings(transport="rabbitmq", transport_url=RABBIT, sqs_url="sqs://r")
    mine = transports(actors(a="sqs", b=None), settings)
    async with contextlib.AsyncExitStack() as stack:
        await mine.start(stack)
        assert isinstance(mine.inner, MixedTransport)
        await mine.inner.connect()
        await mine.ensure_queues()

    assert await opened["sqs"].queues() == ["asya-default-a"]
    ends = ["asya-default-x-sink", "asya-default-x-sump"]
    assert await opened["rabbitmq"].queues() == ["asya-default-b", *ends]
    assert mine.message_max_bytes == 1000
    assert mine.others == {"sqs": opened["sqs"]}


async def test_a_broker_that_is_away_is_a_problem_of_the_mesh(
    actors: Actors, opened: dict[str, Away]
) -> None:
    settings = Settings(transport="rabbitmq", transport_url=RABBIT, sqs_url="sqs://r")
    mine = transports(actors(a="sqs", b=None), settings)
    async with contextlib.AsyncExitStack() as stack:
        await mine.start(stack)
    assert mine.problem() is None
    opened["sqs"].told = "no way to SQS at r"
    assert mine.problem() == "no way to SQS at r  [ASYA-4002]"


async def test_queues_that_are_left_at_our_own_server_are_told_or_removed(
    actors: Actors, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Notice] = []
    found = actors(stays=None, moved="sqs")
    settings = Settings(sqs_url="sqs://r")
    mine = LocalTransports(found, settings, Path("data"), tell=told.append, clock=SystemClock())
    server = MemoryTransport("default")
    monkeypatch.setattr(mine, "_embedded", server)
    await server.connect()
    for name in ("stays", "moved", "gone", "empty", "x-sump"):
        await server.ensure(f"asya-default-{name}")
        if name != "empty":
            await server.publish(f"asya-default-{name}", b"")

    await mine.inspect_foreign_queues({"stays": "nats", "moved": "sqs"})

    assert told == [QueueLeft("gone", 1, None), QueueLeft("moved", 1, "Amazon SQS")]
    assert "asya-default-empty" not in await server.queues()
