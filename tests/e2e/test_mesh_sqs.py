"""A whole mesh on SQS: outages and deaths under load lose nothing and leave nothing behind.

On moto's server, which forgets when it ends: here an outage is a server that stands still.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.moto import CREDENTIALS, MotoServer

from asya.addresses import parse_address
from asya.errors import TransportUnavailable
from asya.transports.sqs.transport import SqsTransport

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

HANDLERS = """
import os, time

JOURNAL = os.path.join(os.path.dirname(__file__), "journal")

def first(payload):
    time.sleep(0.02)
    return payload

def second(payload):
    name = yield "GET", ".id"
    attempt = yield "GET", ".status.attempt"
    if attempt <= payload.get("fail", 0):
        raise ConnectionError("not yet")
    with open(JOURNAL, "a") as journal:
        journal.write(name + "\\n")
    yield payload
"""
ROUTE = ["first", "second"]
POLICIES = {
    "policies": {
        "default": {"maxAttempts": 4, "backoff": "constant", "initialDelay": "1s", "jitter": False}
    }
}
PATIENCE_S = 120


@pytest.fixture(scope="module")
def moto_process() -> Iterator[MotoServer]:
    if (why := MotoServer.missing()) is not None:
        assert "CI" not in os.environ, why
        pytest.skip(why)
    with MotoServer() as server:
        yield server


@pytest.fixture
def moto(moto_process: MotoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[MotoServer]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    moto_process.reset()
    yield moto_process
    moto_process.resume()


@pytest.fixture
def project(mesh: Any, moto: MotoServer) -> Any:
    mesh.code(HANDLERS)
    for name in ROUTE:
        mesh.actor(name, f"handlers.{name}", resiliency=POLICIES, scaling={"maxReplicaCount": 1})
    return mesh


def up(mesh: Any, moto: MotoServer, options: str = "") -> None:
    # The lease is long beside the moments for which moto's server, in Python, answers nobody.
    mesh.up("--transport", f"{moto.address}&lease=8s{options}")


def done(mesh: Any) -> Counter[str]:
    return Counter((mesh.folder / "journal").read_text().split())


def left(moto: MotoServer, options: str = "") -> dict[str, int]:
    """How many messages each queue holds that holds any."""

    async def count() -> dict[str, int]:
        transport = SqsTransport(parse_address(moto.address + options), "default")
        await transport.connect()
        try:
            depths = {queue: await transport.depth(queue) for queue in await transport.queues()}
        finally:
            await transport.close()
        totals = {queue: d.ready + d.in_flight + d.delayed for queue, d in depths.items()}
        return {queue: total for queue, total in totals.items() if total}

    return asyncio.run(count())


def answers(moto: MotoServer) -> bool:
    """Whether moto's server answers: it is slow while it works off polls whose clients are dead."""
    try:
        left(moto)
    except TransportUnavailable:
        return False
    return True


def outage_lines(mesh: Any) -> list[str]:
    log = mesh.log("x-mesh")
    return [
        line for line in log.splitlines() if "connection to SQS" in line or "connected to" in line
    ]


def test_an_outage_under_load_is_two_lines_and_no_loss(
    project: Any, moto: MotoServer, wait_until: Any
) -> None:
    up(project, moto)
    ids = [f"e{number}" for number in range(24)]
    sending = project.sending(ROUTE, ids, {"fail": 1})
    wait_until(lambda: project.states()["succeeded"] >= 3, PATIENCE_S, project.said)
    # when SQS stands still until everybody has noticed
    moto.pause()
    wait_until(lambda: outage_lines(project), PATIENCE_S, project.said)
    moto.resume()
    sending.result(PATIENCE_S)
    # then all ended, each was tried twice, and nothing is left at SQS
    assert project.all_ended(len(ids), PATIENCE_S) == {"succeeded": len(ids)}
    assert set(done(project)) == set(ids)
    wait_until(lambda: left(moto) == {}, PATIENCE_S, lambda: str(left(moto)))
    assert len(outage_lines(project)) == 2, project.log("x-mesh")
    lost, back = outage_lines(project)
    assert "lost the connection to SQS in eu-west-1 at 127.0.0.1" in lost
    assert "connected to SQS in eu-west-1 at 127.0.0.1" in back
    assert project.stop() == 0


@pytest.mark.parametrize("options", ["", "&fifo=true"], ids=["standard", "fifo"])
def test_a_kill_of_the_mesh_loses_nothing(
    project: Any, moto: MotoServer, wait_until: Any, options: str
) -> None:
    up(project, moto, options)
    ids = [f"e{number}" for number in range(16)]
    sending = project.sending(ROUTE, ids, {"fail": 1})
    for ended in (3, 8):
        wait_until(
            lambda least=ended: project.states()["succeeded"] >= least, PATIENCE_S, project.said
        )
        project.kill()
        wait_until(lambda: answers(moto), PATIENCE_S, moto.address.__str__)
        up(project, moto, options)
    sending.result(PATIENCE_S)
    assert project.all_ended(len(ids), PATIENCE_S) == {"succeeded": len(ids)}
    assert set(done(project)) == set(ids)
    wait_until(lambda: left(moto, options) == {}, PATIENCE_S, lambda: str(left(moto, options)))
    assert project.stop() == 0
