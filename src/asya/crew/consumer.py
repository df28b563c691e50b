"""The loop of an end actor: take from its queue, accept, ack.

Unlike an actor's sidecar it has no attempts to count: what cannot be stored now is tried again,
for ever, while the broker keeps it.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime
from typing import Final, Protocol

from asya.clock import Clock, SystemClock
from asya.crew.sump import Sump
from asya.envelope import Envelope, decode, queue_name
from asya.errors import ParseError, StoreError
from asya.sidecar.decide import reject
from asya.sidecar.outcome import unparsable
from asya.transports.base import Consumer, Delivery, Transport

log = logging.getLogger(__name__)

WINDOW: Final = 64
"""Messages held at a time."""

RETRY_FIRST_S: Final = 0.1
RETRY_MOST_S: Final = 5.0


class _EndActor(Protocol):
    async def accept(self, envelope: Envelope) -> None: ...


class EndConsumer:
    """Consumes the queue of `x-sink` or `x-sump`."""

    def __init__(
        self,
        name: str,
        namespace: str,
        transport: Transport,
        end: _EndActor,
        sump: Sump,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.queue = queue_name(namespace, name)
        self._transport = transport
        self._end = end
        self._sump = sump
        self._clock = clock or SystemClock()
        self._consumer: Consumer | None = None
        self._tasks: dict[asyncio.Task[None], Delivery] = {}
        self._leases: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make the queue and begin to consume."""
        await self._transport.ensure(self.queue)
        self._consumer = await self._transport.consume(self.queue, self._on_delivery, window=WINDOW)
        lease_s = self._transport.capabilities_of(self.queue).lease_s
        if lease_s is not None:
            self._leases = asyncio.create_task(self._keep_leases(lease_s / 3))

    async def close(self, grace_s: float) -> None:
        """Take no more; give what is under way `grace_s` seconds, then give it back."""
        if self._consumer is not None:
            await self._consumer.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        for task, delivery in list(self._tasks.items()):
            task.cancel()
            delivery.requeue()
        if self._leases is not None:
            self._leases.cancel()

    def _on_delivery(self, delivery: Delivery) -> None:
        task = asyncio.get_running_loop().create_task(self._handle(delivery))
        self._tasks[task] = delivery
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def _handle(self, delivery: Delivery) -> None:
        end: _EndActor = self._end
        try:
            envelope = decode(delivery.body)
        except ParseError as error:
            envelope = reject(
                unparsable(self.name, str(error), delivery.body), self._now()
            ).envelope
            end = self._sump
        delay_s = RETRY_FIRST_S
        while True:
            try:
                await end.accept(envelope)
                break
            except StoreError as error:
                about = {"actor": self.name, "envelope": envelope.id}
                log.warning("cannot store the end yet: %s", error, extra=about)
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_MOST_S)
        delivery.ack()

    def _now(self) -> datetime:
        return self._clock.now()

    async def _keep_leases(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            for delivery in list(self._tasks.values()):
                delivery.extend()
