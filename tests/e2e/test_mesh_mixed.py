"""One mesh on several brokers: actors hand over across them, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.moto import CREDENTIALS, MotoServer
from tests.support.pubsub import PubSubFake
from tests.support.rabbitmq import RabbitServer, find_programs

from asya.addresses import parse_address
from asya.transports.opening import open_transport

pytestmark = pytest.mark.slow

HANDLERS = """
import os, time

JOURNAL = os.path.join(os.path.dirname(__file__), "journal")

def first(payload):
    time.sleep(payload.get("sleep", 0))
    return payload | {"first": True}

def second(payload):
    name = yield "GET", ".id"
    attempt = yield "GET", ".status.attempt"
    if attempt <= payload.get("fail", 0):
        raise ConnectionError("not yet")
    time.sleep(payload.get("sleep", 0))
    with open(JOURNAL, "a") as journal:
        journal.write(name + "\\n")
    yield payload | {"second": attempt}

def third(payload):
    attempt = yield "GET", ".status.attempt"
    if attempt <= payload.get("fail", 0):
        raise ConnectionError("not yet")
    yield payload | {"third": attempt}
"""
ROUTE = ["first", "second", "third"]
POLICIES = {
    "policies": {
        "default": {
            "maxAttempts": 4,
            "backoff": "constant",
            "initialDelay": "700ms",
            "jitter": False,
        }
    }
}


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    if find_programs() is None:
        assert "CI" not in os.environ, "no rabbitmq-server; meshes on it must be tested in CI"
        pytest.skip("there is no rabbitmq-server on this machine")
    server = RabbitServer(tmp_path_factory.mktemp("rabbitmq"))
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    if reason := MotoServer.missing():
        assert "CI" not in os.environ, reason
        pytest.skip(reason)
    server = MotoServer()
    server.start()
    yield server
    server.stop()


def project(mesh: Any, *transports: str | None) -> Any:
    mesh.code(HANDLERS)
    for name, transport in zip(ROUTE, transports, strict=True):
        where = {} if transport is None else {"transport": transport}
        mesh.actor(
            name,
            f"handlers.{name}",
            resiliency=POLICIES,
            scaling={"maxReplicaCount": 2, "queueLength": 50},
            **where,
        )
    return mesh


def done(mesh: Any) -> Counter[str]:
    return Counter((mesh.folder / "journal").read_text().split())


def test_envelopes_cross_brokers_with_their_retries(mesh: Any, rabbit: RabbitServer) -> None:
    project(mesh, None, "rabbitmq", "nats")
    namespace = "crossing"
    mesh.environ = {"ASYA_RABBITMQ_URL": rabbit.url(), "ASYA_NAMESPACE": namespace}
    mesh.up()

    ids = [mesh.send(ROUTE, {"n": number, "fail": number % 3}) for number in range(12)]

    for number, each in enumerate(ids):
        end = mesh.ended(each, 60)
        tries = number % 3 + 1
        assert end["status"] == "succeeded"
        assert end["result"]["second"] == end["result"]["third"] == tries
    at = {name: mesh.status(name)["transport"] for name in ROUTE}
    assert at == {"first": "nats", "second": "rabbitmq", "third": "nats"}
    assert rabbit.password not in mesh.said()
    assert mesh.stop() == 0


async def put(url: str, namespace: str, queue: str, body: bytes) -> None:
    transport = open_transport(parse_address(url), namespace, lease_s=10)
    await transport.connect()
    await transport.publish(queue, body)
    await transport.close()


def test_what_the_other_broker_gave_up_on_is_a_dead_letter(
    mesh: Any, rabbit: RabbitServer, wait_until: Any
) -> None:
    project(mesh, None, "rabbitmq", None)
    mesh.environ = {"ASYA_RABBITMQ_URL": rabbit.url(), "ASYA_NAMESPACE": "given-up"}
    mesh.up()

    asyncio.run(put(rabbit.url(), "given-up", "asya-given-up-x-sump", b"no envelope"))

    def letters() -> Any:
        return mesh.get("/v1/dead?group=none")[1]["letters"]

    wait_until(letters, 30, mesh.said)
    assert [each["reason"] for each in letters()] == ["ParseError"]
    assert mesh.stop() == 0


def test_a_kill_between_two_brokers_loses_nothing(
    mesh: Any, rabbit: RabbitServer, wait_until: Any
) -> None:
    project(mesh, "rabbitmq", "nats", "rabbitmq")
    mesh.environ = {"ASYA_RABBITMQ_URL": rabbit.url(), "ASYA_NAMESPACE": "killed"}
    mesh.up()
    payload = {"sleep": 0.02, "fail": 1}
    ids = [f"e{number}" for number in range(60)]
    sending = mesh.sending(ROUTE, ids, payload)
    for ended in (5, 20):
        wait_until(lambda least=ended: mesh.states()["succeeded"] >= least, 60, mesh.said)
        mesh.kill()
        mesh.up()
    sending.result(60)

    assert mesh.all_ended(len(ids), 120) == {"succeeded": len(ids)}
    assert set(done(mesh)) == set(ids)
    assert mesh.stop() == 0


def test_a_hand_over_waits_while_the_next_broker_is_away(
    mesh: Any, rabbit: RabbitServer, wait_until: Any
) -> None:
    project(mesh, None, "rabbitmq", None)
    mesh.environ = {"ASYA_RABBITMQ_URL": rabbit.url(), "ASYA_NAMESPACE": "away"}
    mesh.up()
    ids = [mesh.send(ROUTE, {"sleep": 0.1}) for _ in range(30)]
    wait_until(lambda: mesh.status("first")["replicas"], 60, mesh.said)

    rabbit.kill()
    # the gateway takes nothing more; what it has taken waits
    wait_until(lambda: mesh.get("/readyz", ok=(200, 503))[0] == 503, 60, mesh.said)
    status, refused = mesh.ask("POST", "/v1/envelopes", {"route": ROUTE, "payload": {}})
    assert (status, "RabbitMQ" in str(refused)) == (503, True)
    rabbit.start()

    ends = [mesh.ended(each, 120) for each in ids]
    assert {each["status"] for each in ends} == {"succeeded"}
    assert set(done(mesh)) >= set(ids)
    assert mesh.stop() == 0


def test_everything_on_rabbitmq_starts_no_nats(mesh: Any, rabbit: RabbitServer) -> None:
    project(mesh, None, None, None)
    mesh.environ = {"ASYA_NAMESPACE": "alone"}
    mesh.up("--transport", rabbit.url())

    end = mesh.call(ROUTE, {"fail": 1})

    assert (end["status"], end["result"]["third"]) == ("succeeded", 2)
    assert not (mesh.data / "nats").exists()
    assert mesh.stop() == 0


def test_sqs_and_nats_share_a_mesh(mesh: Any, moto: MotoServer) -> None:
    project(mesh, "sqs", None, "sqs")
    mesh.environ = {"ASYA_SQS_URL": moto.address, "ASYA_NAMESPACE": "shared", **CREDENTIALS}
    mesh.up()

    ends = [mesh.ended(mesh.send(ROUTE, {"fail": number % 2}), 60) for number in range(4)]

    assert [each["status"] for each in ends] == ["succeeded"] * 4
    assert [each["result"]["third"] for each in ends] == [1, 2, 1, 2]
    at = {name: mesh.status(name)["transport"] for name in ROUTE}
    assert at == {"first": "sqs", "second": "nats", "third": "sqs"}
    assert mesh.stop() == 0


def test_retries_that_pubsub_cannot_delay_survive_a_kill(
    mesh: Any, wait_until: Any, tmp_path: Path
) -> None:
    if reason := PubSubFake.missing():
        assert "CI" not in os.environ, reason
        pytest.skip(reason)
    project(mesh, "pubsub", None, "pubsub")
    slow = {**POLICIES["policies"]["default"], "initialDelay": "8s"}
    mesh.actor(
        "third", "handlers.third", transport="pubsub", resiliency={"policies": {"default": slow}}
    )
    with PubSubFake(tmp_path / "pubsub.db") as server:
        mesh.environ = {"ASYA_PUBSUB_URL": server.address("asya-test").url}
        mesh.up()
        ids = [mesh.send(["first", "third"], {"fail": 1}) for _ in range(10)]
        wait_until(lambda: mesh.status("third")["queue"]["delayed"] > 0, 60, mesh.said)
        mesh.kill()
        server.kill()
        server.start()
        mesh.up()

        ends = [mesh.ended(each, 90) for each in ids]
        assert [(each["status"], each["result"]["third"]) for each in ends] == [
            ("succeeded", 2)
        ] * 10
        assert mesh.status("third")["queue"]["delayed"] == 0
        assert mesh.stop() == 0


def test_an_actor_whose_broker_has_no_address_starts_nothing(mesh: Any) -> None:
    project(mesh, None, "rabbitmq", None)
    process = mesh.popen()
    assert process.wait(60) == 2
    said = mesh.said()
    assert "ASYA-1204" in said
    assert "second.yaml:1: actor second: rabbitmq has no address; set rabbitmqUrl" in said
    assert not (mesh.data / "nats").exists()
