"""Numbers that are gathered at a scrape: sidecars' totals, replicas, and the depth of every queue.

This is a `telemetry.metrics.Source`. It asks the broker for all queues at once, and waits `DEPTH_S`
at most. A depth that did not come in time is left out, because 0 would be wrong.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from asya.envelope import SINK, SUMP, queue_name
from asya.errors import TransportError
from asya.local.actor import ScaledActor
from asya.telemetry import catalog
from asya.telemetry.metrics import Sample
from asya.transports.base import Depth, Transport

DEPTH_S: Final = 0.8
"""How long the broker may take to tell all depths. Scrapers give up after several seconds."""

REPLICA_STATES: Final = ("starting", "idle", "busy", "terminating")


class Gauges:
    """The source.

    Args:
        namespace: The mesh's namespace.
        transport: Connected before the first scrape.
        actors: The actors by name; filled while the mesh starts.
        problem: Why no envelope can be taken now, or None.
        dropped: Events that were dropped so far.
    """

    def __init__(
        self,
        namespace: str,
        transport: Transport,
        actors: Mapping[str, ScaledActor],
        *,
        problem: Callable[[], str | None],
        dropped: Callable[[], int],
    ) -> None:
        self._namespace = namespace
        self._transport = transport
        self._actors = actors
        self._problem = problem
        self._dropped = dropped

    async def __call__(self) -> list[Sample]:
        """All samples."""
        depths = await self._depths()
        return [
            Sample(catalog.READY, (), self._problem() is None),
            Sample(catalog.BROKER_UP, (), bool(depths)),
            Sample(catalog.DROPPED, (), self._dropped()),
            *_depth_samples(depths),
            *(
                sample
                for name, actor in list(self._actors.items())
                for sample in _actor_samples(name, actor)
            ),
        ]

    async def _depths(self) -> dict[str, Depth]:
        asked = {
            asyncio.create_task(
                self._transport.depth(queue_name(self._namespace, name)), name="asya-depth"
            ): name
            for name in (*self._actors, SINK, SUMP)
        }
        done, late = await asyncio.wait(asked, timeout=DEPTH_S)
        for task in late:
            task.cancel()
        found = {}
        for task in done:
            error = task.exception()
            if error is None:
                found[asked[task]] = task.result()
            elif not isinstance(error, TransportError):
                raise error
        return found


def _depth_samples(depths: Mapping[str, Depth]) -> Iterator[Sample]:
    for name, depth in depths.items():
        yield Sample(catalog.DEPTH, (name, "ready"), depth.ready)
        yield Sample(catalog.DEPTH, (name, "in_flight"), depth.in_flight)
        yield Sample(catalog.DEPTH, (name, "delayed"), depth.delayed)


def _actor_samples(name: str, actor: ScaledActor) -> Iterator[Sample]:
    seen = actor.sidecar.snapshot()
    outcomes = {
        "succeeded": seen.succeeded,
        "failed": seen.failed,
        "retried": seen.retried,
        "canceled": seen.canceled,
    }
    for outcome, count in outcomes.items():
        yield Sample(catalog.PROCESSED, (name, outcome), count)
    yield Sample(catalog.RECEIVED, (name,), seen.received)
    yield Sample(catalog.RETRIES, (name,), seen.retried)
    yield Sample(catalog.TIMEOUTS, (name,), seen.timeouts)
    yield Sample(catalog.LOST, (name,), seen.lost)
    yield Sample(catalog.IN_FLIGHT, (name,), seen.in_flight)
    yield Sample(catalog.WAITING, (name,), seen.waiting)
    yield Sample(catalog.BROKEN, (name,), actor.replicas.plan.problem is not None)
    states = Counter(replica.state for replica in seen.replicas)
    states["starting"] += actor.replicas.plan.starting_count
    for state in REPLICA_STATES:
        yield Sample(catalog.REPLICAS, (name, state), states[state])
