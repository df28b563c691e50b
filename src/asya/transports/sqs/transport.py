"""Queues on Amazon SQS, or on a server that speaks as it does.

Layout: a queue is an SQS queue of its own, made with the tag `asya-namespace`; the backstop
behind all of them is the namespace's `x-sump`. With the address's option `fifo` they are FIFO
queues, with `fair` standard ones whose messages have groups; a group is a run of a flow.

Called by whoever is given a `Transport`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Final

from asya.addresses import Address
from asya.clock import Clock, SystemClock
from asya.errors import MessageTooLarge, QueueMissing, TransportError, TransportUnavailable
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
from asya.transports.sqs import messages as sqs_messages
from asya.transports.sqs import queues as sqs_queues
from asya.transports.sqs.acks import Acks
from asya.transports.sqs.connection import Connection, Refused
from asya.transports.sqs.consumer import PollConsumer, PollOptions
from asya.transports.sqs.messages import Encoded
from asya.transports.sqs.publisher import Publisher

POLL_S: Final = 20.0
"""The longest that SQS lets a receive wait."""
KNOWN_S: Final = 300.0
"""How long a queue's URL is believed, in seconds."""
CLOSE_S: Final = 2.0
LINGER_S: Final = 1.0
"""How long a transport that closes waits for its last polls, in seconds."""
QUESTIONS_MAX: Final = 16
"""Questions about queues that are asked at a time."""
FIFO_DEDUP_S: Final = 300.0


class SqsTransport(Transport):
    """Amazon SQS in one region, for one namespace."""

    capabilities = Capabilities(
        name="sqs",
        persistent=True,
        deduplicates=False,
        dedup_window_s=0.0,
        delay_max_s=None,
        delay_resolution_s=1.0,
        message_max_bytes=sqs_messages.MESSAGE_MAX_BYTES,
        lease_s=30.0,
        depth_age_s=60.0,
        ordered=False,
    )

    def __init__(
        self,
        address: Address,
        namespace: str,
        *,
        lease_s: float | None = None,
        connect_timeout_s: float = 5.0,
        publish_timeout_s: float = 5.0,
        poll_s: float = POLL_S,
        linger_s: float = LINGER_S,
        clock: Clock | None = None,
    ) -> None:
        """Prepare.

        Args:
            address: `sqs://REGION`, with the options of `asya.addresses`.
            namespace: The mesh's namespace.
            lease_s: How long a delivery is ours without `extend`, in seconds, rounded up to whole
                ones; the address's if it is not given.
            connect_timeout_s: For `connect`, and for every connection, in seconds.
            publish_timeout_s: For every answer of SQS, in seconds.
            poll_s: How long a receive may wait at SQS, in whole seconds.
            linger_s: How long `close` waits for receives that are under way, in seconds.
            clock: Wall time, compared with `not_before`.
        """
        self._site = sqs_queues.Site.of(address, namespace)
        fifo = self._site.fifo
        lease_s = math.ceil(address.seconds("lease") if lease_s is None else lease_s)
        # One by one a FIFO group's next message comes when the one before it is settled; together
        # SQS would give several of a group to us at once.
        self._polling = PollOptions(lease_s, int(poll_s), 1 if fifo else sqs_messages.BATCH_MAX)
        self._new_connection = partial(
            Connection, address, connect_timeout_s=connect_timeout_s, timeout_s=publish_timeout_s
        )
        self._linger_s = linger_s
        self.clock = clock or SystemClock()
        self.capabilities = replace(type(self).capabilities, lease_s=float(lease_s))
        if fifo:
            # Not ordered in the sense of the seam: the order is that of a group.
            self.capabilities = replace(
                self.capabilities, deduplicates=True, dedup_window_s=FIFO_DEDUP_S, delay_max_s=0.0
            )
        self._urls: dict[str, tuple[str, float]] = {}
        self._spaces: dict[str, str] = {}
        self._sump_arn = ""
        self._sump_lock = asyncio.Lock()
        self._acks: dict[str, Acks] = {}
        self._consumers: list[PollConsumer] = []
        self._lingering: list[PollConsumer] = []
        self._connection = self._new_connection()
        self._publisher = self._new_publisher()

    def trigger(self, queue: str, target: int) -> dict[str, Any]:
        """Counts what is visible and what is in flight, not what is delayed."""
        return sqs_queues.keda_trigger(
            queue,
            target,
            region=self._site.region,
            endpoint=self._site.endpoint,
            account=self._site.account,
            fifo=self._site.fifo,
        )

    @property
    def trouble(self) -> str | None:
        """Why SQS cannot be used now."""
        return self._connection.trouble

    async def connect(self) -> None:
        """Connect; asks for the namespace's dead letters, which need not be there."""
        self._connection = self._new_connection()
        self._connection.outage.on_up = self._on_up
        self._publisher = self._new_publisher()
        self._acks.clear()
        await self._connection.open(
            self._broker_name(sqs_queues.dead_letters(self._site.namespace))
        )

    async def close(self) -> None:
        """Close all consumers, send what was settled, and disconnect; takes seconds at most.

        A poll that waits at SQS is broken off after `linger_s`. What SQS puts into its answer in
        that moment comes to somebody else when its lease ends.
        """
        await asyncio.gather(*(consumer.close() for consumer in list(self._consumers)))
        polls = {task for consumer in self._lingering for task in consumer.polls}
        if polls:
            await asyncio.wait(polls, timeout=self._linger_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await asyncio.gather(
                    *(acks.drained() for acks in self._acks.values()), self._publisher.drained()
                )
        self._drop()
        left = {task for consumer in self._lingering for task in consumer.polls}
        await self._connection.close()
        await asyncio.gather(*left, return_exceptions=True)

    def abort(self) -> None:
        """Vanish without a word, as a process does that is killed: for tests of crashes."""
        self._drop()
        self._connection.drop()

    async def ensure(self, queue: str) -> None:
        """Make the queue if it is not there; one that is there stays as it is."""
        if (why := sqs_queues.unfit(queue, fifo=self._site.fifo)) is not None:
            raise TransportError(why)
        if self._site.account:
            await self._ensure_foreign(queue)
            return
        if queue == sqs_queues.dead_letters(self._site.namespace):
            await self._make(queue, None)
            return
        try:
            await self._make(queue, await self._sump())
        except (Refused, QueueMissing) as error:
            if not isinstance(error, QueueMissing) and "Redrive" not in str(error):
                raise
            self._sump_arn = ""  # somebody deleted it
            await self._make(queue, await self._sump())

    async def delete(self, queue: str) -> None:
        """Remove the queue and all of its messages; stops this transport's consumers of it.

        SQS takes up to 60 s for that, and makes no queue of the name before.
        """
        if sqs_queues.unfit(queue, fifo=self._site.fifo) is not None:
            return
        mine = [consumer for consumer in self._consumers if consumer.queue == queue]
        await asyncio.gather(*(consumer.close() for consumer in mine))
        with contextlib.suppress(QueueMissing):
            self._urls.pop(queue, None)
            url = await self.url(queue)
            await self._connection.call("delete_queue", queue=queue, QueueUrl=url)
        self._urls.pop(queue, None)
        self._spaces.pop(queue, None)

    async def queues(self) -> list[str]:
        """The names of all queues of this namespace, sorted.

        Those of another account cannot be listed: there it is the ones that were used.
        """
        if self._site.account:
            return sorted(self._urls)
        return sorted(await self._list(self._connection))

    async def publish(
        self,
        queue: str,
        body: bytes,
        *,
        dedup_id: str | None = None,
        not_before: datetime | None = None,
    ) -> Receipt:
        """Put a message into a queue; see `Transport.publish`.

        Calls that overlap share requests, and each gets its own outcome. Whether a FIFO queue
        knew the `dedup_id` it does not say, so `duplicate` is never set.
        """
        limit = self.capabilities.message_max_bytes
        if len(body) > limit:
            raise MessageTooLarge(
                f"a message of {len(body)} bytes is too large: SQS accepts {limit}"
            )
        now = self.clock.now()
        if self._site.fifo and not_before is not None and not_before > now:
            raise TransportError("a FIFO queue of SQS delays no single messages")
        delay_s, later = sqs_messages.delay(not_before, now)
        more = {}
        if self._site.groups:
            more["MessageGroupId"] = sqs_messages.group_of(body, dedup_id)
        if self._site.fifo:
            more["MessageDeduplicationId"] = sqs_messages.dedup_token(dedup_id)
        encoded = sqs_messages.encode(body)
        await self._publisher.send(
            queue, encoded.weight, encoded.entry(not_before=later, delay_s=delay_s, **more)
        )
        return _RECEIPT

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, window: int = 1
    ) -> Consumer:
        """Begin to receive messages; goes on over outages until closed."""
        self._urls.pop(queue, None)
        await self.url(queue)
        consumer = PollConsumer(
            self._connection,
            self,
            self._acks_of(queue),
            queue=queue,
            on_delivery=on_delivery,
            window=window,
            options=self._polling,
        )
        self._consumers.append(consumer)
        consumer.start()
        return consumer

    async def depth(self, queue: str) -> Depth:
        """How many messages the queue holds, as SQS knew up to a minute ago."""
        found = await self._attributes(self._connection, queue, await self.url(queue))
        return Depth(
            ready=int(found["ApproximateNumberOfMessages"]),
            in_flight=int(found["ApproximateNumberOfMessagesNotVisible"]),
            delayed=int(found["ApproximateNumberOfMessagesDelayed"]),
        )

    async def inspect(self, queues: Sequence[str]) -> Inspection:
        """Look at the namespace's queues; see `Transport.inspect`."""
        connection = self._new_connection()
        sump = sqs_queues.dead_letters(self._site.namespace)
        await connection.open(self._broker_name(sump))
        try:
            listed = {} if self._site.account else await self._list(connection)
            wanted = sorted({*queues, sump})
            findings = await self._gather(self._findings(connection, queue) for queue in wanted)
        finally:
            await connection.close()
        found = [finding for each in findings for finding in each]
        names = frozenset(listed)
        return Inspection(f"Amazon {connection.where}", names, tuple(found), connection.skew_s)

    async def _findings(self, connection: Connection, queue: str) -> list[Finding]:
        if (why := sqs_queues.unfit(queue, fifo=self._site.fifo)) is not None:
            return [Finding(why, fatal=True, queue=queue)]
        sump = sqs_queues.dead_letters(self._site.namespace)
        try:
            found = await self._attributes(connection, queue, await self._find(connection, queue))
        except QueueMissing:
            return []
        target = None if queue == sump else self._broker_name(sump)
        where = f"the queue {self._broker_name(queue)}"
        remedy = "aws sqs set-queue-attributes changes it, the mesh never does"
        return [
            Finding(f"{where}: {text}; {remedy}", queue=queue)
            for text in sqs_queues.differences(found, fifo=self._site.fifo, sump=target)
        ]

    def _new_publisher(self) -> Publisher:
        return Publisher(
            self._connection,
            self.url,
            lambda queue: self._urls.pop(queue, None),
            in_order=self._site.fifo,
        )

    def _broker_name(self, queue: str) -> str:
        return sqs_queues.broker_name(queue, fifo=self._site.fifo)

    async def url(self, queue: str) -> str:
        """The queue's URL, or `QueueMissing`. For those that this is made of."""
        known = self._urls.get(queue)
        if known is not None and asyncio.get_running_loop().time() < known[1]:
            return known[0]
        return self._remember(queue, await self._find(self._connection, queue))

    async def _find(self, connection: Connection, queue: str) -> str:
        if (why := sqs_queues.unfit(queue, fifo=self._site.fifo)) is not None:
            raise QueueMissing(f"{why}, so there is none")
        owner: dict[str, Any] = (
            {"QueueOwnerAWSAccountId": self._site.account} if self._site.account else {}
        )
        name = self._broker_name(queue)
        try:
            answer = await connection.call("get_queue_url", queue=queue, QueueName=name, **owner)
        except QueueMissing:
            self._urls.pop(queue, None)
            raise
        return str(answer["QueueUrl"])

    def _remember(self, queue: str, url: str) -> str:
        self._urls[queue] = (url, asyncio.get_running_loop().time() + KNOWN_S)
        return url

    async def _attributes(self, connection: Connection, queue: str, url: str) -> dict[str, str]:
        answer = await connection.call(
            "get_queue_attributes", queue=queue, QueueUrl=url, AttributeNames=["All"]
        )
        found: dict[str, str] = answer.get("Attributes", {})
        return found

    async def _make(self, queue: str, dead_letters_arn: str | None) -> None:
        name = self._broker_name(queue)
        wanted = sqs_queues.attributes(fifo=self._site.fifo, dead_letters_arn=dead_letters_arn)
        try:
            answer = await self._connection.call(
                "create_queue",
                queue=queue,
                QueueName=name,
                Attributes=wanted,
                tags={sqs_queues.TAG: self._site.namespace},
            )
        except Refused as error:
            if error.reason not in _MAYBE_THERE:
                raise
            # It is there with other attributes (`inspect` tells which, nobody changes them here),
            # or somebody makes the queues for us.
            self._urls.pop(queue, None)
            try:
                await self.url(queue)
            except QueueMissing:
                raise error from None
        else:
            self._remember(queue, str(answer["QueueUrl"]))

    async def _sump(self) -> str:
        async with self._sump_lock:
            if not self._sump_arn:
                sump = sqs_queues.dead_letters(self._site.namespace)
                await self._make(sump, None)
                found = await self._attributes(self._connection, sump, await self.url(sump))
                self._sump_arn = found["QueueArn"]
            return self._sump_arn

    async def _ensure_foreign(self, queue: str) -> None:
        try:
            await self.url(queue)
        except QueueMissing as error:
            raise TransportError(
                f"the account {self._site.account} has no queue {self._broker_name(queue)} in "
                f"{self._site.region}, and nobody else can make it there; make it, or leave the "
                "address's option account away"
            ) from error

    async def _list(self, connection: Connection) -> dict[str, str]:
        """The namespace's queues and their URLs.

        Names cannot tell the namespace `a` with an actor `b-c` from `a-b` with `c`; tags do.
        """
        urls: dict[str, str] = {}
        pages = connection.pages(
            "list_queues", QueueNamePrefix=sqs_queues.prefix(self._site.namespace), MaxResults=1000
        )
        async for page in pages:
            for url in page.get("QueueUrls", []):
                name = sqs_queues.our_name(url.rpartition("/")[2], fifo=self._site.fifo)
                if name is not None:
                    urls[name] = url
        unknown = [name for name in urls if name not in self._spaces]
        spaces = await self._gather(self._space(connection, name, urls[name]) for name in unknown)
        self._spaces.update(zip(unknown, spaces, strict=True))
        return {
            n: url for n, url in urls.items() if self._spaces.get(n) in {"", self._site.namespace}
        }

    async def _space(self, connection: Connection, queue: str, url: str) -> str:
        """The namespace that a queue's tag names; empty without a tag, or if we may not read it."""
        try:
            answer = await connection.call("list_queue_tags", queue=queue, QueueUrl=url)
        except TransportUnavailable:
            raise
        except TransportError:
            return ""
        return str(answer.get("Tags", {}).get(sqs_queues.TAG, ""))

    async def _gather(self, questions: Any) -> list[Any]:
        slots = asyncio.Semaphore(QUESTIONS_MAX)

        async def ask(question: Any) -> Any:
            async with slots:
                return await question

        return await asyncio.gather(*(ask(question) for question in questions))

    def _acks_of(self, queue: str) -> Acks:
        acks = self._acks.get(queue)
        if acks is None:
            acks = self._acks[queue] = Acks(self._connection, queue, self.url)
        return acks

    async def send_on(self, queue: str, message: dict[str, Any], moment: datetime) -> None:
        """Publish a message anew that came before its time, as it is."""
        text = message["Body"]
        encoding = sqs_messages.attribute(message, sqs_messages.ENCODING)
        encoded = Encoded(text, encoding, len(text.encode()))
        delay_s, later = sqs_messages.delay(moment, self.clock.now())
        more = {}
        if self._site.groups:
            body = sqs_messages.decode(text, encoding)
            more["MessageGroupId"] = sqs_messages.group_of(body, None)
        await self._publisher.send(
            queue, encoded.weight, encoded.entry(not_before=later, delay_s=delay_s, **more)
        )

    async def repair(self, queue: str) -> bool:
        """Make the queue if it is gone; tells whether it was. For its consumers."""
        self._urls.pop(queue, None)
        try:
            await self.url(queue)
        except QueueMissing:
            await self.ensure(queue)
            return True
        return False

    def forget(self, consumer: PollConsumer) -> None:
        """A consumer is closed; its last polls may still bring messages."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)
        self._lingering = [one for one in self._lingering if one.polls]
        self._lingering.append(consumer)

    def _drop(self) -> None:
        for consumer in (*self._consumers, *self._lingering):
            consumer.drop()
        for acks in self._acks.values():
            acks.cancel()
        self._publisher.close()

    def _on_up(self) -> None:
        for consumer in self._consumers:
            consumer.reconnected()


_RECEIPT: Final = Receipt()
_MAYBE_THERE: Final = frozenset(
    {"QueueNameExists", "QueueAlreadyExists", "AccessDenied", "AccessDeniedException"}
)
