"""Queues on NATS JetStream.

The layout is in `queues.py`, the connection in `connection.py`, receiving in `consumer.py`. The
stream also accepts messages for queues that nobody made, so `publish` asks whether the consumer
exists, and remembers the answer for a short time. Called by whoever is given a `Transport`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from asya.clock import Clock, SystemClock
from asya.codes import Code
from asya.errors import MessageTooLarge, QueueMissing, TransportError
from asya.transports.base import (
    Capabilities,
    Consumer,
    Delivery,
    Depth,
    Finding,
    Inspection,
    Receipt,
    Transport,
)
from asya.transports.nats.connection import Connection, ConsumerInMotion
from asya.transports.nats.consumer import PullConsumer
from asya.transports.nats.queues import (
    DEDUP_WINDOW_S,
    QUEUES_MAX,
    Layout,
    check_name,
    keda_trigger,
)

MESSAGE_MAX_BYTES: Final = 8 * 1024 * 1024 - 4096
"""The largest size that NATS advises, less room for headers."""
HEADERS_MAX_BYTES: Final = 4096
KNOWN_S: Final = 5.0
"""How long a queue that was seen is believed to exist, in seconds."""
MISSING_S: Final = 0.5
"""How long a queue that was not there is believed to be missing, in seconds."""
ORPHAN_WAIT_S: Final = 0.4
"""How long a consumer's lease is made so short that all of its deliveries run out."""
MONITORING_PORT: Final = 8222
RACE_WAITS_S: Final = (0.0, 0.05, 0.2, 0.5)
"""Before making a consumer is tried again while somebody else deletes or makes it."""
STREAM_GONE_S: Final = 2.0
"""How long a server may take to remove the files of a stream that somebody deleted."""

_FOLDER_GONE: Final = "no such file or directory"
_API: Final = "$JS.API."
_PAST_ANY_PAGE: Final = 1 << 31

_encode = msgspec.json.Encoder().encode


class NatsTransport(Transport):
    """A connection to NATS JetStream 2.12 or later, for one namespace."""

    capabilities = Capabilities(
        name="nats",
        persistent=True,
        deduplicates=True,
        dedup_window_s=DEDUP_WINDOW_S,
        delay_max_s=None,
        delay_resolution_s=0.25,
        message_max_bytes=MESSAGE_MAX_BYTES,
        lease_s=10.0,
    )

    def __init__(
        self,
        url: str,
        namespace: str,
        *,
        lease_s: float = 10.0,
        connect_timeout_s: float = 5.0,
        publish_timeout_s: float = 5.0,
        replicas: int = 1,
        monitoring: str = "",
        clock: Clock | None = None,
    ) -> None:
        """Prepare.

        Args:
            url: `nats://[user:password@|token@]host:port`; several separated by commas.
            namespace: The mesh's namespace, a DNS label.
            lease_s: How long a delivery is ours without `extend`, in seconds.
            connect_timeout_s: For `connect`, in seconds. Later connections are tried for ever.
            publish_timeout_s: For every answer of the broker, in seconds.
            replicas: Copies of the stream in a cluster; only used when it is made.
            monitoring: `host:port` of the servers' monitoring, for KEDA; without it the port 8222
                of the first server.
            clock: Wall time, compared with `not_before`.
        """
        self.capabilities = replace(type(self).capabilities, lease_s=lease_s)
        self._namespace = namespace
        self._layout = Layout(namespace)
        self._lease_s = lease_s
        self._replicas = replicas
        self._url = url
        first = urlsplit(url.split(",", 1)[0].strip())
        self._monitoring = monitoring or f"{first.hostname}:{MONITORING_PORT}"
        self._clock = clock or SystemClock()
        self._consumers: list[PullConsumer] = []
        self._seen: dict[str, tuple[bool, float]] = {}
        self._connection = Connection(
            url,
            name=self._layout.stream,
            connect_timeout_s=connect_timeout_s,
            timeout_s=publish_timeout_s,
        )
        self._connection.outage.on_up = self._on_up
        self._connection.outage.on_down = self._on_down
        self._connection.on_tick = self._on_tick

    def trigger(self, queue: str, target: int) -> dict[str, Any]:
        """Counts what is ready and in flight, not what is delayed, which wakes it when due."""
        return keda_trigger(self._layout.stream, queue, target, self._monitoring)

    @property
    def trouble(self) -> str | None:
        """Why the broker cannot be reached now."""
        return None if self._connection.up else f"no connection to NATS at {self._connection.where}"

    async def inspect(self, queues: Sequence[str]) -> Inspection:
        """Look at the namespace's stream; see `Transport.inspect`."""
        from asya.transports.nats.probe import probe

        found = await probe(self._url, self._namespace, self._connection.timeout_s)
        findings = []
        if found.has_stream and not found.is_ours:
            text = f"the stream {self._layout.stream} was not made by Asya; use another namespace"
            findings.append(Finding(text, fatal=True))
        elif found.has_stream and not found.can_delay:
            text = f"the stream {self._layout.stream} cannot delay messages; NATS 2.12 is needed"
            findings.append(Finding(text, fatal=True, code=Code.BROKER_OUTDATED))
        return Inspection(
            f"NATS {found.version} at {found.where}", found.queues, tuple(findings), found.skew_s
        )

    async def connect(self) -> None:
        """Connect, and make the namespace's stream if it is not there."""
        self._now = asyncio.get_running_loop().time
        await self._connection.open()
        try:
            await self._ensure_stream()
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
        """Make the queue if it is not there; its lease becomes this transport's."""
        check_name(queue)
        for wait_s in (*RACE_WAITS_S, None):
            try:
                await self._write_consumer(queue, self._lease_s)
                break
            except QueueMissing:
                if wait_s is None:
                    raise
                await self._ensure_stream()
            except ConsumerInMotion as error:
                if wait_s is None:
                    raise
                if _FOLDER_GONE in str(error):
                    # Deleted and made in one moment, it lost its folder to the deletion, and the
                    # server can keep its state no more. The messages are the stream's, and stay.
                    with contextlib.suppress(QueueMissing):
                        await self._api(f"CONSUMER.DELETE.{self._layout.stream}.{queue}")
                await asyncio.sleep(wait_s)
        self._remember(queue, exists=True)

    async def delete(self, queue: str) -> None:
        """Remove the queue and all of its messages; stops this transport's consumers of it.

        A consumer elsewhere makes the queue again, empty: whoever runs an actor has its queue.
        """
        check_name(queue)
        mine = [consumer for consumer in self._consumers if consumer.queue == queue]
        await asyncio.gather(*(consumer.close() for consumer in mine))
        self._remember(queue, exists=False)
        with contextlib.suppress(QueueMissing):
            await self._api(f"CONSUMER.DELETE.{self._layout.stream}.{queue}")
        with contextlib.suppress(QueueMissing):
            for subject in (self._layout.subject(queue), self._layout.delayed(queue)):
                await self._api(f"STREAM.PURGE.{self._layout.stream}", {"filter": subject})

    async def queues(self) -> list[str]:
        """The names of all queues of this namespace, sorted."""
        names: list[str] = []
        while True:
            try:
                page = await self._api(
                    f"CONSUMER.NAMES.{self._layout.stream}", {"offset": len(names)}
                )
            except QueueMissing:
                return []
            found = page.get("consumers") or []
            names += found
            if not found or len(names) >= page["total"]:
                return sorted(names)

    async def publish(
        self,
        queue: str,
        body: bytes,
        *,
        dedup_id: str | None = None,
        not_before: datetime | None = None,
    ) -> Receipt:
        """Put a message into a queue; see `Transport.publish`.

        A publish that times out may still arrive: try again with the same `dedup_id`.
        """
        known = self._seen.get(queue)
        if known is None or known[1] < self._now():
            known = await self._find(queue)
        if not known[0]:
            raise QueueMissing(
                f"there is no queue {queue} in the NATS stream {self._layout.stream}"
            )
        headers = None if dedup_id is None else {"Nats-Msg-Id": dedup_id}
        subject = self._layout.subject(queue)
        if not_before is not None and not_before > self._clock.now():
            subject, schedule = self._layout.schedule(queue, not_before, dedup_id)
            headers = schedule if headers is None else headers | schedule
        self._check_size(body)
        answer = await self._connection.request(subject, body, headers)
        return Receipt(duplicate=True) if answer.get("duplicate") else _RECEIPT

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, window: int = 1
    ) -> Consumer:
        """Begin to receive messages; goes on over restarts of the broker until closed."""
        if not (await self._find(queue))[0]:
            raise QueueMissing(
                f"there is no queue {queue} in the NATS stream {self._layout.stream}"
            )
        consumer = PullConsumer(
            self._connection,
            self,
            stream=self._layout.stream,
            queue=queue,
            on_delivery=on_delivery,
            window=window,
            lease_s=self._lease_s,
        )
        self._consumers.append(consumer)
        consumer.renew()
        return consumer

    async def depth(self, queue: str) -> Depth:
        """How many messages the queue holds; what was given back counts as in flight."""
        info, delayed = await asyncio.gather(self._consumer_info(queue), self._count_delayed(queue))
        return Depth(ready=info["num_pending"], in_flight=info["num_ack_pending"], delayed=delayed)

    async def recover_orphans(self, queue: str) -> int:
        """Give out again at once what a killed process held, instead of after its lease.

        Only for a broker that nobody else uses, before this transport consumes the queue. Costs
        one question for a queue that holds nothing; calls for many queues may overlap.

        Returns:
            How many messages were taken back. Their delivery counts are kept.
        """
        info = await self._consumer_info(queue)
        held: int = info["num_ack_pending"]
        if held == 0:
            return 0
        try:
            await self._write_consumer(queue, 0.001)
            await asyncio.sleep(ORPHAN_WAIT_S)
        finally:
            # A crash here leaves the short lease behind; the next `ensure` puts it right.
            await self._write_consumer(queue, self._lease_s)
        return held

    async def _api(self, call: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
        return await self._connection.request(
            _API + call, b"" if request is None else _encode(request)
        )

    async def _ensure_stream(self) -> None:
        wanted = self._layout.stream_config()
        try:
            config = (await self._api(f"STREAM.INFO.{self._layout.stream}"))["config"]
        except QueueMissing:
            made = wanted | {"num_replicas": self._replicas, "max_consumers": QUEUES_MAX}
            config = (await self._api(f"STREAM.CREATE.{self._layout.stream}", made))["config"]
        else:
            if any(config.get(key) != value for key, value in wanted.items()):
                changed = await self._api(f"STREAM.UPDATE.{self._layout.stream}", config | wanted)
                config = changed["config"]
        # An older server passes over what it does not know, and would never send a delayed message.
        if not config.get("allow_msg_schedules"):
            raise TransportError(
                f"NATS at {self._connection.where} cannot delay messages: it must be version 2.12 or later",
                code=Code.BROKER_OUTDATED,
            )

    async def _write_consumer(self, queue: str, lease_s: float) -> None:
        config = self._layout.consumer_config(queue, lease_s)
        await self._api(
            f"CONSUMER.CREATE.{self._layout.stream}.{queue}.{self._layout.subject(queue)}",
            {"stream_name": self._layout.stream, "config": config, "action": ""},
        )

    async def _consumer_info(self, queue: str) -> dict[str, Any]:
        check_name(queue)
        return await self._api(f"CONSUMER.INFO.{self._layout.stream}.{queue}")

    async def _count_delayed(self, queue: str) -> int:
        # Each delayed message is a subject. A page past the last one holds only their number.
        ask = {"subjects_filter": self._layout.delayed(queue), "offset": _PAST_ANY_PAGE}
        info = await self._api(f"STREAM.INFO.{self._layout.stream}", ask)
        return int(info.get("total", 0))

    async def _find(self, queue: str) -> tuple[bool, float]:
        try:
            await self._consumer_info(queue)
        except QueueMissing:
            return self._remember(queue, exists=False)
        return self._remember(queue, exists=True)

    def _remember(self, queue: str, *, exists: bool) -> tuple[bool, float]:
        known = (exists, self._now() + (KNOWN_S if exists else MISSING_S))
        self._seen[queue] = known
        return known

    def _check_size(self, body: bytes) -> None:
        limit = self.capabilities.message_max_bytes
        if self._connection.up:
            limit = min(limit, self._connection.max_payload - HEADERS_MAX_BYTES)
        if len(body) > limit:
            raise MessageTooLarge(
                f"a message of {len(body)} bytes is too large: NATS accepts {limit} here"
            )

    async def repair(self, queue: str) -> bool:
        """Make the queue if it is gone; tells whether it was. For its consumers."""
        exists, _ = await self._find(queue)
        if not exists:
            try:
                await self._api(f"STREAM.INFO.{self._layout.stream}")
            except QueueMissing:
                # The server removes a stream's files after it has answered, by name: those of one
                # that is made meanwhile as well, and then it stores nothing in that one any more.
                await asyncio.sleep(STREAM_GONE_S)
            await self.ensure(queue)
        return not exists

    def forget(self, consumer: PullConsumer) -> None:
        """A consumer is closed."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)

    def _on_up(self) -> None:
        self._seen.clear()
        for consumer in self._consumers:
            consumer.renew(broken=True)

    def _on_down(self) -> None:
        for consumer in self._consumers:
            consumer.disconnected()

    def _on_tick(self) -> None:
        for consumer in self._consumers:
            consumer.tick()


_RECEIPT: Final = Receipt()
