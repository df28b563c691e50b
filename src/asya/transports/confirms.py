"""Requests that wait for the broker's confirm: timeouts, loss of the connection, order.

One timer serves all of them, since a timer per publish would cost more than the publish: all
have the same timeout, so deadlines come in the order of the requests.

Called by the connections of NATS and RabbitMQ, and by the publishers of SQS and Pub/Sub (`fail`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from asya.errors import TransportError, TransportUnavailable

K = TypeVar("K", int, str)


class Confirms(Generic[K]):
    """Futures by the key under which the broker will answer.

    Attributes:
        pending: Those that are neither answered nor late, in the order of their requests.
        timeout_s: How long an answer is waited for, in seconds.
        late_bytes: The size of requests that timed out and are not answered yet. The client
            library may still hold them in its write buffer, so a caller should bound this.
    """

    __slots__ = (
        "_deadlines",
        "_late",
        "_on_sweep",
        "_reason",
        "_timer",
        "late_bytes",
        "pending",
        "timeout_s",
    )

    def __init__(
        self,
        timeout_s: float,
        reason: Callable[[], str],
        *,
        on_sweep: Callable[[float], None] | None = None,
    ) -> None:
        """Prepare.

        Args:
            timeout_s: See above.
            reason: The text for those that time out.
            on_sweep: Called with the loop's time after late ones were failed.
        """
        self.timeout_s = timeout_s
        self.pending: dict[K, asyncio.Future[Any]] = {}
        self.late_bytes = 0
        self._reason = reason
        self._on_sweep = on_sweep
        self._deadlines: deque[tuple[float, K, int]] = deque()
        self._late: dict[K, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, key: K, size: int = 0) -> asyncio.Future[Any]:
        """Wait for the answer to a request that is just being sent; keys are never used twice."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        pending, deadlines = self.pending, self._deadlines
        pending[key] = future
        while deadlines and deadlines[0][1] not in pending:
            deadlines.popleft()
        deadlines.append((loop.time() + self.timeout_s, key, size))
        if self._timer is None:
            self._timer = loop.call_at(deadlines[0][0], self._sweep)
        return future

    def settle(self, key: K, answer: Any) -> bool:
        """The answer came: a value, or the exception to raise. False if nobody waited for it."""
        future = self.pending.pop(key, None)
        if future is None:
            if self._late:
                self.late_bytes -= self._late.pop(key, 0)
            return False
        if future.done():
            return False
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
        return True

    def through(self, key: K) -> list[K]:
        """The keys of all requests up to this one, late ones included, in their order."""
        keys = [late for late in self._late if late <= key]
        for waiting in self.pending:
            if waiting > key:
                break
            keys.append(waiting)
        return keys

    def fail(self, keys: Iterable[K], reason: str) -> None:
        """Fail some with `TransportUnavailable`."""
        for key in keys:
            future = self.pending.pop(key, None)
            if future is not None and not future.done():
                future.set_exception(TransportUnavailable(reason))

    def fail_all(self, reason: str) -> None:
        """Fail all; the connection is gone, and what was late with it."""
        self._deadlines.clear()
        self._late.clear()
        self.late_bytes = 0
        self.fail(list(self.pending), reason)

    def expire(self) -> None:
        """Let all time out now."""
        now = asyncio.get_running_loop().time()
        self._deadlines = deque((now, key, size) for _, key, size in self._deadlines)
        if self._timer is not None:
            self._timer.cancel()
        self._sweep()

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        deadlines, pending, now = self._deadlines, self.pending, loop.time()
        while deadlines and (deadlines[0][0] <= now or deadlines[0][1] not in pending):
            _, key, size = deadlines.popleft()
            future = pending.pop(key, None)
            if future is None:
                continue
            if size:
                self._late[key] = size
                self.late_bytes += size
            if not future.done():
                future.set_exception(TransportUnavailable(self._reason()))
        if self._on_sweep is not None:
            self._on_sweep(now)
        if deadlines:
            self._timer = loop.call_at(deadlines[0][0], self._sweep)


def fail(futures: Iterable[asyncio.Future[None]], error: TransportError) -> None:
    """Fail those that still wait, each with an exception of its own.

    A traceback grows on an exception with everyone who raises it, so they must not share one.
    """
    kind = type(error)
    for future in futures:
        if not future.done():
            own = kind(*error.args, code=error.code)
            own.__cause__ = error
            future.set_exception(own)
