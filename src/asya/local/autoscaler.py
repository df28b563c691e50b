"""Brings the replicas of every actor to the number that `scaling` asks for.

One task for the whole mesh. It sleeps until a sidecar reports a change or an inspection is due. An
actor at zero with nothing waiting is never inspected, so an idle mesh costs nothing. The broker is
asked for an actor's depth only while messages wait or are worked on, at most every `POLL_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Sequence
from functools import partial
from typing import Final

from asya.errors import TransportError
from asya.local.actor import ScaledActor
from asya.local.replicas import ReplicaSet
from asya.scaling import desired, expendable, needed, needed_unseen
from asya.sidecar.snapshot import SidecarSnapshot
from asya.transports.base import Transport

log = logging.getLogger(__name__)

POLL_S: Final = 0.25
"""Time between two inspections of an actor that has work."""

IDLE_S: Final = 0.5
"""Time between two inspections of an actor whose replicas have nothing to do."""

DEPTH_EVERY_MOST_S: Final = 5.0
"""Upper bound on the age that a broker's depth may have; asking more often may cost money."""

BROKER_GONE_S: Final = 1.0
"""Time to the next inspection when the broker did not answer."""

STARTING_MAX: Final = max(2, os.cpu_count() or 1)
"""Replicas of the whole mesh that start at a time, not counting each actor's first one. More of them
would only share the processors, and all would be ready later."""


class Autoscaler:
    """The task; `start` it once the sidecars run."""

    def __init__(self, transport: Transport, actors: Sequence[ScaledActor]) -> None:
        self._transport = transport
        self._actors = list(actors)
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._wake_s = float("inf")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; actors with a minimum get their replicas at once."""
        for actor in self._actors:
            actor.sidecar.on_change = actor.replicas.on_change = partial(self.wake, actor)
            self.wake(actor)
        self._task = self._loop.create_task(self._run())

    async def stop(self) -> None:
        """Stop starting and ending replicas."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def wake(self, actor: ScaledActor) -> None:
        """Something changed at an actor: inspect it soon. Called for every call that ends."""
        if actor.replicas.plan.hellos_awaited:
            for replica in actor.sidecar.snapshot().replicas:
                actor.replicas.ready(replica.pid)
        at_s = actor.inspected_s + POLL_S if actor.replicas.plan.current else self._loop.time()
        self._plan(actor, at_s)

    def _plan(self, actor: ScaledActor, at_s: float) -> None:
        if actor.due_s is not None and actor.due_s <= at_s:
            return
        actor.due_s = at_s
        if at_s < self._wake_s:
            self._woken.set()

    async def _run(self) -> None:
        while True:
            now_s = self._loop.time()
            due = [each for each in self._actors if each.due_s is not None and each.due_s <= now_s]
            for actor in due:
                actor.due_s = None
                actor.inspected_s = now_s
            if due:
                await asyncio.gather(*(self._inspect(each) for each in due))
            self._woken.clear()
            self._wake_s = min(
                (each.due_s for each in self._actors if each.due_s is not None),
                default=float("inf"),
            )
            left_s = self._wake_s - self._loop.time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if left_s == float("inf") else max(0.0, left_s)):
                    await self._woken.wait()

    async def _inspect(self, actor: ScaledActor) -> None:
        try:
            next_s = await self._scale(actor)
        except TransportError:
            next_s = self._loop.time() + BROKER_GONE_S
        except Exception:
            log.exception("autoscaler: %s", actor.plan.name)
            next_s = self._loop.time() + BROKER_GONE_S
        if next_s is not None:
            self._plan(actor, next_s)

    async def _scale(self, actor: ScaledActor) -> float | None:
        """Inspect one actor; gives the time of the next inspection, or None if nothing can change."""
        replicas, bounds = actor.replicas, actor.plan.bounds
        seen = actor.sidecar.snapshot()
        load = seen.waiting + seen.in_flight
        if load and not replicas.plan.current and bounds.maximum:
            # The first message needs a replica whatever the broker says, so do not wait for it.
            replicas.start(1)
        if load:
            need = await self._needed(actor, seen, load)
        else:
            need = needed(bounds, ready=0, in_flight=0)
        now_s = self._loop.time()
        peak = actor.peak.note(now_s, need)
        target = desired(need, peak=peak, current=replicas.plan.current)
        if target > replicas.plan.current:
            self._start(replicas, target - replicas.plan.current)
        elif target < replicas.plan.current:
            self._end(actor, replicas.plan.current - target)
        if target > replicas.plan.current:
            return max(now_s + POLL_S, replicas.plan.not_before_s)
        if not replicas.plan.current and not load:
            return None
        busy = load or target < replicas.plan.current
        fall_s = actor.peak.next_fall_s or float("inf")
        return min(now_s + (POLL_S if busy else IDLE_S), max(now_s, fall_s))

    async def _needed(self, actor: ScaledActor, seen: SidecarSnapshot, load: int) -> int:
        """The replicas that an actor with work needs, as far as its broker tells what waits."""
        queue = actor.plan.queue
        told = self._transport.capabilities_of(queue)
        now_s = self._loop.time()
        depth = actor.depth
        if depth is None or now_s - actor.asked_s >= min(told.depth_age_s, DEPTH_EVERY_MOST_S):
            depth = actor.depth = await self._transport.depth(queue)
            actor.asked_s = now_s
        # The broker's count may be older than what it has just handed out to us.
        in_flight = max(depth.in_flight, load)
        need = needed(actor.plan.bounds, ready=depth.ready, in_flight=in_flight)
        if told.tells_load:
            return need
        busy = sum(1 for replica in seen.replicas if replica.state == "busy")
        current = actor.replicas.plan.current
        unseen = needed_unseen(actor.plan.bounds, busy=busy, current=current, full=seen.full)
        return max(need, unseen)

    def _start(self, replicas: ReplicaSet, missing: int) -> None:
        starting = sum(each.replicas.plan.starting_count for each in self._actors)
        room = max(STARTING_MAX - starting, 0 if replicas.plan.current else 1)
        if room:
            replicas.start(min(missing, room))

    def _end(self, actor: ScaledActor, surplus: int) -> None:
        candidates = actor.candidates()
        starting = {each.pid for each in candidates if each.state == "starting"}
        for pid in expendable(candidates, surplus):
            if pid in starting:
                actor.replicas.stop_starting(pid)
            elif actor.sidecar.retire(pid):
                actor.replicas.leave(pid)
