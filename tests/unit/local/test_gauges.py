from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from asya.errors import TransportUnavailable
from asya.local.gauges import DEPTH_S, Gauges
from asya.sidecar.snapshot import ReplicaSnapshot, SidecarSnapshot
from asya.telemetry import catalog
from asya.testing.virtual_time import run_virtual
from asya.transports.base import Depth

NOW = datetime(2026, 11, 23, tzinfo=UTC)


@dataclass
class Broker:
    """Tells depths; some queues fail, some never answer."""

    gone: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)

    async def depth(self, queue: str) -> Depth:
        actor = queue.removeprefix("asya-shop-")
        if actor in self.gone:
            raise TransportUnavailable("no broker")
        if actor in self.silent:
            await asyncio.Event().wait()
        return Depth(ready=3, in_flight=2, delayed=1)


class Sidecar:
    def snapshot(self) -> SidecarSnapshot:
        replicas = [
            ReplicaSnapshot(1, "busy", NOW, 2),
            ReplicaSnapshot(2, "busy", NOW, 1),
            ReplicaSnapshot(3, "idle", NOW, 0),
        ]
        return SidecarSnapshot(
            actor="a", waiting=4, in_flight=3, replicas=replicas, rate=0.0, last_error=None,
            received=20, succeeded=11, failed=2, retried=3, timeouts=1, lost=5,
            handler_p50_s=None, canceled=6,
        )  # fmt: skip


class Plan:
    problem: str | None = None
    starting_count = 2


@dataclass
class Replicas:
    plan: Plan = field(default_factory=Plan)


@dataclass
class Actor:
    sidecar: Any = field(default_factory=Sidecar)
    replicas: Any = field(default_factory=Replicas)


@pytest.fixture
def broker() -> Broker:
    return Broker()


def gathered(broker: Broker, actor: Actor, problem: str | None = None) -> dict[Any, float]:
    gauges = Gauges(
        "shop",
        broker,  # type: ignore[arg-type]  # all of a transport that is asked
        {"a": actor},  # type: ignore[dict-item]  # the same
        problem=lambda: problem,
        dropped=lambda: 7,
    )
    found: dict[Any, float] = {}

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        found.update({(name, *labels): value for name, labels, value in await gauges()})
        assert loop.time() - began_s <= DEPTH_S + 0.01

    run_virtual(scene())
    return found


def test_everything_is_told(broker: Broker) -> None:
    found = gathered(broker, Actor())
    assert {
        key: value for key, value in found.items() if key[0] != catalog.DEPTH
    } == {
        (catalog.READY,): 1, (catalog.BROKER_UP,): 1, (catalog.DROPPED,): 7,
        (catalog.PROCESSED, "a", "succeeded"): 11, (catalog.PROCESSED, "a", "failed"): 2,
        (catalog.PROCESSED, "a", "retried"): 3, (catalog.PROCESSED, "a", "canceled"): 6,
        (catalog.RECEIVED, "a"): 20, (catalog.RETRIES, "a"): 3, (catalog.TIMEOUTS, "a"): 1,
        (catalog.LOST, "a"): 5, (catalog.IN_FLIGHT, "a"): 3, (catalog.WAITING, "a"): 4,
        (catalog.BROKEN, "a"): 0, (catalog.REPLICAS, "a", "starting"): 2,
        (catalog.REPLICAS, "a", "idle"): 1, (catalog.REPLICAS, "a", "busy"): 2,
        (catalog.REPLICAS, "a", "terminating"): 0,
    }  # fmt: skip
    for queue in ("a", "x-sink", "x-sump"):
        for state, count in (("ready", 3), ("in_flight", 2), ("delayed", 1)):
            assert found[catalog.DEPTH, queue, state] == count


def test_a_depth_that_is_late_is_left_out_and_the_rest_is_there(broker: Broker) -> None:
    broker.silent = {"a"}
    broker.gone = {"x-sink"}
    found = gathered(broker, Actor())
    assert {key[1] for key in found if key[0] == catalog.DEPTH} == {"x-sump"}
    assert found[catalog.BROKER_UP,] == 1


def test_a_broker_that_is_gone_is_down_and_the_actors_are_told(broker: Broker) -> None:
    broker.gone = {"a", "x-sink", "x-sump"}
    actor = Actor()
    actor.replicas.plan.problem = "SyntaxError"
    found = gathered(broker, actor, problem="no broker")
    assert not [key for key in found if key[0] == catalog.DEPTH]
    assert (found[catalog.BROKER_UP,], found[catalog.READY,]) == (0, 0)
    assert found[catalog.BROKEN, "a"] == 1
    assert found[catalog.RECEIVED, "a"] == 20
