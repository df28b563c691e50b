"""Who waits for an envelope: event streams and `?wait=` requests.

A watcher is only woken; it reads what is new from the store, so that history and live events take
one path and none is lost or told twice. Only FLY events, which are never stored, are handed over,
through a short ring. Used in the event loop only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from asya.events import Flown

FLOWN_MAX: Final = 256
"""FLY events kept for a watcher that is slower than the handler; the oldest are dropped."""

FLOWN_MAX_BYTES: Final = 1024 * 1024
"""The same, in bytes."""


class Watch:
    """One watcher of one envelope.

    Attributes:
        id: The envelope.
        closing: The gateway shuts down; the watcher should end.
        dropped: FLY events that were dropped.
    """

    def __init__(self, id: str) -> None:
        self.id = id
        self.closing = False
        self.dropped = 0
        self._woken = asyncio.Event()
        self._flown: deque[Flown] = deque()
        self._flown_bytes = 0

    def wake(self) -> None:
        """There may be something new."""
        self._woken.set()

    def close(self) -> None:
        """End the watcher."""
        self.closing = True
        self._woken.set()

    def fly(self, event: Flown) -> None:
        """Hand over one FLY event."""
        self._flown.append(event)
        self._flown_bytes += len(event.data)
        while self._flown and (len(self._flown) > FLOWN_MAX or self._flown_bytes > FLOWN_MAX_BYTES):
            self._flown_bytes -= len(self._flown.popleft().data)
            self.dropped += 1
        self._woken.set()

    def take_flown(self) -> list[Flown]:
        """The FLY events since the last call."""
        taken = list(self._flown)
        self._flown.clear()
        self._flown_bytes = 0
        return taken

    async def woken(self, timeout_s: float) -> bool:
        """Sleep until something may be new; False when the time is over."""
        if not self._woken.is_set():
            try:
                async with asyncio.timeout(timeout_s):
                    await self._woken.wait()
            except TimeoutError:
                return False
        self._woken.clear()
        return True


class Watches:
    """All watchers and waiters, by envelope."""

    def __init__(self) -> None:
        self._watches: dict[str, set[Watch]] = {}
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self.open = 0
        self.waiting = 0
        self.released = False

    def add(self, id: str) -> Watch:
        """A new watcher; give it back with `remove`."""
        watch = Watch(id)
        watch.closing = self.released
        self._watches.setdefault(id, set()).add(watch)
        self.open += 1
        return watch

    def remove(self, watch: Watch) -> None:
        """Forget a watcher."""
        group = self._watches.get(watch.id)
        if group is not None and watch in group:
            group.discard(watch)
            self.open -= 1
            if not group:
                del self._watches[watch.id]

    def add_waiter(self, id: str) -> asyncio.Future[None]:
        """A future that is done when the envelope has ended, or the gateway shuts down."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.released:
            future.set_result(None)
        self._waiters.setdefault(id, set()).add(future)
        self.waiting += 1
        return future

    def remove_waiter(self, id: str, future: asyncio.Future[None]) -> None:
        """Forget a waiter."""
        group = self._waiters.get(id)
        if group is not None and future in group:
            group.discard(future)
            self.waiting -= 1
            if not group:
                del self._waiters[id]

    def wake(self, id: str) -> None:
        """Events of an envelope were stored."""
        for watch in self._watches.get(id, ()):
            watch.wake()

    def ended(self, id: str) -> None:
        """An envelope has ended."""
        self.wake(id)
        for future in self._waiters.get(id, ()):
            if not future.done():
                future.set_result(None)

    def fly(self, event: Flown) -> None:
        """Hand a FLY event to whoever watches the envelope or its root."""
        for id_ in {event.id, event.root}:
            for watch in self._watches.get(id_, ()):
                watch.fly(event)

    def release(self) -> None:
        """End all watchers and waiters, and those that come later."""
        self.released = True
        for group in self._watches.values():
            for watch in group:
                watch.close()
        for futures in self._waiters.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)
