"""Several brokers behind one transport: each queue has its own.

Nothing is copied between brokers here. A sidecar consumes the queue of its actor and publishes
to that of the next one; it acks after the publish was confirmed, so that confirm is the other
broker's, and a death in between leads to a second delivery, never to a loss. Made by whoever runs
a mesh, and only where there is more than one broker; called as any transport.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any

from asya.transports.base import (
    Capabilities,
    Consumer,
    Delivery,
    Depth,
    Inspection,
    Receipt,
    Transport,
)


class MixedTransport(Transport):
    """Queues of one namespace at several brokers.

    Args:
        default: Has every queue that `queues` does not name: `x-sink` and `x-sump`, among others.
        queues: The other transports, by the full names of their queues.
    """

    def __init__(self, default: Transport, queues: Mapping[str, Transport]) -> None:
        self.capabilities = default.capabilities
        self._default = default
        self._by_queue = dict(queues)
        self._all = list(dict.fromkeys((default, *queues.values())))

    def of(self, queue: str) -> Transport:
        """The transport that has a queue."""
        return self._by_queue.get(queue, self._default)

    def capabilities_of(self, queue: str) -> Capabilities:
        """Those of the queue's broker."""
        return self.of(queue).capabilities_of(queue)

    @property
    def trouble(self) -> str | None:
        """What keeps any of the brokers from being reached."""
        return "; ".join(filter(None, (each.trouble for each in self._all))) or None

    def trigger(self, queue: str, target: int) -> dict[str, Any]:
        """See `Transport.trigger`."""
        return self.of(queue).trigger(queue, target)

    async def inspect(self, queues: Sequence[str]) -> Inspection:
        """All brokers in one; each is asked for its own queues."""
        asked = [[queue for queue in queues if self.of(queue) is each] for each in self._all]
        found = await asyncio.gather(
            *(each.inspect(own) for each, own in zip(self._all, asked, strict=True))
        )
        skews = [one.skew_s for one in found if one.skew_s is not None]
        return Inspection(
            ", ".join(one.broker for one in found),
            frozenset().union(*(one.queues for one in found)),
            tuple(finding for one in found for finding in one.findings),
            max(skews, key=abs, default=None),
        )

    async def connect(self) -> None:
        """Connect all; if one cannot be reached, none stays connected."""
        tries = await asyncio.gather(
            *(each.connect() for each in self._all), return_exceptions=True
        )
        failed = [error for error in tries if isinstance(error, BaseException)]
        if failed:
            await self.close()
            raise failed[0]

    async def close(self) -> None:
        """Close all."""
        await asyncio.gather(*(each.close() for each in self._all))

    async def ensure(self, queue: str) -> None:
        """See `Transport.ensure`."""
        await self.of(queue).ensure(queue)

    async def delete(self, queue: str) -> None:
        """See `Transport.delete`."""
        await self.of(queue).delete(queue)

    async def queues(self) -> list[str]:
        """Of all brokers."""
        found = await asyncio.gather(*(each.queues() for each in self._all))
        return sorted({queue for names in found for queue in names})

    def publish(
        self,
        queue: str,
        body: bytes,
        *,
        dedup_id: str | None = None,
        not_before: datetime | None = None,
    ) -> Coroutine[Any, Any, Receipt]:
        """Confirmed by the queue's broker."""
        return self.of(queue).publish(queue, body, dedup_id=dedup_id, not_before=not_before)

    async def consume(
        self, queue: str, on_delivery: Callable[[Delivery], None], *, window: int = 1
    ) -> Consumer:
        """See `Transport.consume`."""
        return await self.of(queue).consume(queue, on_delivery, window=window)

    async def depth(self, queue: str) -> Depth:
        """See `Transport.depth`."""
        return await self.of(queue).depth(queue)
