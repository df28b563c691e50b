"""The brokers of a local mesh: which are used, how they are started, what is wrong with them.

A NATS server is started if an actor or the default is on NATS and no address says where one runs.
Every other broker is used by its address. The parts of the mesh see one transport: that of the only
broker, or a `MixedTransport`, wrapped by the store of delayed messages.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asya.addresses import TITLES, Address
from asya.clock import Clock
from asya.codes import Code
from asya.envelope import END_ACTORS, SINK, SUMP, queue_name
from asya.errors import Complaint, UsageError
from asya.local.broker import NatsServer
from asya.local.broker_watch import BrokerWatch
from asya.local.notices import QueueLeft, Tell, WorkResumed
from asya.settings import no_address
from asya.transports.base import Transport
from asya.transports.delayed import DelayedMessageStore, DelayingTransport
from asya.transports.mixed import MixedTransport
from asya.transports.nats.transport import NatsTransport
from asya.transports.opening import open_transport

if TYPE_CHECKING:
    from asya.manifest import AsyncActor
    from asya.settings import Settings

EMBEDDED: Final = "nats"
"""The broker that is started if it has no address."""


@dataclass(frozen=True)
class Use:
    """One broker of a mesh.

    Attributes:
        transport: Its name.
        address: Where it is; None is the one that is started here.
        queues: The full names of the queues that are there, sorted.
    """

    transport: str
    address: Address | None
    queues: tuple[str, ...]


def transport_of(actor: AsyncActor, settings: Settings) -> str:
    """The name of an actor's broker."""
    return actor.spec.transport or settings.transport


def brokers_in_use(actors: Iterable[AsyncActor], settings: Settings) -> list[Use]:
    """Every broker that has a queue of this mesh, the default one first."""
    names: dict[str, set[str]] = {settings.transport: {SINK, SUMP}}
    for actor in actors:
        names.setdefault(transport_of(actor, settings), set()).add(actor.name)
    return [
        Use(
            transport,
            settings.address_of(transport),
            tuple(sorted(queue_name(settings.namespace, name) for name in found)),
        )
        for transport, found in names.items()
    ]


def without_address(actors: Iterable[AsyncActor], settings: Settings) -> Iterator[Complaint]:
    """One error for each actor whose broker has no address."""
    for actor in actors:
        transport = transport_of(actor, settings)
        if transport != EMBEDDED and settings.address_of(transport) is None:
            text = f"{actor.source.file}:{actor.source.line}: actor {actor.name}: "
            yield Complaint(text + no_address(transport), Code.ADDRESS_MISSING)


class LocalTransports:
    """Brokers and transports from `start` to the end of the stack that it was given.

    Attributes:
        inner: What is connected; without the store of delayed messages.
        others: The transports of the brokers that are not the default, by name.
    """

    inner: Transport

    def __init__(
        self,
        actors: Sequence[AsyncActor],
        settings: Settings,
        data: Path,
        *,
        tell: Tell,
        clock: Clock,
    ) -> None:
        self.others: dict[str, Transport] = {}
        self._settings = settings
        self._data = data
        self._tell = tell
        self._clock = clock
        self._uses = brokers_in_use(actors, settings)
        self._default: Transport
        self._embedded: NatsTransport | None = None
        self._watch: BrokerWatch | None = None

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Start the server that is ours, and make the transports; `connect` comes after it.

        Raises:
            UsageError: A client library, or nats-server, is missing.
            TransportUnavailable: The server does not come up.
        """
        by_name = {use.transport: await self._open(use, stack) for use in self._uses}
        self._default = by_name.pop(self._settings.transport)
        self.others = by_name
        if not by_name:
            self.inner = self._default
            return
        queues = {queue: by_name[use.transport] for use in self._uses[1:] for queue in use.queues}
        self.inner = MixedTransport(self._default, queues)

    async def _open(self, use: Use, stack: contextlib.AsyncExitStack) -> Transport:
        settings = self._settings
        if use.address is not None:
            return open_transport(
                use.address, settings.namespace, lease_s=settings.lease_s, clock=self._clock
            )
        assert use.transport == EMBEDDED, use.transport  # others were refused before
        server = NatsServer(self._data / "nats", binary=settings.nats_server)
        stack.push_async_callback(server.stop)
        await server.start()
        self._watch = BrokerWatch(server, self._data, self._tell)
        self._watch.start()
        stack.push_async_callback(self._watch.stop)
        self._embedded = NatsTransport(
            server.url, settings.namespace, lease_s=settings.lease_s, clock=self._clock
        )
        return self._embedded

    def with_delayed_messages(self, messages: DelayedMessageStore) -> DelayingTransport:
        """What the mesh's parts use; to be started when `messages` can be used."""
        return DelayingTransport(self.inner, messages, clock=self._clock)

    @property
    def message_max_bytes(self) -> int:
        """What every broker in use takes, since an envelope may go on to any of them."""
        every = (self._default, *self.others.values())
        return min(transport.capabilities.message_max_bytes for transport in every)

    def tells_load(self, actor: str) -> bool:
        """Whether the actor's broker tells what waits there."""
        queue = queue_name(self._settings.namespace, actor)
        return self.inner.capabilities_of(queue).tells_load

    async def ensure_queues(self) -> None:
        """Make all queues. Messages that a killed mesh held at our own server are redelivered at once."""
        queues = [queue for use in self._uses for queue in use.queues]
        await asyncio.gather(*(self.inner.ensure(queue) for queue in queues))
        if self._embedded is None:
            return
        # Only this mesh uses this broker, so what is held was held by a supervisor that was killed.
        mine = [queue for use in self._uses if use.address is None for queue in use.queues]
        held = await asyncio.gather(*(self._embedded.recover_orphans(queue) for queue in mine))
        if sum(held):
            self._tell(WorkResumed(sum(held)))

    def shown(self) -> list[str]:
        """A few words for each broker; none if there is only the one that is started here."""
        if all(use.address is None for use in self._uses):
            return []
        return [
            f"{TITLES[use.transport]} "
            + (f"at {use.address.where}" if use.address else "(started here)")
            for use in self._uses
        ]

    def problem(self) -> str | None:
        """Why a broker takes no messages now, or None."""
        if self._watch is not None and (problem := self._watch.problem()):
            return problem
        # `BrokerWatch` speaks for our own server.
        away = [
            each.trouble
            for each in (self._default, *self.others.values())
            if each is not self._embedded
        ]
        told = "; ".join(filter(None, away))
        return f"{told}  [{Code.TRANSPORT_UNAVAILABLE}]" if told else None

    async def inspect_foreign_queues(self, known: Mapping[str, str]) -> None:
        """At our own server: tell of queues whose actors this mesh lacks, and remove empty ones.

        Args:
            known: The transports of the actors of this mesh, by name.
        """
        if self._embedded is None:
            return
        prefix = queue_name(self._settings.namespace, "")
        for queue in await self._embedded.queues():
            name = queue.removeprefix(prefix)
            if known.get(name) == EMBEDDED or name in END_ACTORS:
                continue
            depth = await self._embedded.depth(queue)
            waiting = depth.ready + depth.in_flight + depth.delayed
            if not waiting:
                await self._embedded.delete(queue)
            else:
                broker = TITLES[known[name]] if name in known else None
                self._tell(QueueLeft(name, waiting, broker))


def check_addresses(actors: Iterable[AsyncActor], settings: Settings) -> None:
    """Refuse a mesh in which an actor's broker has no address.

    Raises:
        UsageError: With every such actor.
    """
    problems = list(without_address(actors, settings))
    if problems:
        raise UsageError("\n".join(problems), code=Code.ADDRESS_MISSING)
