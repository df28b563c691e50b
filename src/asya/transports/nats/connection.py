"""One connection to a NATS server, kept for ever, with confirmed requests on top of it.

Rules of this file: it is the only one that imports `nats`, and does so when it connects. It uses
the public interface of one `nats.Client` per connection (but to clean up behind one) and makes a new one when that is gone, so
there is one way back and nothing of the old connection is replayed. Whoever sends never touches
the socket: commands go through an outbox that a single task writes, so `send` is synchronous, a
stuck socket blocks nobody, and what waits survives the change of connections.

Called by `asya.transports.nats.transport` and `asya.transports.nats.consumer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec

from asya.codes import Code
from asya.errors import MessageTooLarge, QueueMissing, TransportError, TransportUnavailable

log = logging.getLogger("asya.transports.nats")

RECONNECT_FIRST_S = 0.05
RECONNECT_MAX_S = 1.0
TICK_S = 1.0
CLOSE_S = 2.0
PING_S = 5
"""A frozen server is given up after two unanswered pings, so after at most three times this."""

_CONSUMER_NOT_FOUND = 10014
_STREAM_NOT_FOUND = 10059
_NO_STORAGE = frozenset({10023, 10047, 10077})
_IN_MOTION = frozenset({10012, 10149})

_CLIENT_TASKS = ("_reading_task", "_flusher_task", "_ping_interval_task")

_decode = msgspec.json.Decoder(type=dict[str, Any]).decode

# subject, payload, reply, headers, who waits for the answer, loop time after which it is void
_Command = tuple[str, bytes, str, dict[str, str] | None, "asyncio.Future[Any] | None", float]


class ConsumerInMotion(TransportError):
    """The server could not make a consumer; it may be in the middle of deleting it."""


class Link:
    """A connection that comes back by itself.

    Attributes:
        on_up: Called when the connection stands again, never for the first time.
        on_down: Called when it is gone.
        on_tick: Called about once a second while it stands.
        timeout_s: How long an answer is waited for, in seconds.
    """

    def __init__(self, url: str, *, name: str, connect_timeout_s: float, timeout_s: float) -> None:
        self._servers = [part.strip() for part in url.split(",") if part.strip()]
        self._name = name
        self._connect_timeout_s = connect_timeout_s
        self.timeout_s = timeout_s
        self.on_up: Callable[[], None] = _nothing
        self.on_down: Callable[[], None] = _nothing
        self.on_tick: Callable[[], None] = _nothing
        self._client: Any = None
        self._closed = False
        self._inbox = ""
        self._serial = 0
        self._outbox: deque[_Command] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._deadlines: deque[tuple[float, str]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._writer: asyncio.Task[None] | None = None
        self._revival: asyncio.Task[None] | None = None
        self._last_error = ""

    @property
    def up(self) -> bool:
        """Whether the connection stands, as far as is known."""
        return self._client is not None

    @property
    def where(self) -> str:
        """The servers' addresses, without credentials: for messages."""
        return ", ".join(_address(server) for server in self._servers)

    @property
    def max_payload(self) -> int:
        """What the server takes as one message, headers included, in bytes."""
        return int(self._client.max_payload) if self._client is not None else 0

    @property
    def server_version(self) -> str:
        """Of the server that we are connected to, such as `2.12.1`; empty without a connection."""
        return str(self._client.connected_server_version) if self._client is not None else ""

    async def open(self) -> None:
        """Connect.

        Raises:
            TransportUnavailable: Nobody answers at the address.
        """
        self._loop = asyncio.get_running_loop()
        await self._connect()
        self._ticker = self._loop.call_later(TICK_S, self._tick)

    async def close(self) -> None:
        """Write what is in the outbox, and disconnect. Bounded by `CLOSE_S`; idempotent."""
        if self._closed:
            return
        client = self._client
        if client is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSE_S):
                    await self._flush(client)
        self._closed = True
        self._client = None
        for timer in (self._ticker, self._sweeper):
            if timer is not None:
                timer.cancel()
        for task in (self._writer, self._revival):
            await _end(task)
        self._fail(list(self._waiting), "the transport was closed")
        if client is not None:
            await _discard(client)

    def drop(self) -> None:
        """Cut the connection without a word, as a killed process would: for tests of crashes."""
        self._closed = True
        client, self._client = self._client, None
        for handle in (self._ticker, self._sweeper, self._writer, self._revival):
            if handle is not None:
                handle.cancel()
        self._outbox.clear()
        self._fail(list(self._waiting), "the connection was cut")
        if client is not None:
            self._dropping = self._loop.create_task(_discard(client))

    def send(
        self, subject: str, payload: bytes, *, reply: str = "", void_at: float = float("inf")
    ) -> None:
        """Write a message soon, in order; during an outage when the connection is back.

        Not sent any more once the loop's time has passed `void_at`.
        """
        self._outbox.append((subject, payload, reply, None, None, void_at))
        self._wake.set()

    async def ask(
        self, subject: str, payload: bytes, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Send a JetStream request or publish, and return its answer, decoded.

        Raises:
            TransportUnavailable: No answer in time, or the connection broke before it.
            MessageTooLarge: Over the server's limit.
            QueueMissing: The stream or the consumer does not exist.
            TransportError: The server refuses.
        """
        if self._closed:
            raise TransportUnavailable(f"the transport to NATS at {self.where} is closed")
        self._serial += 1
        key = str(self._serial)
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting[key] = future
        self._expire_later(key)
        self._outbox.append((subject, payload, key, headers, future, float("inf")))
        self._wake.set()
        try:
            answer = await future
        finally:
            self._waiting.pop(key, None)
        data: bytes = answer.data
        if not data:
            raise TransportUnavailable(
                f"NATS at {self.where} has nobody who answers {subject}: "
                "is JetStream enabled, and does the stream exist?"
            )
        decoded = _decode(data)
        if "error" in decoded:
            raise _refusal(decoded["error"], subject)
        return decoded

    async def subscribe(self, subject: str, callback: Callable[[Any], Awaitable[None]]) -> Any:
        """Subscribe on the connection that stands now; the subscription ends with it.

        Raises:
            TransportUnavailable: There is no connection.
        """
        client = self._client
        if client is None:
            raise TransportUnavailable(f"no connection to NATS at {self.where}")
        try:
            # 0: no limit, and so nothing dropped here; windows bound what can come.
            return await client.subscribe(
                subject, cb=callback, pending_msgs_limit=0, pending_bytes_limit=0
            )
        except Exception as error:
            raise TransportUnavailable(f"NATS at {self.where}: {error}") from error

    def new_inbox(self) -> str:
        """A subject for answers that nobody else uses."""
        self._serial += 1
        return f"{self._inbox}.i{self._serial}"

    async def unsubscribe(self, subscription: Any) -> None:
        """End a subscription, after everything sent to it so far was handed to its callback.

        Outstanding pull requests for its subject are void from then on: the server takes back
        at once whatever it can no longer deliver there.
        """
        with contextlib.suppress(Exception):
            if self._client is None:
                await subscription.unsubscribe()
                return
            async with asyncio.timeout(CLOSE_S):
                await subscription.drain()

    async def _connect(self) -> None:
        import nats.aio.client

        self._last_error = ""
        client: Any = nats.aio.client.Client()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await client.connect(
                    servers=self._servers,
                    name=self._name,
                    error_cb=self._on_error,
                    disconnected_cb=self._on_disconnected,
                    closed_cb=self._on_disconnected,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0.05,
                    connect_timeout=max(1, int(self._connect_timeout_s)),
                    ping_interval=PING_S,
                    max_outstanding_pings=2,
                )
                inbox = client.new_inbox()
                await client.subscribe(
                    f"{inbox}.r.*", cb=self._on_reply, pending_msgs_limit=0, pending_bytes_limit=0
                )
        except Exception as error:
            await _discard(client)
            reason = self._last_error or str(error) or type(error).__name__
            raise TransportUnavailable(
                f"no NATS server answers at {self.where} ({reason}); is it running?"
            ) from error
        except BaseException:
            await _discard(client)
            raise
        if self._closed:
            await _discard(client)
            raise TransportUnavailable("the transport was closed while it connected")
        self._client, self._inbox = client, inbox
        self._reply_prefix = f"{inbox}.r."
        self._writer = self._loop.create_task(self._write(client))

    async def _write(self, client: Any) -> None:
        outbox, wake, publish, now = self._outbox, self._wake, client.publish, self._loop.time
        prefix = self._reply_prefix
        while True:
            while outbox:
                subject, payload, reply, headers, future, void_at = outbox[0]
                if future is not None:
                    if not future.done():
                        reply = prefix + reply
                    else:
                        outbox.popleft()
                        continue
                elif void_at <= now():
                    outbox.popleft()
                    continue
                try:
                    await publish(subject, payload, reply, headers)
                except Exception as error:
                    if not client.is_connected:
                        self._check()
                        return
                    _blame(future, subject, error)
                outbox.popleft()
            self._idle.set()
            wake.clear()
            await wake.wait()
            self._idle.clear()

    async def _flush(self, client: Any) -> None:
        while self._outbox:
            self._idle.clear()
            self._wake.set()
            await self._idle.wait()
        await client.flush(CLOSE_S)

    async def _on_reply(self, message: Any) -> None:
        future = self._waiting.pop(message.subject[len(self._reply_prefix) :], None)
        if future is not None and not future.done():
            future.set_result(message)

    async def _on_error(self, error: Exception) -> None:
        # A refusal says more than the reset that follows it.
        if "uthorization" not in self._last_error:
            self._last_error = str(error) or type(error).__name__
        self._loop.call_soon(self._check)

    async def _on_disconnected(self) -> None:
        self._loop.call_soon(self._check)

    def _check(self) -> None:
        client = self._client
        if client is None or client.is_connected or self._closed:
            return
        self._client = None
        if self._writer is not None:
            self._writer.cancel()
        log.warning(
            "lost the connection to NATS at %s (%s); connecting again until it is back",
            self.where,
            self._last_error or "closed",
        )
        queued = {id(command[4]) for command in self._outbox}
        written = [key for key, future in self._waiting.items() if id(future) not in queued]
        self._fail(written, f"the connection to NATS at {self.where} broke")
        self.on_down()
        self._revival = self._loop.create_task(self._revive(client, self._writer))

    async def _revive(self, old: Any, writer: asyncio.Task[None] | None) -> None:
        lost_at, delay_s = self._loop.time(), RECONNECT_FIRST_S
        await _end(writer)
        await _discard(old)
        while not self.up:
            if self._closed:  # `close` cancels this, too; Python 3.11's `wait_for` may lose that
                return
            try:
                await self._connect()
            except TransportUnavailable:
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 1.5, RECONNECT_MAX_S)
        self._last_error = ""
        log.warning(
            "connected to NATS at %s again after %.1f s", self.where, self._loop.time() - lost_at
        )
        self.on_up()

    def _tick(self) -> None:
        # The client's callbacks tell of most losses; this catches the ones they miss.
        self._ticker = self._loop.call_later(TICK_S, self._tick)
        self._check()
        if self.up:
            self.on_tick()

    def _expire_later(self, key: str) -> None:
        deadlines, waiting = self._deadlines, self._waiting
        while deadlines and deadlines[0][1] not in waiting:
            deadlines.popleft()
        deadlines.append((self._loop.time() + self.timeout_s, key))
        if self._sweeper is None:
            self._sweeper = self._loop.call_at(deadlines[0][0], self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        deadlines, now = self._deadlines, self._loop.time()
        late = []
        while deadlines and (deadlines[0][0] <= now or deadlines[0][1] not in self._waiting):
            late.append(deadlines.popleft()[1])
        self._fail(late, f"NATS at {self.where} did not answer within {self.timeout_s:g} s")
        if self._client is None:
            # Nobody writes now, and what nobody waits for must not pile up through an outage.
            kept = [command for command in self._outbox if not _void(command, now)]
            self._outbox.clear()
            self._outbox.extend(kept)
        if deadlines:
            self._sweeper = self._loop.call_at(deadlines[0][0], self._sweep)

    def _fail(self, keys: list[str], reason: str) -> None:
        for key in keys:
            future = self._waiting.pop(key, None)
            if future is not None and not future.done():
                future.set_exception(TransportUnavailable(reason))


def _void(command: _Command, now: float) -> bool:
    future, void_at = command[4], command[5]
    return future.done() if future is not None else void_at <= now


def _refusal(error: dict[str, Any], subject: str) -> TransportError:
    number, text = error.get("err_code"), error.get("description", "no reason given")
    if number in (_CONSUMER_NOT_FOUND, _STREAM_NOT_FOUND):
        return QueueMissing(f"NATS: {text} ({subject})")
    if number in _NO_STORAGE:
        return TransportUnavailable(
            f"NATS has no room left: {text}; free disk space", code=Code.BROKER_DISK_FULL
        )
    kind = ConsumerInMotion if number in _IN_MOTION else TransportError
    return kind(f"NATS refused {subject}: {text} (code {number})")


def _blame(future: asyncio.Future[Any] | None, subject: str, error: Exception) -> None:
    if type(error).__name__ == "MaxPayloadError":
        refusal: TransportError = MessageTooLarge(f"over the NATS server's max_payload: {subject}")
    else:
        refusal = TransportError(f"cannot send to {subject}: {error}")
    if future is None:
        log.error("%s", refusal)
    elif not future.done():
        future.set_exception(refusal)


async def _discard(client: Any) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(CLOSE_S):
            await client.close()
    # Where unsent bytes meet a reset connection nats-py 2.16 fails in the middle of its own close,
    # and leaves the socket open and its tasks running. There is no public way to end them.
    tasks = [getattr(client, name, None) for name in _CLIENT_TASKS]
    subscriptions = getattr(client, "_subs", {}).values()
    tasks += [getattr(one, "_wait_for_msgs_task", None) for one in subscriptions]
    for task in tasks:
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            task.add_done_callback(_retrieve)
    transport = getattr(client, "_transport", None)
    if transport is not None:
        with contextlib.suppress(Exception):
            transport.close()


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Look at the task's exception, so that asyncio does not print it: the loss is known."""
    if not task.cancelled():
        task.exception()


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None and task is not asyncio.current_task():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _address(server: str) -> str:
    return urlsplit(server if "://" in server else f"nats://{server}").netloc.rpartition("@")[2]


def _nothing() -> None:
    return None
