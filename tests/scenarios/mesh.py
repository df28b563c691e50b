"""Plays one scenario: real sidecars and crew on the memory broker, scripted runtimes, virtual time.

`check` plays a scenario and holds what happened against the file. Only the runtime's side of the
socket is scripted; frames are packed and parsed as ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

from msgspec import UNSET
from tests.scenarios.compare import differences
from tests.scenarios.recording import MESSAGES_MAX, NAMESPACE, Record, RecordedTransport
from tests.scenarios.scenario import Happening, Message, Scenario, Step

from asya.blobs.claims import Claims
from asya.blobs.memory import MemoryBlobs
from asya.crew import Sink, Sump
from asya.envelope import SINK, SUMP, encode, new_envelope, queue_name, raw_json
from asya.sidecar import Cancels, Sidecar, SidecarConfig
from asya.testing.ledger import MemoryLedger
from asya.testing.loopback import LoopbackCall, LoopbackRuntime
from asya.testing.virtual_time import VirtualClock, run_virtual
from asya.transports.memory.transport import MemoryBroker, MemoryTransport

BLOB_THRESHOLD_BYTES: Final = 16 * 1024
MRO: Final = ["Exception", "BaseException", "object"]


class Failed(AssertionError):
    """What happened is not what the file says."""


def check(scenario: Scenario, name: str) -> None:
    """Play a scenario.

    Raises:
        Failed: Something differs; the text says what, where in the file, and what happened.
    """
    mesh = Mesh(scenario)
    run_virtual(mesh.play())
    found = differences(scenario.then, mesh.record.everything(mesh.ledger)) + mesh.broken_promises
    if found:
        about = " ".join(scenario.about.split())
        raise Failed("\n".join([f"{name} (rule {scenario.rule}): {about}", *found]))


class Mesh:
    """The parts of one scenario.

    Attributes:
        record: What happened.
        broken_promises: What must hold in every scenario, and did not hold in this one.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.broken_promises: list[str] = []
        self.ledger = MemoryLedger()
        self._scenario = scenario
        self._given = scenario.given
        self._clock = VirtualClock()
        self.record = Record(self._clock)
        self._broker = MemoryBroker()
        self._blobs = MemoryBlobs(self._clock)
        self._cancels = Cancels()
        self._client = MemoryTransport(NAMESPACE, broker=self._broker, clock=self._clock)
        self._transport: RecordedTransport
        self._sidecars: dict[str, Sidecar] = {}
        self._replicas: dict[int, tuple[str, LoopbackRuntime]] = {}
        self._working_on: dict[int, list[str]] = {}
        self._begun: Counter[tuple[str, str]] = Counter()

    async def play(self) -> None:
        """Do what `given` and `when` say on the time line, and look at the mesh at its end."""
        errors = _Errors(self.broken_promises)
        logging.getLogger("asya").addHandler(errors)
        try:
            await self._client.connect()
            await self._start()
            messages = [_at(one.sent, self._send, one) for one in self._given.messages]
            happenings = [_at(one.at, self._happen, one) for one in self._scenario.when]
            tasks = [asyncio.create_task(one) for one in (*messages, *happenings)]
            try:
                await asyncio.wait_for(self.record.too_much.wait(), self._scenario.until)
                self.broken_promises.append(f"  it never ends: over {MESSAGES_MAX} messages")
            except TimeoutError:
                """It has had the time that the file gives it."""
            self.record.closed = True
            for task in tasks:
                if not task.done():
                    self.broken_promises.append(f"  not done at the end: {task.get_name()}")
                elif error := task.exception():
                    raise error
            await self._look()
        finally:
            logging.getLogger("asya").removeHandler(errors)

    async def _start(self) -> None:
        """A process of the mesh begins: one connection, a sidecar for each actor, its replicas."""
        limit = self._given.message_max_bytes
        self._transport = RecordedTransport(self.record, self._broker, limit)
        await self._transport.connect()
        for name in self._given.queues:
            await self._client.ensure(queue_name(NAMESPACE, name))
        sump = Sump(self.ledger)
        for name, actor in self._given.actors.items():
            config = SidecarConfig(
                name,
                NAMESPACE,
                actor.rules(name),
                concurrency=actor.concurrency,
                payload_max_bytes=actor.payload_max_bytes,
                neighbours=frozenset(actor.neighbours),
            )
            self._sidecars[name] = sidecar = Sidecar(
                config,
                self._transport,
                listener=self.ledger,
                ends={SINK: Sink(self.ledger, sump), SUMP: sump},
                cancels=self._cancels,
                clock=self._clock,
                kill=self._kill,
                uniform=lambda low, high: low + (high - low) * self._given.jitter,
                claims=Claims(self._blobs, BLOB_THRESHOLD_BYTES, message_max_bytes=limit),
            )
            await sidecar.start()
            for _ in range(actor.replicas):
                self._dial(name)

    async def _send(self, message: Message) -> None:
        queue = queue_name(NAMESPACE, message.into or message.route[0])
        if message.text is not None:
            await self._client.publish(queue, message.text.encode())
            return
        deadline = message.deadline
        envelope = new_envelope(
            message.route,
            raw_json(message.payload),
            now=self._clock.now(),
            id=message.id,
            headers=message.headers,
            deadline=None if deadline is None else self._clock.start + timedelta(seconds=deadline),
        )
        envelope.route.prev = message.prev
        envelope.status.phase = message.phase
        envelope.status.attempt = message.attempt
        envelope.extra = {name: raw_json(value) for name, value in message.extra.items()}
        if message.checked_in:
            await Claims(self._blobs, 0).check_in(envelope, least_bytes=0)
        await self._client.publish(queue, encode(envelope))

    async def _happen(self, what: Happening) -> None:
        acts: dict[str, Callable[[Any], Awaitable[None] | None]] = {
            "cancel": lambda one: self._cancels.add([one]),
            "lose_replica": lambda actor: self._die(self._oldest_of(actor)),
            "start_replica": self._dial,
            "terminate_replica": self._terminate,
            "drain": lambda actor: self._sidecars[actor].drain(what.grace),
            "restart": lambda _: self._restart(),
            "lease_lost": self._lose_leases,
            "broker": lambda state: setattr(self._broker, "available", state == "up"),
            "store": lambda state: setattr(self.ledger, "broken", state == "broken"),
            "confirm_after": lambda delay_s: setattr(self.record, "confirm_after_s", delay_s),
            "forget_blobs": lambda _: self._blobs.blobs.clear(),
            "make_queue": lambda name: self._client.ensure(queue_name(NAMESPACE, name)),
        }
        waits = acts[what.name](what.argument)
        if waits is not None:
            await waits

    async def _restart(self) -> None:
        """The process of the mesh is killed, its replicas with it, and another one begins."""
        for delivery in self.record.deliveries:
            delivery.lost = True
        for sidecar in self._sidecars.values():
            sidecar.abandon()
        self._broker.client_died(self._transport)
        self._replicas.clear()
        await self._start()

    def _lose_leases(self, actor: str) -> None:
        """What the actor holds now is not extended any more: the broker gives it out again."""
        for delivery in self.record.deliveries:
            delivery.extended = delivery.extended and delivery.actor != actor

    async def _look(self) -> None:
        """Note what is left in queues, and what was not settled exactly once."""
        prefix = queue_name(NAMESPACE, "")
        left: dict[str, dict[str, int]] = {}
        for queue in await self._client.queues():
            depth = await self._client.depth(queue)
            numbers = {"ready": depth.ready, "held": depth.in_flight, "delayed": depth.delayed}
            if counted := {key: number for key, number in numbers.items() if number}:
                left[queue.removeprefix(prefix)] = counted
        expected = self._scenario.then.queues
        if left != expected:
            self.broken_promises.append(f"  then.queues: expected {expected}, got {left}")
        unsettled = [one for one in self.record.deliveries if not one.settlements and not one.lost]
        if len(unsettled) > sum(numbers.get("held", 0) for numbers in left.values()):
            self.broken_promises.append(f"  never settled: {[one.id for one in unsettled]}")
        self.broken_promises += [
            f"  settled {one.settlements} times: {one.id} at {one.actor}"
            for one in self.record.deliveries
            if one.settlements > 1
        ]

    # -- replicas ---------------------------------------------------------------------------------

    def _dial(self, actor: str) -> None:
        pid = len(self._working_on) + 1
        spec = self._given.actors[actor]
        self._working_on[pid] = []

        async def handle(call: LoopbackCall) -> None:
            await self._act(pid, actor, call)

        runtime = LoopbackRuntime(
            handle, pid=pid, concurrency=spec.concurrency, cooperative=spec.cooperative
        )
        self._replicas[pid] = (actor, runtime)
        runtime.dial(self._sidecars[actor])

    async def _act(self, pid: int, actor: str, call: LoopbackCall) -> None:
        """Do what the file says of this call."""
        envelope_id: str = call.envelope["id"]
        begun = self._begun[actor, ""], self._begun[actor, envelope_id]
        steps = self._given.actors[actor].call(envelope_id, *begun)
        self._begun[actor, ""] += 1
        self._begun[actor, envelope_id] += 1
        working_on = self._working_on[pid]
        self.record.note_call(actor, pid, working_on, call)
        working_on.append(envelope_id)
        changes: dict[str, Any] = {}
        try:
            for step in steps:
                await self._take(step, pid)
                _emit(step, call, changes)
                if step.raise_ is not None:
                    call.fail(step.raise_, mro=[step.raise_, *step.mro, *MRO])
                    return
                if step.die:
                    self._die(pid)
                    return
            call.done(**changes)
        finally:
            working_on.remove(envelope_id)

    async def _take(self, step: Step, pid: int) -> None:
        """Let time pass. A stubborn handler ignores that it is asked to stop."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + (1e9 if step.take == "forever" else step.take)
        while True:
            try:
                await asyncio.sleep(until_s - loop.time())
            except asyncio.CancelledError:
                if not step.stubborn or pid not in self._replicas or self.record.closed:
                    raise
            else:
                return

    def _oldest_of(self, actor: str) -> int:
        return min(pid for pid, (name, _) in self._replicas.items() if name == actor)

    def _terminate(self, actor: str) -> None:
        """The oldest replica got SIGTERM, and says so."""
        _, runtime = self._replicas[self._oldest_of(actor)]
        runtime.terminating()

    def _kill(self, pid: int) -> None:
        if pid in self._replicas:
            if not self.record.closed:
                actor = self._replicas[pid][0]
                self.record.killed.append({"at": self.record.time_s, "actor": actor})
            asyncio.get_running_loop().call_soon(self._die, pid)

    def _die(self, pid: int) -> None:
        """A replica is gone. Others take its place until there are `replicas` again."""
        if pid not in self._replicas:
            return
        actor, runtime = self._replicas.pop(pid)
        runtime.die()
        living = sum(name == actor for name, _ in self._replicas.values())
        if living < self._given.actors[actor].replicas and not self.record.closed:
            self._dial(actor)


def _emit(step: Step, call: LoopbackCall, changes: dict[str, Any]) -> None:
    """Send the frames of one step; `changes` hold for all frames that follow."""
    if step.change is not None:
        told = {
            "next": step.change.next,
            "set": step.change.set,
            "del": step.change.del_,
            "status": step.change.status,
        }
        changes.update({key: value for key, value in told.items() if value is not UNSET})
    for value in step.fly:
        call.fly(value)
    if step.emit == "input":
        call.frame_raw(call.body, **changes)
    else:
        for payload in [*step.emit, *range(step.emit_many)]:
            call.frame(payload, **changes)
    if step.emit_size is not None:
        call.frame("x" * (step.emit_size - 2), **changes)


class _Errors(logging.Handler):
    """No part of the mesh may log an error: each one is a broken promise."""

    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        """Note it."""
        error = record.exc_info[1] if record.exc_info else None
        self._found.append(f"  logged: {record.getMessage()} {error!r}")


async def _at(at_s: float, act: Callable[[Any], Awaitable[None]], what: Any) -> None:
    await asyncio.sleep(at_s)
    await act(what)
