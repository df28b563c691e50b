"""A mesh in a box: real sidecars, real rules, real frames and envelopes, in one event loop.

The broker is in memory and time is virtual, so a test of retries with minutes between them takes
milliseconds. Handlers are plain functions, run by the real driver inside the loop (a handler that
calls `asyncio.run` cannot run here; `asya up` runs it).

    def test_retry():
        async def scene(box):
            end = await box.run(["fetch", "parse"], {"url": "..."})
            assert_route(end, ["fetch", "parse"])
            assert end.value == {"words": 3}

        play({"fetch": fetch, "parse": parse}, scene)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import msgspec

from asya import crashpoints
from asya.blobs.claims import Claims, read_reference
from asya.blobs.memory import MemoryBlobs
from asya.crew import Sink, Sump
from asya.envelope import (
    BLOB_HEADER,
    SINK,
    SUMP,
    ErrorInfo,
    encode,
    new_envelope,
    queue_name,
    raw_json,
)
from asya.errors import UnknownActor, nearest
from asya.events import Finished, Flown, HopStarted
from asya.resiliency import Resiliency
from asya.runtime.driver import Call, drive_async
from asya.runtime.loading import Handler
from asya.sidecar import Cancels, EndActor, Sidecar, SidecarConfig
from asya.testing.ledger import MemoryLedger
from asya.testing.loopback import LoopbackCall, LoopbackRuntime
from asya.testing.virtual_time import VirtualClock, run_virtual
from asya.transports.memory.transport import MemoryBroker, MemoryTransport

NAMESPACE: Final = "box"
BLOB_THRESHOLD_BYTES: Final = 16 * 1024
"""Of a box; low, so that tests of big payloads need none that is big."""


class SimulatedCrash(BaseException):
    """The process dies here, says a test."""


@dataclass(frozen=True)
class End:
    """How an envelope ended.

    Attributes:
        phase: `succeeded`, `failed` or `canceled`.
        value: The decoded result; None where there is none.
        route: The actors that it passed, in order.
    """

    id: str
    phase: str
    value: Any
    reason: str | None
    error: ErrorInfo | None
    route: list[str]
    attempt: int
    headers: dict[str, Any]


class MeshBox:
    """A running mesh; made by `play`.

    Attributes:
        ledger: Every event, end and dead letter so far.
        clock: The virtual wall clock.
        blobs: Payloads over `BLOB_THRESHOLD_BYTES`.
    """

    def __init__(
        self,
        actors: Mapping[str, Callable[[Any], Any]],
        *,
        resiliency: Resiliency | Mapping[str, Resiliency] | None = None,
        concurrency: int = 1,
    ) -> None:
        self.clock = VirtualClock()
        self.blobs = MemoryBlobs(self.clock)
        self._claims = Claims(self.blobs, BLOB_THRESHOLD_BYTES)
        self.ledger = MemoryLedger()
        self._handlers = {
            name: Handler(name, function, getattr(function, "__self__", None))
            for name, function in actors.items()
        }
        self._resiliency = resiliency
        self._concurrency = concurrency
        self._broker = MemoryBroker()
        self._cancels = Cancels()
        self._transport: MemoryTransport
        self._sidecars: dict[str, Sidecar] = {}
        self._replicas: dict[str, LoopbackRuntime] = {}

    # -- what a scene does ------------------------------------------------------------------------

    async def run(self, route: Iterable[str], payload: Any, **options: Any) -> End:
        """Send an envelope and wait for its end. Options as for `send`."""
        return await self.end_of(await self.send(route, payload, **options))

    async def send(
        self,
        route: Iterable[str],
        payload: Any,
        *,
        id: str | None = None,
        headers: dict[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> str:
        """Send an envelope; returns its id.

        Raises:
            UnknownActor: The box has no such actor.
        """
        actors = list(route)
        for name in actors:
            if name not in self._handlers:
                close = nearest(name, self._handlers)
                hint = f"; did you mean {close!r}?" if close else ""
                raise UnknownActor(f"the box has no actor {name!r}{hint}")
        now = self.clock.now()
        deadline = None if timeout_s is None else now + timedelta(seconds=timeout_s)
        envelope = new_envelope(
            actors, raw_json(payload), now=now, id=id, headers=headers, deadline=deadline
        )
        await self._claims.check_in(envelope)
        queue = queue_name(NAMESPACE, actors[0])
        await self._transport.publish(queue, encode(envelope), dedup_id=f"{envelope.id}:0")
        return envelope.id

    async def end_of(self, envelope_id: str) -> End:
        """Wait for the end of an envelope, a fan-out's child for instance."""
        finished = await self.ledger.end_of(envelope_id)
        result: bytes | None = finished.result
        if result is not None and BLOB_HEADER in finished.headers:
            result = await self.blobs.get(read_reference(finished.headers[BLOB_HEADER]))
        return _end(finished, result)

    def cancel(self, envelope_id: str) -> None:
        """Cancel an envelope, and its children where it is a root."""
        self._cancels.add([envelope_id])

    def flown(self, envelope_id: str) -> list[Any]:
        """What its handlers streamed with FLY, in order."""
        return [
            msgspec.json.decode(event.data)
            for event in self.ledger.events
            if isinstance(event, Flown) and event.id == envelope_id
        ]

    def runs(self, actor: str) -> int:
        """How often the actor's handler was begun."""
        return sum(
            isinstance(event, HopStarted) and event.actor == actor for event in self.ledger.events
        )

    def kill(self, actor: str) -> None:
        """Kill the actor's replica in the middle of what it does; a new one starts."""
        self._replicas[actor].die()
        self._dial(actor)

    def crash_at(self, point: str, *, after: int = 1) -> None:
        """Let the mesh's process die at a named point (`asya.crashpoints.POINTS`), and restart it.

        What it held comes back from the broker, as it would after a kill -9.
        """

        def die() -> None:
            crashpoints.disarm()
            asyncio.get_running_loop().call_soon(self._restart)
            raise SimulatedCrash(point)

        crashpoints.arm(point, die, after=after)

    # -- how it runs ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start every actor with one replica."""
        self._transport = MemoryTransport(NAMESPACE, broker=self._broker, clock=self.clock)
        await self._transport.connect()
        for name in self._handlers:
            await self._transport.ensure(queue_name(NAMESPACE, name))
        sump = Sump(self.ledger)
        ends: dict[str, EndActor] = {SINK: Sink(self.ledger, sump), SUMP: sump}
        for name in self._handlers:
            config = SidecarConfig(
                name, NAMESPACE, self._policy_of(name), concurrency=self._concurrency
            )
            self._sidecars[name] = Sidecar(
                config,
                self._transport,
                listener=self.ledger,
                ends=ends,
                cancels=self._cancels,
                clock=self.clock,
                kill=self._kill_pid,
                claims=self._claims,
            )
            await self._sidecars[name].start()
            self._dial(name)

    async def stop(self) -> None:
        """Drain and end."""
        crashpoints.disarm()
        for sidecar in self._sidecars.values():
            await sidecar.drain(60)
        await self._transport.close()

    def _policy_of(self, actor: str) -> Resiliency:
        if isinstance(self._resiliency, Mapping):
            return self._resiliency.get(actor, Resiliency())
        return self._resiliency or Resiliency()

    def _dial(self, actor: str) -> None:
        handler = self._handlers[actor]

        async def handle(call: LoopbackCall) -> None:
            await drive_async(handler, Call(call.number, call.envelope, call.body, _Port(call)))

        pid = 1 + list(self._handlers).index(actor)
        runtime = LoopbackRuntime(
            handle, pid=pid, concurrency=self._concurrency, cooperative=handler.is_async
        )
        self._replicas[actor] = runtime.dial(self._sidecars[actor])

    def _kill_pid(self, pid: int) -> None:
        actor = list(self._handlers)[pid - 1]
        asyncio.get_running_loop().call_soon(self.kill, actor)

    def _restart(self) -> None:
        for sidecar in self._sidecars.values():
            sidecar.abandon()
        self._broker.client_died(self._transport)
        self._restarting = asyncio.ensure_future(self.start())


class _Port:
    """Hands a call's output to the sidecar. Implements `asya.runtime.driver.Port`."""

    def __init__(self, call: LoopbackCall) -> None:
        self._call = call

    def frame(self, id: int, changes: dict[str, Any], payload: bytes) -> None:
        self._call.frame_raw(payload, **changes)

    def fly(self, id: int, event: bytes) -> None:
        self._call.fly_raw(event)

    def result(self, id: int, changes: dict[str, Any], payload: bytes) -> None:
        self._call.frame_raw(payload, **changes)
        self._call.done(**changes)

    def done(self, id: int, changes: dict[str, Any], frames: int) -> None:
        self._call.done(**changes)

    def error(self, id: int, error: dict[str, Any]) -> None:
        self._call.error(error)

    def canceled(self, id: int) -> None:
        self._call.canceled()

    async def drained(self) -> None:
        # one step of the loop: a generator of a million frames must let the sends go on
        await asyncio.sleep(0)

    def check_process(self, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError | SimulatedCrash):
            raise error


Scene = Callable[[MeshBox], Coroutine[Any, Any, None]]


def play(
    actors: Mapping[str, Callable[[Any], Any]],
    scene: Scene,
    *,
    resiliency: Resiliency | Mapping[str, Resiliency] | None = None,
    concurrency: int = 1,
) -> None:
    """Run a scene in a box with these actors, on virtual time.

    Args:
        actors: Handlers by the names of their actors.
        scene: Sends envelopes and looks at their ends.
        resiliency: Of all actors, or by actor.
        concurrency: Envelopes that each replica works on at a time.
    """

    async def whole() -> None:
        box = MeshBox(actors, resiliency=resiliency, concurrency=concurrency)
        await box.start()
        try:
            await scene(box)
        finally:
            await box.stop()

    run_virtual(whole())


def assert_route(end: End, actors: list[str]) -> None:
    """Fail unless the envelope passed exactly these actors, in this order."""
    if end.route != actors:
        how = f"{end.phase}, {end.reason or 'no reason'}: {end.error.message if end.error else ''}"
        raise AssertionError(f"the envelope passed {end.route}, not {actors} ({how})")


def _end(finished: Finished, result: bytes | None) -> End:
    return End(
        finished.id,
        finished.phase,
        None if result is None else msgspec.json.decode(result),
        finished.reason,
        finished.error,
        finished.route.prev,
        finished.attempt,
        {name: msgspec.json.decode(value) for name, value in finished.headers.items()},
    )
