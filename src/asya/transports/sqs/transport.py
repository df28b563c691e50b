"""Queues on Amazon SQS, or on a server that speaks as it does.

Layout: a queue is an SQS queue of its own, made with the tag `asya-namespace`; the backstop
behind all of them is the namespace's `x-sump`. With the address's option `fifo` they are FIFO
queues, with `fair` standard ones whose messages have groups; a group is a run of a flow.

Rules of this file: translation only. `sqs_link` talks to SQS, `sqs_batch` gathers what goes
there, `sqs_take` takes messages, `sqs_messages` and `sqs_queues` say what things look like.
Called by whoever is given a `Transport`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

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
from asya.transports.sqs.batch import Batcher, Settler
from asya.transports.sqs.connection import Link, Refused
from asya.transports.sqs.consumer import PollConsumer
from asya.transports.sqs.messages import Encoded

POLL_S = 20.0
"""The longest that SQS lets a receive wait."""
KNOWN_S = 300.0
"""How long a queue's URL is believed, in seconds."""
CLOSE_S = 2.0
LINGER_S = 1.0
"""How long a transport that closes waits for its last polls, in seconds."""
LOOKS_MAX = 16
"""Questions about queues that are asked at a time."""
FIFO_DEDUP_S = 300.0


@dataclass(slots=True, eq=False)
class _Outgoing:
    """A message on its way, and who waits for its confirm."""

    entry: dict[str, Any]
    weight: int
    confirmed: asyncio.Future[None]


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
        self._address = address
        self._namespace = namespace
        self._fifo = address.flag("fifo")
        self._groups = self._fifo or address.flag("fair")
        self._account = address.text("account")
        self._lease_s = math.ceil(address.seconds("lease") if lease_s is None else lease_s)
        self._timeout_s = publish_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._poll_s = poll_s
        self._linger_s = linger_s
        self._clock = clock or SystemClock()
        self.capabilities = replace(type(self).capabilities, lease_s=float(self._lease_s))
        if self._fifo:
            # Not ordered in the sense of the seam: the order is that of a group.
            self.capabilities = replace(
                self.capabilities, deduplicates=True, dedup_window_s=FIFO_DEDUP_S, delay_max_s=0.0
            )
        self._urls: dict[str, tuple[str, float]] = {}
        self._spaces: dict[str, str] = {}
        self._sump_arn = ""
        self._sump_lock = asyncio.Lock()
        self._senders: dict[str, Batcher[_Outgoing]] = {}
        self._settlers: dict[str, Settler] = {}
        self._consumers: list[PollConsumer] = []
        self._lingering: list[PollConsumer] = []
        self._link = self._new_link()

    def trigger(self, queue: str, target: int) -> dict[str, Any]:
        """Counts what is visible and what is in flight, not what is delayed."""
        return sqs_queues.keda_trigger(
            queue,
            target,
            region=self._address.host,
            endpoint=self._address.text("endpoint"),
            account=self._account,
            fifo=self._fifo,
        )

    @property
    def trouble(self) -> str | None:
        """Why SQS cannot be used now."""
        return self._link.trouble

    async def connect(self) -> None:
        """Connect; asks for the namespace's dead letters, which need not be there."""
        self._now = asyncio.get_running_loop().time
        self._link = self._new_link()
        self._link.on_up = self._on_up
        self._senders.clear()
        self._settlers.clear()
        await self._link.open(self._broker_name(sqs_queues.dead_letters(self._namespace)))

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
                    *(settler.drained() for settler in self._settlers.values()),
                    *(sender.drained() for sender in self._senders.values()),
                )
        self._drop()
        left = {task for consumer in self._lingering for task in consumer.polls}
        await self._link.close()
        await asyncio.gather(*left, return_exceptions=True)

    def abort(self) -> None:
        """Vanish without a word, as a process does that is killed: for tests of crashes."""
        self._drop()
        self._link.drop()

    async def ensure(self, queue: str) -> None:
        """Make the queue if it is not there; one that is there stays as it is."""
        if (why := sqs_queues.unfit(queue, fifo=self._fifo)) is not None:
            raise TransportError(why)
        if self._account:
            await self._ensure_foreign(queue)
            return
        if queue == sqs_queues.dead_letters(self._namespace):
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
        if sqs_queues.unfit(queue, fifo=self._fifo) is not None:
            return
        mine = [consumer for consumer in self._consumers if consumer.queue == queue]
        await asyncio.gather(*(consumer.close() for consumer in mine))
        with contextlib.suppress(QueueMissing):
            self._urls.pop(queue, None)
            url = await self._url(queue)
            await self._link.call("delete_queue", queue=queue, QueueUrl=url)
        self._urls.pop(queue, None)
        self._spaces.pop(queue, None)

    async def queues(self) -> list[str]:
        """The names of all queues of this namespace, sorted.

        Those of another account cannot be listed: there it is the ones that were used.
        """
        if self._account:
            return sorted(self._urls)
        return sorted(await self._list(self._link))

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
            raise MessageTooLarge(f"a message of {len(body)} bytes; SQS takes {limit}")
        now = self._clock.now()
        if self._fifo and not_before is not None and not_before > now:
            raise TransportError("a FIFO queue of SQS delays no single messages")
        delay_s, later = sqs_messages.delay(not_before, now)
        more = {}
        if self._groups:
            more["MessageGroupId"] = sqs_messages.group_of(body, dedup_id)
        if self._fifo:
            more["MessageDeduplicationId"] = sqs_messages.dedup_token(dedup_id)
        encoded = sqs_messages.encode(body)
        await self._send(queue, encoded, encoded.entry(not_before=later, delay_s=delay_s, **more))
        return _RECEIPT

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, window: int = 1
    ) -> Consumer:
        """Begin to take messages; goes on over outages until closed."""
        self._urls.pop(queue, None)
        await self._url(queue)
        consumer = PollConsumer(
            self._link,
            self._settler(queue),
            queue=queue,
            url_of=self._url,
            on_delivery=on_delivery,
            window=window,
            lease_s=self._lease_s,
            poll_s=self._poll_s,
            # One by one a group's next message comes when the one before it is settled; together
            # SQS would give several of a group to us at once.
            batch_max=1 if self._fifo else sqs_messages.BATCH_MAX,
            clock=self._clock,
            send_on=lambda message, moment: self._send_on(queue, message, moment),
            repair=lambda: self._repair(queue),
            on_close=self._forget,
        )
        self._consumers.append(consumer)
        consumer.set_window(window)
        return consumer

    async def depth(self, queue: str) -> Depth:
        """How many messages the queue holds, as SQS knew up to a minute ago."""
        found = await self._attributes(self._link, queue, await self._url(queue))
        return Depth(
            ready=int(found["ApproximateNumberOfMessages"]),
            in_flight=int(found["ApproximateNumberOfMessagesNotVisible"]),
            delayed=int(found["ApproximateNumberOfMessagesDelayed"]),
        )

    async def inspect(self, queues: Sequence[str]) -> Inspection:
        """Look at the namespace's queues; see `Transport.inspect`."""
        link = self._new_link()
        sump = sqs_queues.dead_letters(self._namespace)
        await link.open(self._broker_name(sump))
        try:
            listed = {} if self._account else await self._list(link)
            wanted = sorted({*queues, sump})
            findings = await self._gather(self._findings(link, queue) for queue in wanted)
        finally:
            await link.close()
        found = [finding for each in findings for finding in each]
        names = frozenset(listed)
        return Inspection(f"Amazon {link.where}", names, tuple(found), link.skew_s)

    async def _findings(self, link: Link, queue: str) -> list[Finding]:
        if (why := sqs_queues.unfit(queue, fifo=self._fifo)) is not None:
            return [Finding(why, fatal=True, queue=queue)]
        sump = sqs_queues.dead_letters(self._namespace)
        try:
            found = await self._attributes(link, queue, await self._find(link, queue))
        except QueueMissing:
            return []
        target = None if queue == sump else self._broker_name(sump)
        where = f"the queue {self._broker_name(queue)}"
        remedy = "aws sqs set-queue-attributes changes it, the mesh never does"
        return [
            Finding(f"{where}: {text}; {remedy}", queue=queue)
            for text in sqs_queues.differences(found, fifo=self._fifo, sump=target)
        ]

    def _new_link(self) -> Link:
        return Link(
            self._address, connect_timeout_s=self._connect_timeout_s, timeout_s=self._timeout_s
        )

    def _closed_error(self) -> TransportUnavailable:
        return TransportUnavailable(f"the connection to {self._link.where} was closed")

    def _broker_name(self, queue: str) -> str:
        return sqs_queues.broker_name(queue, fifo=self._fifo)

    async def _url(self, queue: str) -> str:
        known = self._urls.get(queue)
        if known is not None and self._now() < known[1]:
            return known[0]
        return self._remember(queue, await self._find(self._link, queue))

    async def _find(self, link: Link, queue: str) -> str:
        if (why := sqs_queues.unfit(queue, fifo=self._fifo)) is not None:
            raise QueueMissing(f"{why}, so there is none")
        owner: dict[str, Any] = {"QueueOwnerAWSAccountId": self._account} if self._account else {}
        name = self._broker_name(queue)
        try:
            answer = await link.call("get_queue_url", queue=queue, QueueName=name, **owner)
        except QueueMissing:
            self._urls.pop(queue, None)
            raise
        return str(answer["QueueUrl"])

    def _remember(self, queue: str, url: str) -> str:
        self._urls[queue] = (url, self._now() + KNOWN_S)
        return url

    async def _attributes(self, link: Link, queue: str, url: str) -> dict[str, str]:
        answer = await link.call(
            "get_queue_attributes", queue=queue, QueueUrl=url, AttributeNames=["All"]
        )
        found: dict[str, str] = answer.get("Attributes", {})
        return found

    async def _make(self, queue: str, dead_letters_arn: str | None) -> None:
        name = self._broker_name(queue)
        wanted = sqs_queues.attributes(fifo=self._fifo, dead_letters_arn=dead_letters_arn)
        try:
            answer = await self._link.call(
                "create_queue",
                queue=queue,
                QueueName=name,
                Attributes=wanted,
                tags={sqs_queues.TAG: self._namespace},
            )
        except Refused as error:
            if error.reason not in _MAYBE_THERE:
                raise
            # It is there with other attributes (`inspect` tells which, nobody changes them here),
            # or somebody makes the queues for us.
            self._urls.pop(queue, None)
            try:
                await self._url(queue)
            except QueueMissing:
                raise error from None
        else:
            self._remember(queue, str(answer["QueueUrl"]))

    async def _sump(self) -> str:
        async with self._sump_lock:
            if not self._sump_arn:
                sump = sqs_queues.dead_letters(self._namespace)
                await self._make(sump, None)
                found = await self._attributes(self._link, sump, await self._url(sump))
                self._sump_arn = found["QueueArn"]
            return self._sump_arn

    async def _ensure_foreign(self, queue: str) -> None:
        try:
            await self._url(queue)
        except QueueMissing as error:
            raise TransportError(
                f"the account {self._account} has no queue {self._broker_name(queue)} in "
                f"{self._address.host}, and nobody else can make it there; make it, or leave the "
                "address's option account away"
            ) from error

    async def _list(self, link: Link) -> dict[str, str]:
        """The namespace's queues and their URLs.

        Names cannot tell the namespace `a` with an actor `b-c` from `a-b` with `c`; tags do.
        """
        urls: dict[str, str] = {}
        pages = link.pages(
            "list_queues", QueueNamePrefix=sqs_queues.prefix(self._namespace), MaxResults=1000
        )
        async for page in pages:
            for url in page.get("QueueUrls", []):
                name = sqs_queues.our_name(url.rpartition("/")[2], fifo=self._fifo)
                if name is not None:
                    urls[name] = url
        unknown = [name for name in urls if name not in self._spaces]
        spaces = await self._gather(self._space(link, name, urls[name]) for name in unknown)
        self._spaces.update(zip(unknown, spaces, strict=True))
        return {n: url for n, url in urls.items() if self._spaces.get(n) in {"", self._namespace}}

    async def _space(self, link: Link, queue: str, url: str) -> str:
        """The namespace that a queue's tag names; empty without a tag, or if we may not read it."""
        try:
            answer = await link.call("list_queue_tags", queue=queue, QueueUrl=url)
        except TransportUnavailable:
            raise
        except TransportError:
            return ""
        return str(answer.get("Tags", {}).get(sqs_queues.TAG, ""))

    async def _gather(self, questions: Any) -> list[Any]:
        slots = asyncio.Semaphore(LOOKS_MAX)

        async def ask(question: Any) -> Any:
            async with slots:
                return await question

        return await asyncio.gather(*(ask(question) for question in questions))

    def _sender(self, queue: str) -> Batcher[_Outgoing]:
        sender = self._senders.get(queue)
        if sender is None:

            async def work(batch: list[_Outgoing]) -> None:
                await self._send_batch(queue, batch)

            # The order within a group holds only if one batch follows the other.
            limits = {"requests_max": 1, "partial_max": 1} if self._fifo else {}
            sender = self._senders[queue] = Batcher(work, **limits)
        return sender

    def _settler(self, queue: str) -> Settler:
        settler = self._settlers.get(queue)
        if settler is None:
            settler = self._settlers[queue] = Settler(self._link, queue, self._url)
        return settler

    async def _send(self, queue: str, encoded: Encoded, entry: dict[str, Any]) -> None:
        """Send a message with the next batch; returns when SQS has confirmed it."""
        if self._link.closed:
            raise self._closed_error()
        confirmed = asyncio.get_running_loop().create_future()
        self._sender(queue).add(_Outgoing(entry, encoded.weight, confirmed))
        try:
            async with asyncio.timeout(self._timeout_s):
                await confirmed
        except TimeoutError as error:
            raise TransportUnavailable(
                f"{self._link.where} did not confirm within {self._timeout_s:g} s"
            ) from error

    async def _send_batch(self, queue: str, batch: list[_Outgoing]) -> None:
        live = [one for one in batch if not one.confirmed.done()]
        if not live:
            return
        entries = [{"Id": str(number), **one.entry} for number, one in enumerate(live)]
        try:
            url = await self._url(queue)
            answer = await self._link.call(
                "send_message_batch", queue=queue, QueueUrl=url, Entries=entries
            )
        except asyncio.CancelledError:
            _fail(live, self._closed_error())
            raise
        except Refused as error:
            if len(live) > 1:
                # One of them may be what is wrong; the others must not suffer for it.
                for one in live:
                    await self._send_batch(queue, [one])
            else:
                _fail(live, _size_or(error))
        except TransportError as error:
            if isinstance(error, QueueMissing):
                self._urls.pop(queue, None)
            _fail(live, error)
        else:
            self._confirm(queue, live, answer)

    def _confirm(self, queue: str, live: list[_Outgoing], answer: dict[str, Any]) -> None:
        well = {done["Id"] for done in answer.get("Successful", [])}
        failed = {one["Id"]: one for one in answer.get("Failed", [])}
        for number, one in enumerate(live):
            if one.confirmed.done():
                continue
            if str(number) in well:
                one.confirmed.set_result(None)
            elif (fault := failed.get(str(number))) is not None:
                error = self._link.entry_error(fault, queue)
                one.confirmed.set_exception(
                    _size_or(error) if isinstance(error, Refused) else error
                )
            else:
                text = f"{self._link.where} said nothing of a message for {queue}"
                one.confirmed.set_exception(TransportUnavailable(text))

    async def _send_on(self, queue: str, message: dict[str, Any], moment: datetime) -> None:
        """Publish a message anew that came before its time, as it is."""
        text = message["Body"]
        encoding = sqs_messages.attribute(message, sqs_messages.ENCODING)
        encoded = Encoded(text, encoding, len(text.encode()))
        delay_s, later = sqs_messages.delay(moment, self._clock.now())
        more = {}
        if self._groups:
            body = sqs_messages.decode(text, encoding)
            more["MessageGroupId"] = sqs_messages.group_of(body, None)
        await self._send(queue, encoded, encoded.entry(not_before=later, delay_s=delay_s, **more))

    async def _repair(self, queue: str) -> bool:
        self._urls.pop(queue, None)
        try:
            await self._url(queue)
        except QueueMissing:
            await self.ensure(queue)
            return True
        return False

    def _forget(self, consumer: PollConsumer) -> None:
        if consumer in self._consumers:
            self._consumers.remove(consumer)
        self._lingering = [one for one in self._lingering if one.polls]
        self._lingering.append(consumer)

    def _drop(self) -> None:
        for consumer in (*self._consumers, *self._lingering):
            consumer.drop()
        for settler in self._settlers.values():
            settler.cancel()
        for sender in self._senders.values():
            _fail(sender.cancel(), self._closed_error())

    def _on_up(self) -> None:
        for consumer in self._consumers:
            consumer.reconnected()


_RECEIPT = Receipt()
_MAYBE_THERE = frozenset(
    {"QueueNameExists", "QueueAlreadyExists", "AccessDenied", "AccessDeniedException"}
)


def _size_or(error: TransportError) -> TransportError:
    """`MessageTooLarge` where that is what SQS meant: a queue may take less than SQS does."""
    text = str(error)
    if "shorter than" in text or "longer than" in text or "BatchRequestTooLong" in text:
        return MessageTooLarge(text)
    return error


def _fail(live: Sequence[_Outgoing], error: TransportError) -> None:
    """Each its own error, since each is raised somewhere else."""
    kind = TransportError if isinstance(error, Refused) else type(error)
    for one in live:
        if not one.confirmed.done():
            one.confirmed.set_exception(kind(str(error), code=error.code))
