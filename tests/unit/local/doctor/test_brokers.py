"""Checks of the nats-server program and of brokers; real servers are in tests/integration."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from asya.codes import Code
from asya.errors import TransportUnavailable
from asya.local.doctor import brokers
from asya.transports.base import Finding, Inspection


@pytest.fixture
def program(project: Path) -> Any:
    """A program that says this of its version."""

    def made(says: str) -> str:
        path: Path = project / "nats-server"
        path.write_text(f"#!/bin/sh\necho '{says}'\n")
        path.chmod(0o755)
        return str(path)

    return made


def test_the_program_says_its_version(make: Any, seen: Any, program: Any) -> None:
    path = program("nats-server: v2.12.3")
    (found,) = seen(brokers.check_program, make(nats_server=path))
    assert (found.state, found.text) == ("ok", f"nats-server 2.12.3 ({path})")


@pytest.mark.parametrize(
    ("says", "code"),
    [("nats-server: v2.10.29", Code.BROKER_OUTDATED), ("hello", Code.BROKER_MISSING)],
)
def test_a_program_that_will_not_do(
    make: Any, seen: Any, program: Any, says: Any, code: Any
) -> None:
    (found,) = seen(brokers.check_program, make(nats_server=program(says)))
    assert (found.state, found.code) == ("fail", code)


def test_no_program(make: Any, seen: Any) -> None:
    (found,) = seen(brokers.check_program, make(nats_server="no-such-server"))
    assert (found.state, found.code) == ("fail", Code.BROKER_MISSING)


def test_with_a_broker_of_ones_own_no_program_is_needed(make: Any, seen: Any) -> None:
    setup = make(transport_url="nats://127.0.0.1:1")
    assert seen(brokers.check_program, setup)[0].state == "skip"


def test_without_one_there_is_no_broker_to_look_at(make: Any, seen: Any) -> None:
    assert seen(brokers.check_broker, make())[0].state == "skip"


def test_a_broker_that_is_not_there(make: Any, seen: Any) -> None:
    (found,) = seen(brokers.check_broker, make(transport_url="nats://127.0.0.1:1"))
    assert (found.state, found.code) == ("fail", Code.TRANSPORT_UNAVAILABLE)
    assert "no NATS server answers at 127.0.0.1:1" in found.text


class Told:
    """A transport that tells what it is given."""

    def __init__(self, found: Inspection | Exception) -> None:
        self.found = found
        self.asked: list[str] = []

    async def inspect(self, queues: Sequence[str]) -> Inspection:
        self.asked = list(queues)
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.fixture
def brokers_are(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts transports in the place of those of the addresses."""

    def put(**told: Told) -> None:
        monkeypatch.setattr(
            "asya.transports.opening.open_transport",
            lambda address, namespace, *, lease_s: told[address.transport],
        )

    return put


QUEUES = frozenset({"asya-default-x-sink", "asya-default-x-sump", "asya-default-double"})


def test_every_broker_in_use_is_looked_at(
    make: Any, seen: Any, project: Path, brokers_are: Any
) -> None:
    (project / "a.yaml").write_text(
        "apiVersion: asya.sh/v1alpha1\nkind: AsyncActor\nmetadata: {name: double}\n"
        "spec: {handler: handlers.double, transport: rabbitmq}\n"
    )
    nats = Told(Inspection("NATS 2 at n:1", QUEUES, skew_s=0.5))
    rabbit = Told(TransportUnavailable("nobody answers at r:5672"))
    brokers_are(nats=nats, rabbitmq=rabbit)
    setup = make(transport_url="nats://n:1", rabbitmq_url="amqp://u:p@r")

    moved, well, away = seen(brokers.check_broker, setup)

    assert nats.asked == ["asya-default-x-sink", "asya-default-x-sump"]
    assert rabbit.asked == ["asya-default-double"]
    assert (moved.state, moved.code) == ("warn", None)
    assert "asya-default-double belong to actors that are on another broker now" in moved.text
    assert (well.state, well.text) == ("ok", "NATS 2 at n:1: 3 queues, clock +0.50 s")
    assert (away.state, away.code) == ("fail", Code.TRANSPORT_UNAVAILABLE)
    assert away.text == "nobody answers at r:5672"


def test_what_a_broker_finds_is_a_line_each(
    make: Any, seen: Any, project: Path, brokers_are: Any
) -> None:
    brokers_are(
        rabbitmq=Told(
            Inspection(
                "RabbitMQ 3 at r:1",
                QUEUES,
                (
                    Finding("double has no delivery limit", queue="double", code=Code.TRANSPORT),
                    Finding("disk alarm; make room", fatal=True, code=Code.BROKER_DISK_FULL),
                ),
                skew_s=-9,
            )
        )
    )
    found = seen(brokers.check_broker, make(transport_url="amqp://r:1"))
    assert [(each.state, each.code) for each in found] == [
        ("fail", Code.CLOCK_WRONG),
        ("warn", Code.TRANSPORT),
        ("fail", Code.BROKER_DISK_FULL),
    ]
    assert found[2].text == "RabbitMQ 3 at r:1: disk alarm; make room"


def test_an_actor_whose_broker_has_no_address(make: Any, seen: Any, project: Path) -> None:
    (project / "a.yaml").write_text(
        "apiVersion: asya.sh/v1alpha1\nkind: AsyncActor\nmetadata: {name: double}\n"
        "spec: {handler: handlers.double, transport: sqs}\n"
    )
    own, missing = seen(brokers.check_broker, make())
    assert own.text == "`asya up` starts one of its own"
    assert (missing.state, missing.code) == ("fail", Code.ADDRESS_MISSING)
    assert "sqs has no address; set sqsUrl" in missing.text


def test_a_broker_that_does_not_come_to_an_end(
    make: Any, seen: Any, brokers_are: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(Told):
        async def inspect(self, queues: Sequence[str]) -> Inspection:
            await asyncio.Event().wait()
            raise AssertionError

    monkeypatch.setattr(brokers, "BROKERS_S", 1.05)
    brokers_are(sqs=Silent(Inspection("")))
    (found,) = seen(brokers.check_broker, make(transport_url="sqs://eu-west-1"))
    assert (found.state, found.code) == ("fail", Code.TRANSPORT_UNAVAILABLE)
    assert found.text.startswith("Amazon SQS at eu-west-1 gave no answer within")
