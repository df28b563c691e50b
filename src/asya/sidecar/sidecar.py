"""The loop: take a message, check it, hand it to a free replica, perform what `decide` says, ack.

One sidecar serves one actor and any number of its replicas. It holds no rule of its own: what it
does with an envelope is in `decide`, who gets it and how much is held is in `pool`, and what a call emitted is
in `work`. The order that keeps SPEC 9.2: every `Send` of a step is confirmed before the ack.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from asya.blobs.claims import SMALL_BYTES, Claims, no_claims
from asya.clock import Clock, SystemClock, to_rfc3339
from asya.codes import load_failure
from asya.crashpoints import crash
from asya.envelope import (
    DEATHS_HEADER,
    END_ACTORS,
    FLOW_HEADER,
    Envelope,
    ErrorInfo,
    decode,
    encode,
    queue_name,
    raw_json,
    route_problem,
)
from asya.errors import (
    BlobUnavailable,
    MessageTooLarge,
    ParseError,
    QueueMissing,
    StoreError,
    TransportError,
)
from asya.events import Event, Forked, Listener, NullListener
from asya.resiliency import Resiliency
from asya.sidecar import decide as rules
from asya.sidecar.cancels import Cancels
from asya.sidecar.capture import Capture
from asya.sidecar.outcome import (
    Canceled,
    Expired,
    Lost,
    Outcome,
    Oversized,
    Raised,
    Rejected,
    Returned,
    Undeliverable,
    Unreadable,
    error_info,
    mismatch,
    misrouted,
    unparsable,
)
from asya.sidecar.pool import Median, for_suspect, freest, pipeline, prefetch_of
from asya.sidecar.replica import Replica
from asya.sidecar.restoring import Restoring
from asya.sidecar.snapshot import Rate, ReplicaSnapshot, SidecarSnapshot
from asya.sidecar.work import Work
from asya.transports.base import Consumer, Delivery, Transport

log = logging.getLogger(__name__)

RETRY_FIRST_S: Final = 0.05
RETRY_MOST_S: Final = 2.0
"""Bounds of the back-off while the broker does not answer. It is tried for ever: the message is
held, its handler has run, and running it again is the worse choice."""


SUSPECTS_MAX: Final = 1000
"""Envelopes remembered as the one that a replica died of. Past this they are forgotten, and run
alone from their second death on, like any other."""


class EndActor(Protocol):
    """`x-sink` or `x-sump` in this process."""

    async def accept(self, envelope: Envelope) -> None:
        """Store the envelope's end, durably. Raises StoreError where it cannot."""


@dataclass(frozen=True)
class SidecarConfig:
    """What a sidecar needs to know of its actor.

    Attributes:
        payload_max_bytes: The largest payload that a handler may emit.
        drain_s: Bound on handing back what waits, at the end, in seconds.
        capture: Which payloads go along with events.
        neighbours: Actors whose queues stand: one that is missing was deleted, and its consumer
            makes it again. What is sent to them waits for it.
        token: What a runtime must say to be a replica; empty lets in everyone.
        ahead: Messages held beyond those that replicas can work on. One shows the autoscaler that
            there are more, where the broker does not tell.
    """

    actor: str
    namespace: str = "default"
    resiliency: Resiliency = field(default_factory=Resiliency)
    concurrency: int = 1
    payload_max_bytes: int = 4 * 1024 * 1024
    drain_s: float = 5.0
    capture: Capture = field(default_factory=Capture)
    neighbours: frozenset[str] = frozenset()
    token: str = ""
    ahead: int = 0

    @property
    def queue(self) -> str:
        """The actor's queue."""
        return queue_name(self.namespace, self.actor)


@dataclass
class _Counts:
    received: int = 0
    succeeded: int = 0
    failed: int = 0
    retried: int = 0
    timeouts: int = 0
    lost: int = 0
    canceled: int = 0


class Sidecar:
    """See the module's text. Everything happens in one event loop.

    Args:
        config: The actor.
        transport: Connected; shared with other sidecars.
        listener: Is told of events.
        ends: End actors that run in this process; without one, its queue is used.
        cancels: Shared by the sidecars of the process.
        clock: The wall clock.
        kill: Ends the process (group) of a replica by its pid, for sure.
        uniform: As `random.uniform`; for jitter.
        claims: Where big payloads go; without them every payload travels in its message.

    Attributes:
        on_change: Called when a message waits, a call ends, or a replica comes or goes.
        on_load_failure: Called with pid and error when a runtime cannot load its handler.
        on_files: Called with the source files that a runtime has imported, where it tells them.
        on_body: Called with every message as it came, or None.
        on_cold_start: Called with the seconds from the first message that found no replica to the
            first replica that is ready.
    """

    def __init__(
        self,
        config: SidecarConfig,
        transport: Transport,
        *,
        listener: Listener | None = None,
        ends: Mapping[str, EndActor] | None = None,
        cancels: Cancels | None = None,
        clock: Clock | None = None,
        kill: Callable[[int], None] | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
        claims: Claims | None = None,
    ) -> None:
        self.config = config
        self.on_change: Callable[[], None] = _nothing
        self.on_load_failure: Callable[[int, ErrorInfo], None] = _nothing_of
        self.on_cold_start: Callable[[float], None] = _no_cold_start
        self.on_files: Callable[[list[str]], None] = _nothing_of_files
        self.on_body: Callable[[bytes], None] | None = None
        self._cold_since_s: float | None = None
        self._transport = transport
        self._listener = listener or NullListener()
        self._ends = ends or {}
        self._cancels = Cancels() if cancels is None else cancels
        self._clock = clock or SystemClock()
        self._kill = kill
        self._uniform = uniform
        self._claims = no_claims() if claims is None else claims
        self.restoring = Restoring(self, self._claims)
        self._replicas: list[Replica] = []
        self._connections: set[Replica] = set()
        self._waiting: deque[Work] = deque()
        self._alone: deque[Work] = deque()
        self._held: dict[int, Work] = {}
        self._suspected: set[str] = set()
        self._settling: set[asyncio.Task[None]] = set()
        self._median = Median()
        self._rate = Rate()
        self._counts = _Counts()
        self._last_error: str | None = None
        self._consumer: Consumer | None = None
        self._server: asyncio.AbstractServer | None = None
        self._leases: asyncio.Task[None] | None = None
        self._draining = False
        self._loop: asyncio.AbstractEventLoop
        self._cancels.subscribe(self._on_cancel)

    # -- life -------------------------------------------------------------------------------------

    async def start(self, socket_path: Path | None = None) -> None:
        """Make the queue, listen for replicas on a Unix socket, begin to consume."""
        self._loop = asyncio.get_running_loop()
        await self._transport.ensure(self.config.queue)
        if socket_path is not None:
            with contextlib.suppress(FileNotFoundError):
                socket_path.unlink()
            self._server = await self._loop.create_unix_server(self.connect, str(socket_path))
            socket_path.chmod(0o600)
        lease_s = self._transport.capabilities_of(self.config.queue).lease_s
        if lease_s is not None:
            self._leases = asyncio.create_task(self._keep_leases(lease_s / 3))
        self._consumer = await self._transport.consume(
            self.config.queue, self._on_delivery, window=self._prefetch()
        )

    def connect(self) -> Replica:
        """The protocol object for a runtime that dials in."""
        replica = Replica(self, self.config.token)
        self._connections.add(replica)
        return replica

    async def drain(self, grace_s: float) -> None:
        """Stop consuming, finish what runs within `grace_s`, give the rest back, end the replicas.

        Returns when nothing is held any more. What still runs when the time is over is killed and
        given back; that is no death of the message.
        """
        self._draining = True
        if self._consumer is not None:
            await self._consumer.close()
        waiting = [*self._alone, *self._waiting]
        self._alone.clear()
        self._waiting.clear()
        for work in waiting:
            self._settle(self._give_back(work))
        deadline = self.loop_time() + grace_s
        await self._settled(deadline, lambda: any(r.in_flight for r in self._replicas))
        for replica in list(self._replicas):
            if replica.in_flight:
                self.kill_replica(replica)
            else:
                replica.bye()
        await self._settled(self.loop_time() + self.config.drain_s, lambda: bool(self._held))
        self.abandon()

    def abandon(self) -> None:
        """Let go of everything at once, as a killed process would; what was held is redelivered."""
        self._draining = True
        if self._leases is not None:
            self._leases.cancel()
        if self._server is not None:
            self._server.close()
        for replica in list(self._connections):
            replica.abandon()
        for task in list(self._settling):
            task.cancel()

    async def _settled(self, deadline: float, busy: Callable[[], bool]) -> None:
        while busy() or self._settling:
            left = deadline - self.loop_time()
            if left <= 0:
                return
            if self._settling:
                await asyncio.wait(self._settling, timeout=min(left, 0.05))
            else:
                await asyncio.sleep(min(left, 0.02))

    def retire(self, pid: int) -> bool:
        """Ask an idle replica to end; False where it is busy or not known."""
        for replica in self._replicas:
            if replica.pid == pid and not replica.in_flight and replica.open:
                replica.bye()
                self._resize()
                return True
        return False

    def finish_off(self, pid: int) -> bool:
        """Give a replica no more calls; it ends when those that it has are done.

        Returns:
            Whether there was such a replica to give calls to.
        """
        for replica in self._replicas:
            if replica.pid == pid and replica.open:
                replica.terminating = True
                if not replica.in_flight:
                    replica.bye()
                self._resize()
                self._dispatch()
                return True
        return False

    def snapshot(self) -> SidecarSnapshot:
        """What it holds, does, and has done."""
        now_s = self.loop_time()
        replicas = [
            ReplicaSnapshot(
                replica.pid,
                "terminating" if replica.terminating else "busy" if replica.in_flight else "idle",
                replica.since or self.now(),
                replica.in_flight,
            )
            for replica in self._replicas
        ]
        counts = self._counts
        waiting = len(self._waiting) + len(self._alone)
        in_flight = sum(replica.in_flight for replica in replicas)
        return SidecarSnapshot(
            actor=self.config.actor,
            waiting=waiting,
            in_flight=in_flight,
            replicas=replicas,
            rate=self._rate.per_second(now_s),
            last_error=self._last_error,
            received=counts.received,
            succeeded=counts.succeeded,
            failed=counts.failed,
            retried=counts.retried,
            timeouts=counts.timeouts,
            lost=counts.lost,
            handler_p50_s=self._median.value_s,
            canceled=counts.canceled,
            full=waiting + in_flight >= self._prefetch(),
        )

    def about(self, envelope: Envelope) -> dict[str, str]:
        """What a line of the log is about, as `extra`."""
        return {"actor": self.config.actor, "envelope": envelope.id}

    def working_on(self, pid: int) -> str | None:
        """The envelope that a replica works on, where it works on one at a time."""
        for replica in self._replicas:
            if replica.pid == pid:
                return replica.working_on()
        return None

    # -- what `Work` and `Replica` need of it -----------------------------------------------------

    def now(self) -> datetime:
        """The wall time."""
        return self._clock.now()

    def loop_time(self) -> float:
        """The event loop's time, in seconds."""
        return self._loop.time()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """A timer of the event loop."""
        return self._loop.call_later(delay_s, callback)

    def emit(self, event: Event) -> None:
        """Tell the listener."""
        self._listener.emit(event)

    def replica_ready(self, replica: Replica) -> None:
        """A runtime has loaded its handler."""
        self._replicas.append(replica)
        if self._cold_since_s is not None and (self._waiting or self._alone):
            self.on_cold_start(self.loop_time() - self._cold_since_s)
        self._cold_since_s = None
        # first of all, so that neither an overtaken replica nor those that it replaces get a call
        self.on_change()
        self._resize()
        self._dispatch()

    def replica_failed(self, pid: int, error: ErrorInfo) -> None:
        """A runtime could not load its handler."""
        code, text = load_failure(error.type, error.message)
        self._last_error = f"error {code}: {text}"
        self.on_load_failure(pid, error)

    def replica_files(self, replica: Replica, files: list[str]) -> None:
        """A runtime tells which source files it has imported."""
        self.on_files(files)

    def replica_freed(self, replica: Replica) -> None:
        """A call ended: there may be room for the next."""
        if self._draining:
            if not replica.in_flight:
                replica.bye()
            return
        if replica.terminating and not replica.in_flight:
            replica.bye()
        self._resize()
        self._dispatch()
        self.on_change()

    def replica_gone(self, replica: Replica) -> None:
        """A runtime is gone; its calls have been told already."""
        self._connections.discard(replica)
        with contextlib.suppress(ValueError):
            self._replicas.remove(replica)
        self._resize()
        self._dispatch()
        self.on_change()

    def kill_replica(self, replica: Replica) -> None:
        """End the runtime's process for sure. Those of its calls that are not to blame go on."""
        replica.mark_killed()
        if self._kill is not None and replica.pid:
            self._kill(replica.pid)
        else:
            replica.abandon()

    @property
    def draining(self) -> bool:
        """Whether nothing new is begun any more."""
        return self._draining

    def suspect(self, envelope_id: str) -> None:
        """A replica died of this envelope alone: from here on it runs without neighbours."""
        if len(self._suspected) >= SUSPECTS_MAX:
            self._suspected.clear()
        self._suspected.add(envelope_id)

    def is_suspected(self, envelope_id: str) -> bool:
        """Whether a replica died of this envelope alone."""
        return envelope_id in self._suspected

    def put_back(self, work: Work) -> None:
        """Its replica is gone through no fault of its own: another one takes it, first in line."""
        if work.restored_bytes:
            self.restoring.release(work)
        if self._draining:
            self._settle(self._give_back(work))
        else:
            self._line_of(work).appendleft(work)
            work.wait()

    def expire(self, work: Work) -> None:
        """Its deadline has passed while it stood in line."""
        line = self._line_of(work)
        if work in line:
            line.remove(work)
            self._settle(self._finish(work, Expired(), set()))

    def _line_of(self, work: Work) -> deque[Work]:
        return self._alone if work.alone else self._waiting

    def finish(self, work: Work, outcome: Outcome, flowing: set[asyncio.Task[None]]) -> None:
        """The call is over: perform what follows from it."""
        self._rate.tick(self.loop_time())
        if work.started_s is not None:
            self._median.add(self.loop_time() - work.started_s)
        work.replica = None
        if work.restored_bytes:
            self.restoring.release(work)
        self._settle(self._finish(work, outcome, flowing))

    def finish_unread(self, work: Work, outcome: Outcome) -> None:
        """It ends before a replica had it: its payload is gone, it was canceled, or is late."""
        self._settle(self._finish(work, outcome, set()))

    def in_background(self, coroutine: Coroutine[None, None, None]) -> None:
        """Run something that a drain waits for."""
        self._settle(coroutine)

    def dispatch(self) -> None:
        """Something stands in line again."""
        self._dispatch()

    # -- from the queue ---------------------------------------------------------------------------

    def _on_delivery(self, delivery: Delivery) -> None:
        self._counts.received += 1
        actor, now = self.config.actor, self.now()
        try:
            envelope = decode(delivery.body)
        except ParseError as error:
            self._reject(delivery, unparsable(actor, str(error), delivery.body))
            return
        curr = envelope.route.curr
        if curr != actor:
            self._reject(delivery, mismatch(actor, envelope.id, curr, delivery.body))
            return
        problem = route_problem(envelope.route.next)
        if problem is not None:
            self._reject(delivery, misrouted(actor, envelope.id, problem, delivery.body))
            return
        if self.on_body is not None:
            self.on_body(delivery.body)
        work = Work(self, delivery, envelope)
        self._held[id(work)] = work
        if work.deaths >= rules.DEATHS_MAX:
            # never given to a replica again, whoever died the last time
            how = "the sidecar that held it died"
            self._settle(self._finish(work, Lost(work.deaths, how), set()))
        elif self._is_canceled(envelope):
            self._settle(self._finish(work, Canceled(), set()))
        elif (deadline := envelope.deadline) is not None and now >= deadline:
            self._settle(self._finish(work, Expired(), set()))
        elif self._draining:
            self._settle(self._give_back(work))
        else:
            self._line_of(work).append(work)
            work.wait()
            self._dispatch()
            if not self._replicas or self._waiting:
                if not self._replicas and len(self._waiting) + len(self._alone) == 1:
                    self._cold_since_s = self.loop_time()
                self.on_change()

    def _reject(self, delivery: Delivery, rejected: Rejected) -> None:
        self._settle(self._dead_letter(delivery, rules.reject(rejected, self.now())))

    def decide(self, envelope: Envelope, outcome: Outcome) -> list[rules.Send]:
        """What follows from an outcome, by this actor's rules and now."""
        return rules.decide(envelope, outcome, self.config.resiliency, self.now(), self._uniform)

    def _is_canceled(self, envelope: Envelope) -> bool:
        return self._cancels.any and self._cancels.is_canceled(envelope.id, envelope.root)

    def _on_cancel(self, ids: frozenset[str]) -> None:
        for work in list(self._held.values()):
            if work.envelope.id in ids or work.envelope.root in ids:
                work.cancel()
        for line in (self._waiting, self._alone):
            for work in [work for work in line if work.canceled]:
                line.remove(work)
                self._settle(self._finish(work, Canceled(), set()))

    # -- to the replicas --------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Hand what waits to whoever is free."""
        if self._alone:
            self._dispatch_alone()
        if not self._waiting:
            return
        ahead = pipeline(self._median.value_s)
        while self._waiting:
            replica = freest(self._replicas, ahead)
            if replica is None:
                return
            if self.restoring.held_bytes and not self.restoring.has_room(self._waiting[0]):
                return
            self._waiting.popleft().begin(replica)

    def _dispatch_alone(self) -> None:
        """Run a suspect message alone, so that another crash takes no other message with it."""
        replica = for_suspect(self._replicas)
        if replica is None:
            return
        replica.reserved = True
        if not replica.in_flight:
            self._alone.popleft().begin(replica)

    def _prefetch(self) -> int:
        config = self.config
        return prefetch_of(self._replicas, config.concurrency, self._median.value_s, config.ahead)

    def _resize(self) -> None:
        consumer = self._consumer
        if consumer is not None and not self._draining:
            wanted = self._prefetch()
            if wanted != consumer.window:
                consumer.set_window(wanted)
        for replica in self._replicas:
            if replica.reserved and not replica.in_flight and not self._alone:
                replica.reserved = False

    # -- to the next queues -----------------------------------------------------------------------

    async def _finish(self, work: Work, outcome: Outcome, flowing: set[asyncio.Task[None]]) -> None:
        if flowing:
            await asyncio.wait(flowing)
        now = self.now()
        sends = rules.decide(work.envelope, outcome, self.config.resiliency, now, self._uniform)
        self._count(outcome, work, sends)
        for send in sends:
            if len(send.envelope.payload) > self._claims.threshold_bytes:
                await self._check_in(send.envelope)
        if work.running or not sends:
            # before the sink is told: whoever waits for the end shall find its last hop ended
            self.emit(work.ended(outcome, sends, now))
        if len(sends) == 1:
            await self._perform(sends[0], work.envelope)
        elif sends:
            await asyncio.gather(*(self.perform_child(send, work.envelope) for send in sends))
        if sends and sends[0].envelope.route.curr not in self._ends and work.running:
            self.emit(work.sent(sends[0].envelope.route, self.now()))
        self._held.pop(id(work), None)
        crash("before-ack")
        if sends:
            work.delivery.ack()
        else:
            work.delivery.requeue()

    async def perform_child(self, send: rules.Send, parent: Envelope) -> None:
        """Send one frame of a fan-out, and tell of the child that it makes."""
        await self._perform(send, parent)
        envelope = send.envelope
        if envelope.id == parent.id:
            return
        self.emit(
            Forked(
                envelope.id,
                parent.id,
                envelope.root,
                envelope.route,
                to_rfc3339(self.now()),
                envelope.header_text(FLOW_HEADER),
                envelope.status.deadline_at,
            )
        )

    async def _perform(self, send: rules.Send, origin: Envelope) -> None:
        """Send until it is confirmed, however long the broker takes to come back.

        Args:
            send: What `decide` said.
            origin: The envelope that it comes from, as it was received.
        """
        if len(send.envelope.payload) > self._claims.threshold_bytes:
            await self._check_in(send.envelope)
        delay_s, told = RETRY_FIRST_S, ""
        while True:
            try:
                await self._deliver(send)
                return
            except MessageTooLarge as error:
                sent = send.envelope
                if await self._check_in(sent, least_bytes=SMALL_BYTES):
                    continue
                kept = origin if origin.id == sent.id else sent
                (send,) = self.decide(kept, Oversized(error_info(error)))
            except (TransportError, StoreError) as error:
                target = send.envelope.route.curr
                if isinstance(error, QueueMissing) and target not in self.config.neighbours:
                    send = await self._reroute(send)
                    continue
                if str(error) != told:
                    told = str(error)
                    log.warning("cannot send on yet: %s", told, extra=self.about(send.envelope))
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_MOST_S)

    async def _check_in(self, envelope: Envelope, *, least_bytes: int | None = None) -> bool:
        """Let the payload go to the blob store, however long that takes to come back.

        Returns:
            Whether there was one to go.
        """
        delay_s = RETRY_FIRST_S
        while True:
            try:
                return await self._claims.check_in(envelope, least_bytes=least_bytes)
            except BlobUnavailable as error:
                log.warning("cannot store a payload yet: %s", error, extra=self.about(envelope))
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_MOST_S)

    async def _deliver(self, send: rules.Send) -> None:
        target = send.envelope.route.curr
        end = self._ends.get(target)
        if end is not None:
            with contextlib.suppress(StoreError):
                await end.accept(send.envelope)
                return
        # the store is out of order: the broker keeps the end until it is back
        crash("before-publish")
        await self._transport.publish(
            queue_name(self.config.namespace, target),
            encode(send.envelope),
            dedup_id=send.dedup_id,
            not_before=send.not_before,
        )
        crash("after-publish")

    async def _reroute(self, send: rules.Send) -> rules.Send:
        """There is no such queue: to the dead letters, whose own queue can be made."""
        target = send.envelope.route.curr
        if target in END_ACTORS:
            await self._transport.ensure(queue_name(self.config.namespace, target))
            return send
        known = tuple(await self._known_actors())
        (instead,) = self.decide(send.envelope, Undeliverable(known))
        return instead

    async def _known_actors(self) -> list[str]:
        prefix = queue_name(self.config.namespace, "")
        try:
            return [queue.removeprefix(prefix) for queue in await self._transport.queues()]
        except TransportError:
            return []

    async def _dead_letter(self, delivery: Delivery, send: rules.Send) -> None:
        """A message that is no envelope of ours: its bytes go to the dead letters."""
        self._counts.failed += 1
        self._last_error = send.envelope.status.error.message if send.envelope.status.error else ""
        await self._perform(send, send.envelope)
        delivery.ack()

    async def _give_back(self, work: Work) -> None:
        """Put it back into its queue as a copy.

        For the broker that is no further delivery of it: a shutdown does not count as a death.
        """
        out = work.envelope.copy()
        if work.deaths:
            out.headers[DEATHS_HEADER] = raw_json(work.deaths)
        try:
            await self._transport.publish(self.config.queue, encode(out))
        except TransportError as error:
            log.warning("goes back as a redelivery: %s", error, extra=self.about(out))
            work.delivery.requeue()
        else:
            work.delivery.ack()
        self._held.pop(id(work), None)

    def _settle(self, coroutine: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._settling.add(task)
        task.add_done_callback(self._on_settled)

    def _on_settled(self, task: asyncio.Task[None]) -> None:
        self._settling.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            about = {"actor": self.config.actor}
            log.error("an envelope could not be settled", exc_info=error, extra=about)

    def _count(self, outcome: Outcome, work: Work, sends: list[rules.Send]) -> None:
        counts = self._counts
        if isinstance(outcome, Returned):
            counts.succeeded += 1
            return
        if isinstance(outcome, Lost):
            counts.lost += 1
            self._last_error = outcome.how
        if isinstance(outcome, Raised | Unreadable):
            error = outcome.error
            self._last_error = f"{error.type}: {error.message}"
            if error.type == "asya.errors.ActorTimeout":
                counts.timeouts += 1
            if sends and sends[0].envelope.route.curr == work.envelope.route.curr:
                counts.retried += 1
                return
        canceled = isinstance(outcome, Canceled)
        counts.canceled += canceled
        counts.failed += bool(sends) and not canceled

    async def _keep_leases(self, every_s: float) -> None:
        """Extend the lease of all that is held, for as long as it is held."""
        while True:
            await asyncio.sleep(every_s)
            for work in list(self._held.values()):
                work.delivery.extend()


def _nothing() -> None:
    """Nobody listens."""


def _nothing_of_files(files: list[str]) -> None:
    """Nobody listens."""


def _no_cold_start(took_s: float) -> None:
    """Nobody listens."""


def _nothing_of(pid: int, error: ErrorInfo) -> None:
    """Nobody listens."""
