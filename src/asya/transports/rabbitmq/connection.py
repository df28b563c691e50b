"""The way to a RabbitMQ server, kept for ever: two connections, and the channels on them.

Rules of this file: it imports `pika`, and does so when it connects. There are two connections,
because a broker that is short of memory or disk stops reading from those that publish: acks must
not stand behind that. They live and die together; when one is gone both are made anew, so there
is one way back and nothing of the old ones is replayed.

Called by the transport, the consumers, the registry and the probe.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from asya.addresses import Address
from asya.errors import QueueMissing, TransportError, TransportUnavailable
from asya.transports.backoff import reconnecting
from asya.transports.outage import Outage, nothing
from asya.transports.rabbitmq.channel import Channel, pika_errors
from asya.transports.rabbitmq.publisher import Publisher

log = logging.getLogger("asya.transports.rabbitmq")

TICK_S: Final = 1.0
CLOSE_S: Final = 2.0
LINGER_S: Final = 0.05
"""Between the last ack and the good-bye: a channel that is closed forgets acks under way."""

INTERNALS: Final = {
    "pika.adapters.asyncio_connection:AsyncioConnection": ("_adapter_disconnect_stream",)
}
"""pika has no public way to abort a connection."""

_NOT_FOUND: Final = 404
_RESOURCE_ERROR: Final = 506


class Connection:
    """A way to the server that comes back by itself.

    Attributes:
        loop: The event loop; known after `open`.
        outage: Whether it stands; its callbacks tell of changes.
        on_tick: Called about once a second while it stands.
        publisher: Publishes messages.
        where: The server's address, without credentials.
        version: The server's.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(
        self, address: Address, *, name: str, connect_timeout_s: float, timeout_s: float
    ) -> None:
        self._address = address
        self._name = name
        self._connect_timeout_s = connect_timeout_s
        self.where = address.where
        self.outage = Outage(f"RabbitMQ at {self.where}", log)
        self.on_tick: Callable[[], None] = nothing
        self.publisher = Publisher(self.where, timeout_s)
        self.version = ""
        self._consuming: Any = None
        self._publishing: Any = None
        self._closed = False
        self._trouble = f"not connected to RabbitMQ at {self.where} yet"
        self._ticker: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def timeout_s(self) -> float:
        """How long an answer is waited for, in seconds."""
        return self.publisher.confirms.timeout_s

    @property
    def up(self) -> bool:
        """Whether the connections stand, as far as is known."""
        return self._consuming is not None

    @property
    def trouble(self) -> str | None:
        """Why nothing can be sent now, for people."""
        if self._consuming is None:
            return self._trouble
        return self.publisher.blocked or self.publisher.refused or None

    async def open(self) -> None:
        """Connect.

        Raises:
            TransportUnavailable: Nobody answers at the address.
            TransportError: The broker does not let us in.
        """
        self.loop = asyncio.get_running_loop()
        await self._connect()
        self.outage.established()
        self._ticker = self.loop.call_later(TICK_S, self._tick)

    async def close(self) -> None:
        """Disconnect, once everything is written. Bounded by `CLOSE_S`; idempotent."""
        if self._closed:
            return
        if self.up:
            await asyncio.sleep(LINGER_S)
        self._closed = True
        self._trouble = f"the transport to RabbitMQ at {self.where} is closed"
        connections = self._stop()
        tasks = list(self._tasks)
        for task in tasks:
            if task.get_name() == _RECOVERY:
                task.cancel()
        await asyncio.gather(*(_discard(one) for one in connections))
        await asyncio.gather(*tasks, return_exceptions=True)

    def drop(self) -> None:
        """Cut the connections without a word, as a killed process would: for tests of crashes."""
        self._closed = True
        self._trouble = f"the connection to RabbitMQ at {self.where} was cut"
        for task in self._tasks:
            if task.get_name() == _RECOVERY:
                task.cancel()
        for connection in self._stop():
            _abort(connection)

    def _stop(self) -> list[Any]:
        if self._ticker is not None:
            self._ticker.cancel()
        connections = self._detach()
        self.publisher.close(self._trouble)
        return connections

    async def channel(self) -> Channel:
        """A new channel for anything but publishing; it ends with the connection.

        Raises:
            TransportUnavailable: There is no connection, or no answer.
        """
        return await self._open_channel(self._consuming)

    def publish(self, exchange: str, key: str, body: bytes) -> asyncio.Future[None]:
        """Write a message; see `Publisher.publish`."""
        if self._consuming is None:
            raise TransportUnavailable(self._trouble)
        return self.publisher.publish(exchange, key, body)

    def refusal(self, reason: BaseException) -> TransportError:
        """What the broker or pika said, as an error of ours."""
        code = getattr(reason, "reply_code", 0)
        text = f"RabbitMQ at {self.where}: {_text(reason)}"
        if code == _NOT_FOUND:
            return QueueMissing(text)
        if type(reason).__name__ == "ChannelClosedByBroker" and 400 <= code < _RESOURCE_ERROR:
            return TransportError(text)
        return TransportUnavailable(text)

    async def _connect(self) -> None:
        results = await asyncio.gather(
            self._connect_one("consuming"), self._connect_one("publishing"), return_exceptions=True
        )
        opened = [one for one in results if not isinstance(one, BaseException)]
        failed = next((one for one in results if isinstance(one, BaseException)), None)
        try:
            if failed is not None:
                raise failed
            if self._closed:
                raise TransportUnavailable(self._trouble)
            consuming, publishing = opened
            channel = await self._open_publisher(publishing)
            if consuming.is_closed:
                raise TransportUnavailable(f"RabbitMQ at {self.where} closed the connection")
        except BaseException:
            for connection in opened:
                self._discard_later(connection)
            raise
        self._consuming, self._publishing = consuming, publishing
        self.publisher.use(publishing, channel)
        self.version = str((consuming.server_properties or {}).get("version", ""))
        self._trouble = ""

    async def _connect_one(self, use: str) -> Any:
        from asya.transports.rabbitmq.wire import Wire

        opened: asyncio.Future[Any] = self.loop.create_future()

        def on_open(connection: Any) -> None:
            if not opened.done():
                opened.set_result(connection)

        def on_failure(connection: Any, error: BaseException) -> None:
            if not opened.done():
                opened.set_exception(self._no_entry(error))

        connection = Wire(
            _parameters(self._address, f"{self._name} {use}", self._connect_timeout_s),
            on_open_callback=on_open,
            on_open_error_callback=on_failure,
            on_close_callback=self._on_connection_closed,
            custom_ioloop=self.loop,
        )
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                return await opened
        except TimeoutError:
            _abort(connection)
            raise TransportUnavailable(
                f"RabbitMQ at {self.where} did not answer within {self._connect_timeout_s:g} s"
            ) from None
        except asyncio.CancelledError:
            _abort(connection)
            raise

    async def _open_publisher(self, connection: Any) -> Channel:
        channel = await self._open_channel(connection)
        await self.publisher.prepare(channel)
        channel.on_closed = partial(self._on_publisher_closed, connection)
        return channel

    async def _open_channel(self, connection: Any) -> Channel:
        if connection is None:
            raise TransportUnavailable(self._trouble)
        opened: asyncio.Future[Any] = self.loop.create_future()

        def on_open(raw: Any) -> None:
            if not opened.done():
                opened.set_result(raw)

        try:
            raw = connection.channel(on_open_callback=on_open)
        except pika_errors() as error:
            raise TransportUnavailable(f"RabbitMQ at {self.where}: {error}") from error

        def on_close(raw: Any, reason: BaseException) -> None:
            if not opened.done():
                opened.set_exception(self.refusal(reason))

        raw.add_on_close_callback(on_close)
        try:
            async with asyncio.timeout(self.timeout_s):
                return Channel(self, await opened)
        except TimeoutError:
            raise TransportUnavailable(
                f"RabbitMQ at {self.where} did not answer within {self.timeout_s:g} s"
            ) from None

    def _no_entry(self, error: BaseException) -> TransportError:
        text = _text(error)
        if type(error).__name__ in _REFUSED_ENTRY or "ACCESS_REFUSED" in text:
            user = self._address.user or "guest"
            vhost = self._address.path or "/"
            return TransportError(
                f"RabbitMQ at {self.where} does not let the user {user} in: wrong password, or no "
                f"permission for the vhost {vhost}"
            )
        return TransportUnavailable(
            f"no RabbitMQ server answers at {self.where} ({text}); is it running?"
        )

    # -- losing and finding -------------------------------------------------------------------------

    def _on_blocked(self, connection: Any, frame: Any) -> None:
        self.publisher.block(frame.method.reason)

    def _on_unblocked(self, connection: Any, frame: Any) -> None:
        self.publisher.unblock()

    def _on_publisher_closed(self, connection: Any, error: TransportError) -> None:
        """The broker refuses a message by closing the channel, whatever else is on it."""
        if connection is not self._publishing or self._closed:
            return
        if isinstance(error, TransportUnavailable) or not connection.is_open:
            self._lost(without_place(str(error), self.where))
            return
        self.publisher.reopen(error, partial(self._open_publisher, connection))

    def _on_connection_closed(self, connection: Any, reason: BaseException) -> None:
        if connection is self._consuming or connection is self._publishing:
            self._lost(_text(reason))

    def _lost(self, reason: str) -> None:
        if self._consuming is None or self._closed:
            return
        connections = self._detach()
        self._trouble = f"no connection to RabbitMQ at {self.where} ({reason})"
        for connection in connections:
            self._discard_later(connection)
        self.publisher.lost(f"the connection to RabbitMQ at {self.where} broke")
        # Why it was lost is often less telling than why it does not come back: told after that.
        self.outage.lost(reason, tell=False)
        self._run(self._recover(reason), _RECOVERY)

    def _detach(self) -> list[Any]:
        connections = [one for one in (self._consuming, self._publishing) if one is not None]
        self._consuming = self._publishing = None
        return connections

    async def _recover(self, reason: str) -> None:
        delays = reconnecting()
        while not self._closed:  # `close` cancels this, too; a cancellation may be lost on its way
            await asyncio.sleep(delays.next())
            try:
                await self._connect()
            except TransportError as error:
                self._trouble = str(error)
                if not isinstance(error, TransportUnavailable):
                    reason = without_place(str(error), self.where)
            self.outage.tell(reason)
            if self.up:
                self.outage.over()
                return

    def _discard_later(self, connection: Any) -> None:
        self._run(_discard(connection))

    def _run(self, work: Coroutine[Any, Any, None], name: str | None = None) -> None:
        task = self.loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tick(self) -> None:
        self._ticker = self.loop.call_later(TICK_S, self._tick)
        if self.up:
            self.on_tick()


_RECOVERY: Final = "asya-rabbitmq-recovery"
_STREAM_LOST: Final = re.compile(r"Stream connection lost: \w+\(\d+, '(.*)'\)")
_REFUSED_ENTRY: Final = frozenset(
    {"ProbableAuthenticationError", "ProbableAccessDeniedError", "AuthenticationError"}
)


def _parameters(address: Address, name: str, timeout_s: float) -> Any:
    import pika

    # Its own log tells every failed try, some with tracebacks; what matters is told here.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    options = None
    if address.secure:
        context = ssl.create_default_context(cafile=address.text("cafile") or None)
        options = pika.SSLOptions(context, address.host)
    return pika.ConnectionParameters(
        host=address.host,
        port=address.port,
        virtual_host=address.path or "/",
        credentials=pika.PlainCredentials(address.user or "guest", address.password or "guest"),
        heartbeat=round(address.seconds("heartbeat")),
        connection_attempts=1,
        socket_timeout=timeout_s,
        stack_timeout=timeout_s,
        ssl_options=options,
        client_properties={"connection_name": name},
    )


def without_place(text: str, where: str) -> str:
    """A text of `refusal` for where the place is told already."""
    return text.removeprefix(f"RabbitMQ at {where}: ")


def _text(error: BaseException) -> str:
    """The heart of an error that pika has wrapped, several times."""
    text = getattr(error, "reply_text", None)
    if text:
        return str(text)
    seen = 0
    while seen < 8:
        seen += 1
        inner = getattr(error, "exceptions", None) or getattr(error, "exception", None)
        if inner is None and error.args and isinstance(error.args[0], BaseException):
            inner = error.args[0]
        if inner is None:
            break
        error = inner[-1] if isinstance(inner, (list, tuple)) else inner
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lost = _STREAM_LOST.search(str(error))
    return lost.group(1) if lost else str(error) or type(error).__name__


async def _discard(connection: Any) -> None:
    """Close a connection: with its good-bye where that goes, and in any case."""
    with contextlib.suppress(Exception):
        if connection.is_open:
            connection.close()
        async with asyncio.timeout(CLOSE_S):
            while not connection.is_closed:
                await asyncio.sleep(0.005)
    if not connection.is_closed:
        _abort(connection)


def _abort(connection: Any) -> None:
    with contextlib.suppress(Exception):
        connection._adapter_disconnect_stream()  # noqa: SLF001 -- see INTERNALS
