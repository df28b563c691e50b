"""Queues on Google Pub/Sub, by the calls of its generated asyncio clients, with unary pulls.

Layout: a queue is a topic and a subscription, both of the queue's name and with the namespace as
a label (`queues.py`). Before anything is published the subscription is looked at, since a
topic without one drops what it is given without a word; the answer is believed for a short time.

Pub/Sub neither delays messages nor counts them, and drops no duplicates: `Capabilities` says so,
and what it cannot delay is kept by `asya.transports.delayed`. Called by whoever is given a `Transport`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple

from asya.addresses import Address
from asya.clock import Clock, SystemClock
from asya.errors import MessageTooLarge, QueueMissing, TransportError, TransportUnavailable
from asya.settings import environment
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
from asya.transports.pubsub.connection import AlreadyThere, Connection
from asya.transports.pubsub.consumer import PullConsumer, PullOptions
from asya.transports.pubsub.publisher import MESSAGE_MAX_BYTES, Outbox
from asya.transports.pubsub.queues import (
    ACK_DEADLINE_MAX_S,
    LABEL,
    Found,
    Layout,
    check_name,
    defect,
    drift,
    trigger,
)

EMULATOR: Final = "PUBSUB_EMULATOR_HOST"
"""The variable by which Google's tools say where the emulator is."""
KNOWN_S: Final = 5.0
"""How long a queue that was seen is believed to exist, in seconds."""
MISSING_S: Final = 0.5
"""How long a queue that was not there is believed to be missing, in seconds."""
MAKE_TRIES: Final = 5
PULL_S: Final = 10.0
"""How long a pull waits. At its end there are milliseconds in which the server hands out messages
that the client does not wait for any more: they come when their lease is over."""
ENDPOINT_PULL_S: Final = 2.0
"""The same for another server than Google's: the emulator goes on with pulls that nobody awaits."""
CLOSE_S: Final = 2.5
"""How long the last pulls are waited for when the transport is closed."""
PAGE: Final = 1000


class _Timing(NamedTuple):
    """How long a delivery is ours, and how long a pull waits."""

    lease_s: float
    pull_s: float


class PubSubTransport(Transport):
    """A connection to Google Pub/Sub, for one namespace."""

    capabilities = Capabilities(
        name="pubsub",
        persistent=True,
        deduplicates=False,
        dedup_window_s=0.0,
        delay_max_s=0.0,
        delay_resolution_s=0.0,
        message_max_bytes=MESSAGE_MAX_BYTES,
        lease_s=60.0,
        counts_ready=False,
        counts_in_flight=False,
        counts_delayed=False,
        ordered=False,
    )

    def __init__(
        self,
        address: Address,
        namespace: str,
        *,
        lease_s: float = 60.0,
        connect_timeout_s: float = 5.0,
        publish_timeout_s: float = 5.0,
        pull_s: float | None = None,
        clock: Clock | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Prepare.

        Args:
            address: `pubsub://PROJECT`, with its options.
            namespace: The mesh's namespace, a DNS label.
            lease_s: How long a delivery is ours without `extend`, in seconds; below 10 s, which is
                the least that a subscription can have, each message is given its own.
            connect_timeout_s: For `connect`, in seconds. Later connections are tried for ever.
            publish_timeout_s: For every answer of the broker, in seconds.
            pull_s: How long a pull waits for messages, in seconds; None is 10, and 2 with an
                endpoint.
            clock: Wall time, compared with `not_before`.
            environ: The environment, for `PUBSUB_EMULATOR_HOST`; None is the process's.
        """
        if not 1 <= lease_s <= ACK_DEADLINE_MAX_S:
            raise TransportError(
                f"a lease of {lease_s:g} s; Pub/Sub takes 1 to {ACK_DEADLINE_MAX_S} s"
            )
        environ = environment() if environ is None else environ
        endpoint = address.text("endpoint") or environ.get(EMULATOR, "").rpartition("://")[2]
        self.capabilities = replace(type(self).capabilities, lease_s=lease_s)
        self._layout = Layout(address.host, namespace)
        self._keda = address.text("keda")
        self._timing = _Timing(lease_s, pull_s or (ENDPOINT_PULL_S if endpoint else PULL_S))
        self._clock = clock or SystemClock()
        self._consumers: list[PullConsumer] = []
        self._ending: list[PullConsumer] = []
        self._outboxes: dict[str, Outbox] = {}
        self._seen: dict[str, tuple[str | None, float]] = {}
        self._looking: dict[str, asyncio.Task[Found]] = {}
        self._has_dead_letters = False
        self._making_dead_letters = asyncio.Lock()
        self._endpoint = endpoint
        self._new_connection = partial(
            Connection,
            f"{address.host} at {endpoint}" if endpoint else address.host,
            endpoint,
            self._layout.topic(self._layout.dead_letters),
            connect_timeout_s=connect_timeout_s,
            timeout_s=publish_timeout_s,
        )
        self._connection = self._new_connection()
        self._connection.outage.on_up = self._on_up
        self._connection.outage.on_down = self._seen.clear

    @property
    def trouble(self) -> str | None:
        """Why the broker cannot be used now."""
        return self._connection.trouble

    def trigger(self, queue: str, target: int) -> dict[str, Any]:
        """Counts what is waiting and in flight, two to three minutes late."""
        return trigger(self._layout, queue, target, self._keda)

    async def inspect(self, queues: Sequence[str]) -> Inspection:
        """Look at the namespace's subscriptions; see `Transport.inspect`."""
        connection, own = self._connection, not self._connection.up
        if own:
            connection = self._new_connection()
            await connection.open()
        try:
            found = await self._list(connection)
        finally:
            if own:
                await connection.close()
        findings: list[Finding] = []
        for queue in queues:
            if queue in found:
                findings += drift(self._layout, queue, found[queue], self._timing.lease_s)
        ours = frozenset(name for name, each in found.items() if self._is_ours(each))
        what = "Pub/Sub" if self._endpoint else "Google Pub/Sub"
        return Inspection(f"{what}, project {self._connection.where}", ours, tuple(findings))

    async def connect(self) -> None:
        """Connect; with the credentials of Google's default chain, unless there is an endpoint."""
        await self._connection.open()

    async def close(self) -> None:
        """Close all consumers, tell what was settled, and disconnect; takes seconds at most."""
        await asyncio.gather(*(consumer.close() for consumer in list(self._consumers)))
        await asyncio.gather(*(consumer.end(CLOSE_S) for consumer in self._ending))
        self._ending.clear()
        for task in list(self._looking.values()):
            task.cancel()
        await self._connection.close()

    def abort(self) -> None:
        """Vanish without a word, as a process does that is killed: for tests of crashes."""
        for consumer in self._consumers + self._ending:
            consumer.abandon()
        self._connection.drop()

    async def ensure(self, queue: str) -> None:
        """Make topic and subscription if they are not there, and those of the dead letters."""
        check_name(queue)
        await self._ensure_dead_letters()
        await self._ensure(queue)

    async def delete(self, queue: str) -> None:
        """Remove the queue and all of its messages; stops this transport's consumers of it.

        A consumer elsewhere makes the queue again, empty: whoever runs an actor has its queue.
        """
        check_name(queue)
        mine = [consumer for consumer in self._consumers if consumer.queue == queue]
        await asyncio.gather(*(consumer.close() for consumer in mine))
        self._remember(queue, f"there is no queue {queue} in Pub/Sub in {self._connection.where}")
        if queue == self._layout.dead_letters:
            self._has_dead_letters = False
        # the topic first: what is published in between is refused, and not dropped
        with contextlib.suppress(QueueMissing):
            await self._call("DeleteTopic", self._layout.topic(queue), "topic")
        with contextlib.suppress(QueueMissing):
            await self._call("DeleteSubscription", self._layout.subscription(queue), "subscription")

    async def queues(self) -> list[str]:
        """The names of all queues of this namespace, sorted."""
        found = await self._list(self._connection)
        return sorted(name for name, each in found.items() if self._is_ours(each))

    async def publish(
        self,
        queue: str,
        body: bytes,
        *,
        dedup_id: str | None = None,
        not_before: datetime | None = None,
    ) -> Receipt:
        """Put a message into a queue; see `Transport.publish`. It travels with its `dedup_id`."""
        if not_before is not None and not_before > self._clock.now():
            raise TransportError("Pub/Sub cannot hold messages back until their time")
        if len(body) > MESSAGE_MAX_BYTES:
            raise MessageTooLarge(
                f"a message of {len(body)} bytes is too large: "
                f"Pub/Sub accepts {MESSAGE_MAX_BYTES} here"
            )
        known = self._seen.get(queue)
        if known is None or known[1] < asyncio.get_running_loop().time():
            known = await self._check(queue)
        if known[0] is not None:
            raise QueueMissing(known[0])
        outbox = self._outboxes.get(queue)
        if outbox is None:
            outbox = self._outboxes[queue] = Outbox(self._connection, self._layout.topic(queue))
        try:
            await outbox.put(body, dedup_id)
        except QueueMissing:
            self._remember(
                queue, f"there is no queue {queue} in Pub/Sub in {self._connection.where}"
            )
            for consumer in self._consumers:
                if consumer.queue == queue:
                    consumer.inspect_soon()
            raise
        except TransportUnavailable:
            self._seen.pop(queue, None)
            raise
        return _RECEIPT

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, window: int = 1
    ) -> Consumer:
        """Begin to receive messages; goes on over outages of the broker until closed."""
        found = await self._look_up(queue)
        consumer = PullConsumer(
            self._connection,
            self,
            queue=queue,
            on_delivery=on_delivery,
            window=window,
            options=PullOptions(
                self._layout.subscription(queue),
                self._timing.lease_s,
                self._timing.pull_s,
                adjusts=found.ack_deadline_s != self._timing.lease_s,
            ),
        )
        self._consumers.append(consumer)
        return consumer

    async def depth(self, queue: str) -> Depth:
        """What this process holds of the queue: Pub/Sub tells nothing by itself."""
        known = self._seen.get(queue)
        if known is None or known[1] < asyncio.get_running_loop().time():
            known = await self._check(queue)
        if known[0] is not None:
            raise QueueMissing(known[0])
        if not self._connection.up:
            raise TransportUnavailable(self._connection.trouble)
        mine = [consumer for consumer in self._consumers if consumer.queue == queue]
        return Depth(
            ready=sum(consumer.waiting for consumer in mine),
            in_flight=sum(consumer.unsettled for consumer in mine),
            delayed=0,
        )

    async def _call(self, name: str, resource: str, field: str) -> Any:
        request = self._connection.request(name, **{field: resource})
        return await self._connection.call(name, request, resource)

    async def _list(self, connection: Connection) -> dict[str, Found]:
        """The subscriptions that have names like ours; another namespace's may be among them."""
        found: dict[str, Found] = {}
        root, token = self._layout.root, ""
        prefix = f"asya-{self._layout.namespace}-"
        while True:
            request = connection.request(
                "ListSubscriptions", project=root, page_size=PAGE, page_token=token
            )
            page = await connection.call("ListSubscriptions", request, root)
            for message in page.subscriptions:
                each = Found.read(message)
                if each.name.startswith(prefix):
                    found[each.name] = each
            token = page.next_page_token
            if not token:
                return found

    def _is_ours(self, found: Found) -> bool:
        return found.labels.get(LABEL) == self._layout.namespace

    async def _ensure_dead_letters(self) -> None:
        if self._has_dead_letters:
            return
        async with self._making_dead_letters:
            if not self._has_dead_letters:
                await self._ensure(self._layout.dead_letters)
                self._has_dead_letters = True

    async def _ensure(self, queue: str) -> bool:
        """Make what is missing of one queue; tells whether that was its subscription."""
        for _ in range(MAKE_TRIES):
            try:
                return await self._make(queue)
            except QueueMissing:  # its topic, or the one of the dead letters, was just deleted
                self._has_dead_letters = False
                if queue != self._layout.dead_letters:
                    await self._ensure_dead_letters()
        raise TransportError(f"the queue {queue} is deleted as often as it is made")

    async def _make(self, queue: str) -> bool:
        layout, connection = self._layout, self._connection
        try:
            found = Found.read(
                await self._call("GetSubscription", layout.subscription(queue), "subscription")
            )
        except QueueMissing:
            pass
        else:
            self._accept(queue, found)
            return False
        with contextlib.suppress(AlreadyThere):
            topic = connection.request("CreateTopic", **layout.topic_config(queue))
            await connection.call("CreateTopic", topic, topic.name)
        config = layout.subscription_config(queue, self._timing.lease_s)
        request = connection.request("CreateSubscription", **config)
        # empty, which the constructor does not tell from absent
        request.expiration_policy.SetInParent()
        try:
            await connection.call("CreateSubscription", request, request.name)
        except AlreadyThere:
            found = Found.read(
                await self._call("GetSubscription", layout.subscription(queue), "subscription")
            )
            self._accept(queue, found)
            return False
        self._remember(queue, None)
        return True

    def _accept(self, queue: str, found: Found) -> None:
        """Raise where what is there cannot become a queue without losing what it holds."""
        broken = defect(self._layout, queue, found)
        self._remember(queue, broken)
        if broken is not None and not found.orphaned:
            raise TransportError(broken)

    async def _look_up(self, queue: str) -> Found:
        """How the subscription is, asked once for everybody who wants to know it now.

        Raises:
            QueueMissing: There is none.
        """
        check_name(queue)
        task = self._looking.get(queue)
        if task is None:
            name = self._layout.subscription(queue)
            task = asyncio.get_running_loop().create_task(self._get(name))
            self._looking[queue] = task
            task.add_done_callback(lambda done: self._looked(queue, done))
        return await asyncio.shield(task)

    async def _get(self, subscription: str) -> Found:
        return Found.read(await self._call("GetSubscription", subscription, "subscription"))

    def _looked(self, queue: str, task: asyncio.Task[Found]) -> None:
        del self._looking[queue]
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._remember(queue, defect(self._layout, queue, task.result()))
        elif isinstance(error, QueueMissing):
            self._remember(queue, str(error))

    async def _check(self, queue: str) -> tuple[str | None, float]:
        """Whether what is published would come out; the reason why not, and how long that holds."""
        with contextlib.suppress(QueueMissing):
            found = await self._look_up(queue)
            return self._remember(queue, defect(self._layout, queue, found))
        return self._remember(
            queue, f"there is no queue {queue} in Pub/Sub in {self._connection.where}"
        )

    def _remember(self, queue: str, problem: str | None) -> tuple[str | None, float]:
        known = (
            problem,
            asyncio.get_running_loop().time() + (KNOWN_S if problem is None else MISSING_S),
        )
        self._seen[queue] = known
        return known

    async def repair(self, queue: str) -> bool:
        """Make the queue if it is gone; for its consumer, see there."""
        try:
            found = await self._look_up(queue)
        except QueueMissing:
            await self._ensure_dead_letters()
            return await self._ensure(queue)
        if found.orphaned:
            raise QueueMissing(f"the topic of {queue} was deleted")
        broken = defect(self._layout, queue, found)
        if broken is not None:
            raise TransportError(broken)
        return False

    async def recreate(self, queue: str) -> bool:
        """Delete a subscription that has lost its topic and holds nothing more, and make both."""
        found = await self._look_up(queue)
        if found.orphaned:
            with contextlib.suppress(QueueMissing):
                await self._call(
                    "DeleteSubscription", self._layout.subscription(queue), "subscription"
                )
        await self._ensure_dead_letters()
        await self._ensure(queue)
        return True

    def forget(self, consumer: PullConsumer) -> None:
        """A consumer is closed; its last pull may still bring messages."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)
        self._ending = [each for each in self._ending if not each.ended]
        self._ending.append(consumer)

    def _on_up(self) -> None:
        self._seen.clear()
        for consumer in self._consumers:
            consumer.resume()


_RECEIPT: Final = Receipt()
