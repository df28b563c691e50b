"""Queues on RabbitMQ 3.10 or later.

The layout is in `queues.py`. A message goes straight to its queue through the default exchange.
One that is to wait goes through the ladder of delay queues. Both are published `mandatory`, so
that a message without a queue comes back. RabbitMQ knows no duplicates and no leases (a delivery
is ours as long as the connection lives), and does not count per queue what waits on the ladder.

Rules of this file: nothing that exists is changed or deleted, except by `delete`. Called by
whoever is given a `Transport`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from asya.addresses import Address
from asya.clock import Clock, SystemClock
from asya.errors import MessageTooLarge, QueueMissing, TransportError, TransportUnavailable
from asya.transports.base import (
    Capabilities,
    Consumer,
    Delivery,
    Depth,
    Inspection,
    Receipt,
    Transport,
)
from asya.transports.rabbitmq.channel import Channel
from asya.transports.rabbitmq.connection import Connection
from asya.transports.rabbitmq.consumer import RabbitConsumer
from asya.transports.rabbitmq.queues import (
    DELAY_MAX_S,
    UNIT_S,
    Exchange,
    Layout,
    Part,
    Queue,
    check_name,
)
from asya.transports.rabbitmq.registry import Registry

MESSAGE_MAX_BYTES: Final = 8 * 1024 * 1024
"""Half of what RabbitMQ 4 takes by default; 3.x takes more."""
GENERATION_WAIT_S: Final = 2.0
"""How long a delayed message may look for the current generation of its queue."""
SETTLE_S: Final = 1.5
"""After a queue is made. RabbitMQ 3.10 answers before that is on disk: of queues that it was killed
within 0.8 s of making, not one came back, and their confirmed messages with them; after 1.2 s, all."""
SHOW_S: Final = 5.0
"""How old the management plugin's numbers may be, with its default settings."""


class RabbitTransport(Transport):
    """A connection to RabbitMQ, for one namespace in one vhost."""

    capabilities = Capabilities(
        name="rabbitmq",
        persistent=True,
        deduplicates=False,
        dedup_window_s=0.0,
        delay_max_s=DELAY_MAX_S,
        delay_resolution_s=UNIT_S,
        message_max_bytes=MESSAGE_MAX_BYTES,
        lease_s=None,
        counts_in_flight=False,
        counts_delayed=False,
    )

    def __init__(
        self,
        address: Address,
        namespace: str,
        *,
        publish_timeout_s: float = 5.0,
        connect_timeout_s: float = 5.0,
        settle_s: float = SETTLE_S,
        clock: Clock | None = None,
    ) -> None:
        """Prepare.

        Args:
            address: `amqp[s]://user:password@host:port/vhost`; with the option `management` the
                messages in flight are counted too.
            namespace: The mesh's namespace, a DNS label.
            publish_timeout_s: For every answer of the broker, in seconds.
            connect_timeout_s: For `connect`, in seconds. Later connections are tried for ever.
            settle_s: How long after making a queue `ensure` returns, in seconds; see `SETTLE_S`.
            clock: Wall time, compared with `not_before`.
        """
        self._layout = Layout(namespace)
        self._address = address
        self._vhost = address.path or "/"
        self._management = address.text("management")
        if self._management:
            self.capabilities = replace(
                type(self).capabilities, counts_in_flight=True, depth_age_s=SHOW_S
            )
        self._clock = clock or SystemClock()
        self._settle_s = settle_s
        self._settled_at = 0.0
        self._consumers: list[RabbitConsumer] = []
        self._admin: Channel | None = None
        self._connection = Connection(
            address,
            name=f"asya-{namespace}",
            connect_timeout_s=connect_timeout_s,
            timeout_s=publish_timeout_s,
        )
        self._connection.outage.on_up = self._on_up
        self._connection.outage.on_down = self._on_down
        self._connection.on_tick = self._on_tick
        self._connection.publisher.on_missing = self._on_missing
        self._registry = Registry(self._connection, self._layout.registry)

    def trigger(self, queue: str, target: int) -> dict[str, Any]:
        """Counts what is ready and in flight; by HTTP, since over AMQP KEDA sees the ready only.

        The TriggerAuthentication gives `host`: `http://user:password@rabbitmq:15672/vhost`.
        """
        return {
            "type": "rabbitmq",
            "metadata": {
                "protocol": "http",
                "mode": "QueueLength",
                "queueName": queue,
                "vhostName": self._vhost,
                "value": str(target),
                "activationValue": "0",
                "excludeUnacknowledged": "false",
            },
        }

    @property
    def trouble(self) -> str | None:
        """Why the broker cannot be reached, or takes no messages, now."""
        return self._connection.trouble

    async def inspect(self, queues: Sequence[str]) -> Inspection:
        """Look at the namespace's part of the broker; see `Transport.inspect`."""
        from asya.transports.rabbitmq.probe import probe

        return await probe(self._address, self._layout, queues, self._connection.timeout_s)

    async def connect(self) -> None:
        """Connect, and make what the namespace's queues share if it is not there."""
        await self._connection.open()
        try:
            self._admin_lock = asyncio.Lock()
            await self._declare_shared()
        except BaseException:
            await self._connection.close()
            raise

    async def close(self) -> None:
        """Close all consumers, write what was settled, and disconnect; takes seconds at most."""
        await asyncio.gather(*(consumer.close() for consumer in list(self._consumers)))
        await self._connection.close()

    def abort(self) -> None:
        """Vanish without a word, as a process does that is killed: for tests of crashes."""
        self._connection.drop()

    async def ensure(self, queue: str) -> None:
        """Make the queue if it is not there.

        Raises:
            TransportError: There is one with other arguments; the text says which, and the remedy.
        """
        check_name(queue)
        await self._registry.refresh()
        known = set(self._registry.generations.get(queue, ()))
        generations = known or {secrets.token_hex(4)}
        parts: list[Part] = [self._layout.queue(queue)]
        for generation in generations:
            parts += self._layout.bindings(queue, generation)
        await self._declare(parts)
        for generation in generations - known:
            await self._registry.made(queue, generation)
            self._settle_later()
        await asyncio.sleep(self._settled_at - asyncio.get_running_loop().time())

    async def delete(self, queue: str) -> None:
        """Remove the queue and its messages; stops this transport's consumers of it.

        Delayed ones fall due in vain. A consumer elsewhere makes the queue again, empty: whoever
        runs an actor has its queue.
        """
        check_name(queue)
        mine = [consumer for consumer in self._consumers if consumer.queue == queue]
        await asyncio.gather(*(consumer.close() for consumer in mine))
        await self._registry.refresh()
        generations = set(self._registry.generations.get(queue, ()))
        await self._declare(self._layout.farewell(queue, one) for one in generations)
        await self._registry.gone(queue)
        async with self._admin_channel() as channel:
            await channel.call("queue_delete", queue)
            for generation in generations:
                admission = self._layout.admission(queue, generation)
                await channel.call(
                    "exchange_unbind", admission.target, admission.source, admission.key
                )

    async def queues(self) -> list[str]:
        """The names of all queues of this namespace that `ensure` made, sorted."""
        await self._registry.refresh()
        found = []
        for queue in sorted(self._registry.generations):
            with contextlib.suppress(QueueMissing):
                await self._count(queue)
                found.append(queue)
        return found

    async def publish(
        self,
        queue: str,
        body: bytes,
        *,
        dedup_id: str | None = None,
        not_before: datetime | None = None,
    ) -> Receipt:
        """Put a message into a queue; see `Transport.publish`.

        One that times out may still arrive, and a repeated one arrives twice.
        """
        if len(body) > MESSAGE_MAX_BYTES:
            raise MessageTooLarge(
                f"a message of {len(body)} bytes is too large: "
                f"RabbitMQ accepts {MESSAGE_MAX_BYTES} here"
            )
        if not_before is not None:
            delay_s = (not_before - self._clock.now()) / timedelta(seconds=1)
            if delay_s > 0:
                await self._publish_later(queue, body, delay_s)
                return _RECEIPT
        await self._connection.publish("", queue, body)
        return _RECEIPT

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, window: int = 1
    ) -> Consumer:
        """Begin to receive messages; goes on over restarts of the broker until closed."""
        await self._count(queue)
        consumer = RabbitConsumer(
            self._connection, self, queue=queue, on_delivery=on_delivery, window=window
        )
        self._consumers.append(consumer)
        consumer.recover()
        return consumer

    async def depth(self, queue: str) -> Depth:
        """How many messages the queue holds; in flight only with the management plugin."""
        ready = await self._count(queue)
        in_flight = 0
        if self._management:
            from asya.transports.rabbitmq.probe import unacknowledged

            in_flight = await unacknowledged(self._address, queue, self._connection.timeout_s)
        return Depth(ready=ready, in_flight=in_flight, delayed=0)

    async def _publish_later(self, queue: str, body: bytes, delay_s: float) -> None:
        if delay_s > DELAY_MAX_S:
            raise TransportError(
                f"RabbitMQ keeps a message for at most {DELAY_MAX_S:g} s here, not {delay_s:g} s"
            )
        loop = asyncio.get_running_loop()
        until = loop.time() + GENERATION_WAIT_S
        tried = ""
        while True:
            # The least: all who see the same log take the same one.
            generation = min(self._registry.generations.get(queue, ()), default="")
            if generation and generation != tried:
                tried = generation
                try:
                    key = self._layout.key(queue, generation, delay_s)
                    await self._connection.publish(self._layout.entry, key, body)
                    return
                except QueueMissing:
                    pass
            await self._registry.refresh()
            if tried == min(self._registry.generations.get(queue, ()), default=""):
                if not tried or loop.time() > until:
                    raise QueueMissing(
                        f"there is no queue {queue} at RabbitMQ {self._connection.where}"
                    )
                # Whoever makes or deletes it is not done yet.
                await asyncio.sleep(0.05)
                tried = ""

    async def _count(self, queue: str) -> int:
        """The messages that are ready, or `QueueMissing`."""
        async with self._admin_channel() as channel:
            answer = await channel.call("queue_declare", queue, passive=True)
        return int(answer.message_count)

    async def _declare_shared(self) -> None:
        await self._declare(self._layout.parts())
        async with self._admin_channel() as channel:
            await self._registry.declare(channel)
        await self._registry.refresh()
        if self._registry.begun_here:
            self._settle_later()

    def _settle_later(self) -> None:
        self._settled_at = asyncio.get_running_loop().time() + self._settle_s

    async def _declare(self, parts: Iterable[Part]) -> None:
        async with self._admin_channel() as channel:
            for part in parts:
                await declare(channel, part)

    @contextlib.asynccontextmanager
    async def _admin_channel(self) -> Any:
        """The one channel for questions, one at a time; a refusal closes it, so it is made anew."""
        if not self._connection.up:
            raise TransportUnavailable(self._connection.trouble or "not connected")
        async with self._admin_lock:
            if self._admin is None or self._admin.closed is not None:
                self._admin = await self._connection.channel()
            yield self._admin

    async def repair(self, queue: str) -> bool:
        """Make the queue if it is gone; tells whether it was. For its consumers."""
        try:
            await self._count(queue)
        except QueueMissing:
            await self._declare_shared()
            await self.ensure(queue)
            return True
        return False

    def forget(self, consumer: RabbitConsumer) -> None:
        """A consumer is closed."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)

    def _on_up(self) -> None:
        self._registry.forget()
        for consumer in self._consumers:
            consumer.recover(broken=True)

    def _on_down(self) -> None:
        self._admin = None
        for consumer in self._consumers:
            consumer.disconnected()

    def _on_missing(self) -> None:
        self._mending = asyncio.get_running_loop().create_task(self._mend_shared())

    async def _mend_shared(self) -> None:
        with contextlib.suppress(TransportError):
            await self._declare_shared()
            for queue, generations in list(self._registry.generations.items()):
                for generation in generations:
                    await self._declare(self._layout.bindings(queue, generation))

    def _on_tick(self) -> None:
        for consumer in self._consumers:
            consumer.tick()


_RECEIPT: Final = Receipt()


async def declare(channel: Channel, part: Part) -> None:
    """Make a part of the layout if it is not there.

    Raises:
        TransportError: There is one with other arguments.
    """
    try:
        if isinstance(part, Queue):
            await channel.call(
                "queue_declare", part.name, durable=True, arguments=dict(part.arguments)
            )
        elif isinstance(part, Exchange):
            await channel.call(
                "exchange_declare",
                part.name,
                part.kind,
                durable=True,
                arguments=dict(part.arguments),
            )
        elif part.to_exchange:
            await channel.call("exchange_bind", part.target, part.source, part.key)
        else:
            await channel.call("queue_bind", part.target, part.source, part.key)
    except (TransportUnavailable, QueueMissing):
        raise
    except TransportError as error:
        if "PRECONDITION_FAILED" not in str(error):
            raise
        raise TransportError(
            f"{error}; it was not made by this version of Asya. Nothing was changed: drain it and "
            "delete it, or use another namespace or vhost"
        ) from error
