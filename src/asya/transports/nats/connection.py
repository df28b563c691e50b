"""One connection to a NATS server, kept for ever, with confirmed requests on top of it.

Rules of this file: it is the only one that imports `nats`, and does so when it connects. Each
connection is one `nats.Client`, without the client's own reconnecting. When it is gone a new one
is made, so there is one way back and nothing of the old connection is replayed. Whoever sends
never touches the socket: commands go through an `Outbox`, so `send` is synchronous, a stuck
socket blocks nobody, and what waits survives the change of connections.

Private parts of nats-py that are used here are listed in `INTERNALS`; a test names each of them.

Called by the transport, the consumers and the probe.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from asya.codes import Code
from asya.errors import QueueMissing, TransportError, TransportUnavailable
from asya.transports.backoff import reconnecting
from asya.transports.confirms import Confirms
from asya.transports.nats.outbox import Outbox
from asya.transports.outage import Outage, nothing

log = logging.getLogger("asya.transports.nats")

TICK_S: Final = 1.0
CLOSE_S: Final = 2.0
PING_S: Final = 5
"""A frozen server is given up after two unanswered pings, so after at most three times this."""

INTERNALS: Final = {
    "nats.aio.client:Client": (
        "_reading_task",
        "_flusher_task",
        "_ping_interval_task",
        "_subs",
        "_transport",
    ),
    "nats.aio.subscription:Subscription": ("_wait_for_msgs_task",),
}
"""nats-py 2.16 fails in the middle of its own `close` where unsent bytes meet a reset connection.
It leaves its socket open and its tasks running then, and has no public way to end them."""

_CONSUMER_NOT_FOUND: Final = 10014
_STREAM_NOT_FOUND: Final = 10059
_NO_STORAGE: Final = frozenset({10023, 10047, 10077})
_IN_MOTION: Final = frozenset({10012, 10149})
_NEVER: Final = float("inf")

_decode = msgspec.json.Decoder(type=dict[str, Any]).decode


class ConsumerInMotion(TransportError):
    """The server could not make a consumer; it may be in the middle of deleting it."""


class Connection:
    """A connection that comes back by itself.

    Attributes:
        on_tick: Called about once a second while it stands.
        confirms: The requests that wait for their answers.
        outage: Whether it stands; its callbacks tell of changes.
    """

    _loop: asyncio.AbstractEventLoop

    def __init__(self, url: str, *, name: str, connect_timeout_s: float, timeout_s: float) -> None:
        self._servers = [part.strip() for part in url.split(",") if part.strip()]
        self._name = name
        self._connect_timeout_s = connect_timeout_s
        self.confirms: Confirms[str] = Confirms(timeout_s, self._late, on_sweep=self._purge)
        self.outage = Outage(f"NATS at {self.where}", log)
        self.on_tick: Callable[[], None] = nothing
        self._client: Any = None
        self._closed = False
        self._inbox = ""
        self._serial = 0
        self._outbox = Outbox()
        self._ticker: asyncio.TimerHandle | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._last_error = ""

    @property
    def timeout_s(self) -> float:
        """How long an answer is waited for, in seconds."""
        return self.confirms.timeout_s

    @property
    def up(self) -> bool:
        """Whether the connection stands, as far as is known."""
        return self._client is not None

    @property
    def where(self) -> str:
        """The servers' addresses, without credentials: for messages."""
        return ", ".join(address(server) for server in self._servers)

    @property
    def max_payload(self) -> int:
        """What the server accepts as one message, headers included, in bytes."""
        return int(self._client.max_payload) if self._client is not None else 0

    @property
    def server_version(self) -> str:
        """The version of the connected server, such as `2.12.1`; empty without a connection."""
        return str(self._client.connected_server_version) if self._client is not None else ""

    async def open(self) -> None:
        """Connect.

        Raises:
            TransportUnavailable: No server answers at the address.
        """
        self._loop = asyncio.get_running_loop()
        await self._connect()
        self.outage.established()
        self._ticker = self._loop.call_later(TICK_S, self._tick)

    async def close(self) -> None:
        """Write what is in the outbox, and disconnect. Bounded by `CLOSE_S`; idempotent."""
        if self._closed:
            return
        client = self._client
        if client is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSE_S):
                    await self._outbox.drain()
                    await client.flush(CLOSE_S)
        self._stop("the transport was closed")
        await self._outbox.stop()
        await _end(self._recovery)
        if client is not None:
            await _discard(client)

    def drop(self) -> None:
        """Cut the connection without a word, as a killed process would: for tests of crashes."""
        client = self._client
        self._outbox.clear()
        self._stop("the connection was cut")
        self._outbox.cancel()
        if self._recovery is not None:
            self._recovery.cancel()
        if client is not None:
            self._recovery = self._loop.create_task(_discard(client))

    def _stop(self, reason: str) -> None:
        self._closed = True
        self._client = None
        if self._ticker is not None:
            self._ticker.cancel()
        self.confirms.close()
        self.confirms.fail_all(reason)

    def send(
        self, subject: str, payload: bytes, *, reply: str = "", void_at: float = _NEVER
    ) -> None:
        """Write a message soon, in order; during an outage when the connection is back.

        Not sent any more once the loop's time has passed `void_at`.
        """
        self._outbox.put((subject, payload, reply, None, None, void_at))

    async def request(
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
        future = self.confirms.expect(key)
        self._outbox.put((subject, payload, key, headers, future, _NEVER))
        try:
            answer = await future
        finally:
            self.confirms.pending.pop(key, None)
        data: bytes = answer.data
        if not data:
            raise TransportUnavailable(
                f"NATS at {self.where} has no responder for {subject}: "
                "is JetStream enabled, and does the stream exist?"
            )
        decoded = _decode(data)
        if "error" in decoded:
            raise refusal(decoded["error"], subject)
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
        self._outbox.start(client, inbox, self._check)

    async def _on_reply(self, message: Any) -> None:
        self.confirms.settle(message.subject[len(self._inbox) + 3 :], message)

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
        self._outbox.cancel()
        written = self._outbox.without_queued(self.confirms.pending)
        self.confirms.fail(written, f"the connection to NATS at {self.where} broke")
        # First, since `on_down` may close this connection, and `close` ends the recovery.
        self._recovery = self._loop.create_task(self._recover(client))
        self.outage.lost(self._last_error or "closed")

    async def _recover(self, old: Any) -> None:
        delays = reconnecting()
        await self._outbox.stop()
        await _discard(old)
        while not self.up:
            if self._closed:  # `close` cancels this, too; Python 3.11's `wait_for` may lose that
                return
            try:
                await self._connect()
            except TransportUnavailable:
                await asyncio.sleep(delays.next())
        self._last_error = ""
        self.outage.over()

    def _tick(self) -> None:
        # The client's callbacks tell of most losses; this catches the ones they miss.
        self._ticker = self._loop.call_later(TICK_S, self._tick)
        self._check()
        if self.up:
            self.on_tick()

    def _late(self) -> str:
        return f"NATS at {self.where} did not answer within {self.timeout_s:g} s"

    def _purge(self, now: float) -> None:
        if self._client is None:
            # Nothing is written now, and what nobody waits for must not pile up in an outage.
            self._outbox.purge(now)


def refusal(error: dict[str, Any], subject: str) -> TransportError:
    """The error that a JetStream answer means."""
    number, text = error.get("err_code"), error.get("description", "no reason given")
    if number in (_CONSUMER_NOT_FOUND, _STREAM_NOT_FOUND):
        return QueueMissing(f"NATS: {text} ({subject})")
    if number in _NO_STORAGE:
        return TransportUnavailable(
            f"NATS has no room left: {text}; free disk space", code=Code.BROKER_DISK_FULL
        )
    kind = ConsumerInMotion if number in _IN_MOTION else TransportError
    return kind(f"NATS refused {subject}: {text} (code {number})")


async def _discard(client: Any) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(CLOSE_S):
            await client.close()
    tasks = [getattr(client, name, None) for name in INTERNALS["nats.aio.client:Client"][:3]]
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


def address(server: str) -> str:
    """A server's host and port, without credentials."""
    return urlsplit(server if "://" in server else f"nats://{server}").netloc.rpartition("@")[2]
