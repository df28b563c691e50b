"""Queues on NATS JetStream.

Layout: one work-queue stream per namespace, `asya-{namespace}`. In it a queue is a subject
`asya-{namespace}.q.{queue}` with one durable pull consumer of the queue's name; a message that
waits for its time is a scheduled message on a subject of its own, `asya-{namespace}.d.{queue}.*`.
One stream makes deduplication span all queues. It also takes messages for queues that nobody
made, so `publish` asks whether the consumer exists, and remembers the answer for a short time.

Rules of this file: layout and translation only. The connection is `nats_link`, taking messages is
`nats_pull`. The broker never hides or drops a message by itself: no delivery limit, no age, no
size. Called by whoever is given a `Transport`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import msgspec

from asya.clock import Clock, SystemClock, to_rfc3339
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
from asya.transports.nats.connection import ConsumerInMotion, Link
from asya.transports.nats.consumer import PullConsumer

DEDUP_WINDOW_S = 120.0
MESSAGE_MAX_BYTES = 8 * 1024 * 1024 - 4096
"""The largest size that NATS advises, less room for headers."""
HEADERS_MAX_BYTES = 4096
QUEUES_MAX = 1_000_000
"""Of one namespace. Left unset, the server's own default is 1,000 for a stream."""
KNOWN_S = 5.0
"""How long a queue that was seen is believed to exist, in seconds."""
MISSING_S = 0.5
"""How long a queue that was not there is believed to be missing, in seconds."""
ORPHAN_WAIT_S = 0.4
"""How long a consumer's lease is made so short that all of its deliveries run out."""
MONITORING_PORT = 8222
RACE_WAITS_S = (0.0, 0.05, 0.2, 0.5)
"""Before making a consumer is tried again while somebody else deletes or makes it."""

STREAM_GONE_S = 2.0
"""How long a server may take to remove the files of a stream that somebody deleted."""

_FOLDER_GONE = "no such file or directory"
_API = "$JS.API."
_TOKEN = re.compile(r"[^\s.*>]+")
_PAST_ANY_PAGE = 1 << 31

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
        if _TOKEN.fullmatch(namespace) is None:
            raise TransportError(f"{namespace!r} is no name for a namespace in NATS")
        self.capabilities = replace(type(self).capabilities, lease_s=lease_s)
        self._namespace = namespace
        self._stream = f"asya-{namespace}"
        self._lease_s = lease_s
        self._replicas = replicas
        self._url = url
        first = urlsplit(url.split(",", 1)[0].strip())
        self._monitoring = monitoring or f"{first.hostname}:{MONITORING_PORT}"
        self._clock = clock or SystemClock()
        self._consumers: list[PullConsumer] = []
        self._seen: dict[str, tuple[bool, float]] = {}
        self._link = Link(
            url,
            name=self._stream,
            connect_timeout_s=connect_timeout_s,
            timeout_s=publish_timeout_s,
        )
        self._link.on_up = self._on_up
        self._link.on_down = self._on_down
        self._link.on_tick = self._on_tick

    def trigger(self, queue: str, target: int) -> dict[str, Any]:
        """Counts what is ready and in flight, not what is delayed, which wakes it when due."""
        return {
            "type": "nats-jetstream",
            "metadata": {
                "natsServerMonitoringEndpoint": self._monitoring,
                "account": "$G",
                "stream": self._stream,
                "consumer": queue,
                "lagThreshold": str(target),
                "activationLagThreshold": "0",
                "useHttps": "false",
            },
        }

    @property
    def trouble(self) -> str | None:
        """Why the broker cannot be reached now."""
        return None if self._link.up else f"no connection to NATS at {self._link.where}"

    async def inspect(self, queues: Sequence[str]) -> Inspection:
        """Look at the namespace's stream; see `Transport.inspect`."""
        from asya.transports.nats.probe import survey

        found = await survey(self._url, self._namespace, self._link.timeout_s)
        findings = []
        if found.has_stream and not found.is_ours:
            text = f"the stream {self._stream} is somebody else's; take another namespace"
            findings.append(Finding(text, fatal=True))
        elif found.has_stream and not found.can_delay:
            text = f"the stream {self._stream} cannot delay messages; NATS 2.12 is needed"
            findings.append(Finding(text, fatal=True, code=Code.BROKER_OUTDATED))
        return Inspection(
            f"NATS {found.version} at {found.where}", found.queues, tuple(findings), found.skew_s
        )

    async def connect(self) -> None:
        """Connect, and make the namespace's stream if it is not there."""
        self._now = asyncio.get_running_loop().time
        await self._link.open()
        try:
            await self._ensure_stream()
        except BaseException:
            await self._link.close()
            raise

    async def close(self) -> None:
        """Close all consumers, write what was settled, and disconnect; takes seconds at most."""
        await asyncio.gather(*(consumer.close() for consumer in list(self._consumers)))
        await self._link.close()

    def abort(self) -> None:
        """Vanish without a word, as a process does that is killed: for tests of crashes."""
        self._link.drop()

    async def ensure(self, queue: str) -> None:
        """Make the queue if it is not there; its lease becomes this transport's."""
        _check_token(queue)
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
                        await self._api(f"CONSUMER.DELETE.{self._stream}.{queue}")
                await asyncio.sleep(wait_s)
        self._remember(queue, exists=True)

    async def delete(self, queue: str) -> None:
        """Remove the queue and all of its messages; stops this transport's consumers of it.

        A consumer elsewhere makes the queue again, empty: whoever runs an actor has its queue.
        """
        _check_token(queue)
        mine = [consumer for consumer in self._consumers if consumer.queue == queue]
        await asyncio.gather(*(consumer.close() for consumer in mine))
        self._remember(queue, exists=False)
        with contextlib.suppress(QueueMissing):
            await self._api(f"CONSUMER.DELETE.{self._stream}.{queue}")
        with contextlib.suppress(QueueMissing):
            for subject in (self._subject(queue), self._delayed(queue, "*")):
                await self._api(f"STREAM.PURGE.{self._stream}", {"filter": subject})

    async def queues(self) -> list[str]:
        """The names of all queues of this namespace, sorted."""
        names: list[str] = []
        while True:
            try:
                page = await self._api(f"CONSUMER.NAMES.{self._stream}", {"offset": len(names)})
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
            known = await self._look_up(queue)
        if not known[0]:
            raise QueueMissing(f"there is no queue {queue} in the NATS stream {self._stream}")
        headers = None if dedup_id is None else {"Nats-Msg-Id": dedup_id}
        subject = self._subject(queue)
        if not_before is not None and not_before > self._clock.now():
            headers = headers or {}
            headers["Nats-Schedule"] = f"@at {to_rfc3339(_whole_ms(not_before))}"
            headers["Nats-Schedule-Target"] = subject
            subject = self._delayed(queue, _schedule_id(dedup_id))
        self._check_size(body)
        answer = await self._link.ask(subject, body, headers)
        return Receipt(duplicate=True) if answer.get("duplicate") else _RECEIPT

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, window: int = 1
    ) -> Consumer:
        """Begin to take messages; goes on over restarts of the broker until closed."""
        if not (await self._look_up(queue))[0]:
            raise QueueMissing(f"there is no queue {queue} in the NATS stream {self._stream}")
        consumer = PullConsumer(
            self._link,
            queue=queue,
            stream=self._stream,
            on_delivery=on_delivery,
            window=window,
            lease_s=self._lease_s,
            repair=lambda: self._repair(queue),
            on_close=self._forget,
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

    def _subject(self, queue: str) -> str:
        return f"{self._stream}.q.{queue}"

    def _delayed(self, queue: str, last: str) -> str:
        return f"{self._stream}.d.{queue}.{last}"

    async def _api(self, call: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
        return await self._link.ask(_API + call, b"" if request is None else _encode(request))

    async def _ensure_stream(self) -> None:
        wanted: dict[str, Any] = {
            "name": self._stream,
            "subjects": [f"{self._stream}.q.*", f"{self._stream}.d.*.*"],
            "retention": "workqueue",
            "storage": "file",
            "discard": "old",
            "duplicate_window": int(DEDUP_WINDOW_S * 1e9),
            "allow_msg_schedules": True,
        }
        try:
            config = (await self._api(f"STREAM.INFO.{self._stream}"))["config"]
        except QueueMissing:
            made = wanted | {"num_replicas": self._replicas, "max_consumers": QUEUES_MAX}
            config = (await self._api(f"STREAM.CREATE.{self._stream}", made))["config"]
        else:
            if any(config.get(key) != value for key, value in wanted.items()):
                changed = await self._api(f"STREAM.UPDATE.{self._stream}", config | wanted)
                config = changed["config"]
        # An older server passes over what it does not know, and would never send a delayed message.
        if not config.get("allow_msg_schedules"):
            raise TransportError(
                f"NATS at {self._link.where} cannot delay messages: it must be version 2.12 or later",
                code=Code.BROKER_OUTDATED,
            )

    async def _write_consumer(self, queue: str, lease_s: float) -> None:
        config = {
            "name": queue,
            "durable_name": queue,
            "filter_subject": self._subject(queue),
            "deliver_policy": "all",
            "replay_policy": "instant",
            "ack_policy": "explicit",
            "ack_wait": int(lease_s * 1e9),
            "max_deliver": -1,
            "max_ack_pending": -1,
            "max_waiting": 4096,
        }
        await self._api(
            f"CONSUMER.CREATE.{self._stream}.{queue}.{self._subject(queue)}",
            {"stream_name": self._stream, "config": config, "action": ""},
        )

    async def _consumer_info(self, queue: str) -> dict[str, Any]:
        _check_token(queue)
        return await self._api(f"CONSUMER.INFO.{self._stream}.{queue}")

    async def _count_delayed(self, queue: str) -> int:
        # Each delayed message is a subject. A page past the last one holds only their number.
        ask = {"subjects_filter": self._delayed(queue, "*"), "offset": _PAST_ANY_PAGE}
        info = await self._api(f"STREAM.INFO.{self._stream}", ask)
        return int(info.get("total", 0))

    async def _look_up(self, queue: str) -> tuple[bool, float]:
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
        if self._link.up:
            limit = min(limit, self._link.max_payload - HEADERS_MAX_BYTES)
        if len(body) > limit:
            raise MessageTooLarge(f"a message of {len(body)} bytes; NATS takes {limit} here")

    async def _repair(self, queue: str) -> bool:
        exists, _ = await self._look_up(queue)
        if not exists:
            try:
                await self._api(f"STREAM.INFO.{self._stream}")
            except QueueMissing:
                # The server removes a stream's files after it has answered, by name: those of one
                # that is made meanwhile as well, and then it stores nothing in that one any more.
                await asyncio.sleep(STREAM_GONE_S)
            await self.ensure(queue)
        return not exists

    def _forget(self, consumer: PullConsumer) -> None:
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


_RECEIPT = Receipt()


def _check_token(name: str) -> None:
    if _TOKEN.fullmatch(name) is None:
        raise QueueMissing(f"{name!r} is no name for a queue in NATS, so there is none")


def _schedule_id(dedup_id: str | None) -> str:
    # From the id, so that a repeated publish replaces the schedule even after the dedup window.
    if dedup_id is None:
        return secrets.token_hex(12)
    return hashlib.blake2b(dedup_id.encode(), digest_size=12).hexdigest()


def _whole_ms(moment: datetime) -> datetime:
    """The next full millisecond, since the broker's resolution must not make a message early."""
    return moment + timedelta(microseconds=-moment.microsecond % 1000)
