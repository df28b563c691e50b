"""The way to a RabbitMQ server, kept for ever: two connections, channels, confirmed publishes.

Rules of this file: it is the only one that imports `pika`, and does so when it connects. There
are two connections, because a broker that is short of memory or disk stops reading from those
that publish: acks must not stand behind that. They live and die together; when one is gone both
are made anew, so there is one way back and nothing of the old ones is replayed.

Called by `asya.transports.rabbitmq.transport` and its `_take`, `_registry` and `_survey`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from asya.addresses import Address
from asya.errors import QueueMissing, TransportError, TransportUnavailable

log = logging.getLogger("asya.transports.rabbitmq")

RECONNECT_FIRST_S = 0.05
RECONNECT_MAX_S = 1.0
TICK_S = 1.0
CLOSE_S = 2.0
LINGER_S = 0.05
"""Between the last ack and the good-bye: a channel that is closed forgets acks under way."""
REOPEN_S = 0.05
LATE_MAX_BYTES = 32 * 1024 * 1024
"""Of messages that were given up without an answer; beyond it nothing is written any more."""

_NOT_FOUND = 404
_RESOURCE_ERROR = 506


class Channel:
    """One channel, awaitable.

    Attributes:
        raw: The channel of pika; for the hot path.
        closed: Why it is closed, once it is.
        on_closed: Called once with that.
    """

    def __init__(self, link: Link, raw: Any) -> None:
        self._link = link
        self.raw = raw
        self.closed: TransportError | None = None
        self.on_closed: Callable[[TransportError], None] = _ignore
        self._waiting: set[asyncio.Future[Any]] = set()
        raw.add_on_close_callback(self._on_close)

    async def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Ask for something, such as `queue_declare`, and return the answer's method.

        Raises:
            QueueMissing: It does not exist; the channel is closed by that.
            TransportUnavailable: No answer in time, or the channel or connection is gone.
            TransportError: The broker refuses; the channel is closed by that.
        """
        if self.closed is not None:
            raise TransportUnavailable(str(self.closed))
        answer: asyncio.Future[Any] = self._link.loop.create_future()
        self._waiting.add(answer)
        try:
            getattr(self.raw, method)(*arguments, **named, callback=_resolver(answer))
            async with asyncio.timeout(self._link.timeout_s):
                return (await answer).method
        except TimeoutError:
            # Its late answer would be taken for that of the next question.
            self.close()
            raise TransportUnavailable(
                f"RabbitMQ at {self._link.where} did not answer within {self._link.timeout_s:g} s"
            ) from None
        except _pika_errors() as error:
            raise TransportUnavailable(f"RabbitMQ at {self._link.where}: {error}") from error
        finally:
            self._waiting.discard(answer)

    async def cancel(self, tag: str) -> None:
        """End a consumer; what still comes before the answer is delivered, not rejected."""
        raw = self.raw
        # The public basic_cancel has pika reject what is on its way, and the broker counts that.
        from pika.spec import Basic

        def send(callback: Callable[[Any], None]) -> None:
            replies = [(Basic.CancelOk, {"consumer_tag": tag})]
            raw._rpc(Basic.Cancel(consumer_tag=tag), callback, replies)  # noqa: SLF001 -- see above

        answer: asyncio.Future[Any] = self._link.loop.create_future()
        self._waiting.add(answer)
        try:
            send(_resolver(answer))
            async with asyncio.timeout(self._link.timeout_s):
                await answer
            raw._cleanup_consumer_ref(tag)  # noqa: SLF001 -- as basic_cancel does
        except TimeoutError:
            self.close()
            raise TransportUnavailable(f"RabbitMQ at {self._link.where} does not answer") from None
        except _pika_errors() as error:
            raise TransportUnavailable(f"RabbitMQ at {self._link.where}: {error}") from error
        finally:
            self._waiting.discard(answer)

    def close(self) -> None:
        """Close it, without waiting. Idempotent."""
        if self.raw.is_open:
            with contextlib.suppress(*_pika_errors()):
                self.raw.close()

    def _on_close(self, raw: Any, reason: BaseException) -> None:
        self.closed = self._link.refusal(reason)
        for answer in self._waiting:
            if not answer.done():
                answer.set_exception(self.closed)
        self.on_closed(self.closed)


class Link:
    """A way to the server that comes back by itself.

    Attributes:
        loop: The event loop; known after `open`.
        on_up: Called when it stands again, never for the first time.
        on_down: Called when it is gone.
        on_tick: Called about once a second while it stands.
        on_missing: Called when an exchange that was published to is not there.
        timeout_s: How long an answer is waited for, in seconds.
        where: The server's address, without credentials.
    """

    def __init__(
        self, address: Address, *, name: str, connect_timeout_s: float, timeout_s: float
    ) -> None:
        self._address = address
        self._name = name
        self._connect_timeout_s = connect_timeout_s
        self.timeout_s = timeout_s
        self.where = address.where
        self.on_up: Callable[[], None] = _nothing
        self.on_down: Callable[[], None] = _nothing
        self.on_tick: Callable[[], None] = _nothing
        self.on_missing: Callable[[], None] = _nothing
        self.version = ""
        self._taking: Any = None
        self._putting: Any = None
        self._publisher: Channel | None = None
        self._closed = False
        self._blocked = ""
        self._refused = ""
        self._trouble = f"not connected to RabbitMQ at {self.where} yet"
        self._tag = 0
        self._pending: dict[int, tuple[asyncio.Future[None], int]] = {}
        self._deadlines: deque[tuple[float, int]] = deque()
        self._late_bytes = 0
        self._sweeper: asyncio.TimerHandle | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._revival: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def up(self) -> bool:
        """Whether the connections stand, as far as is known."""
        return self._taking is not None

    @property
    def trouble(self) -> str | None:
        """Why nothing can be sent now, for people."""
        if self._taking is None:
            return self._trouble
        return self._blocked or self._refused or None

    async def open(self) -> None:
        """Connect.

        Raises:
            TransportUnavailable: Nobody answers at the address.
            TransportError: The broker does not let us in.
        """
        self.loop = asyncio.get_running_loop()
        await self._connect()
        self._ticker = self.loop.call_later(TICK_S, self._tick)

    async def close(self) -> None:
        """Disconnect, once everything is written. Bounded by `CLOSE_S`; idempotent."""
        if self._closed:
            return
        if self.up:
            await asyncio.sleep(LINGER_S)
        self._closed = True
        self._trouble = f"the transport to RabbitMQ at {self.where} is closed"
        connections = self._detach()
        for timer in (self._ticker, self._sweeper):
            if timer is not None:
                timer.cancel()
        if self._revival is not None:
            self._revival.cancel()
            await asyncio.gather(self._revival, return_exceptions=True)
        self._fail_all(self._trouble)
        await asyncio.gather(*(_discard(one) for one in connections), *self._tasks)

    def drop(self) -> None:
        """Cut the connections without a word, as a killed process would: for tests of crashes."""
        self._closed = True
        self._trouble = f"the connection to RabbitMQ at {self.where} was cut"
        for timer in (self._ticker, self._sweeper, self._revival):
            if timer is not None:
                timer.cancel()
        for connection in self._detach():
            _abort(connection)
        self._fail_all(self._trouble)

    async def channel(self) -> Channel:
        """A new channel for anything but publishing; it ends with the connection.

        Raises:
            TransportUnavailable: There is no connection, or no answer.
        """
        return await self._open_channel(self._taking)

    def publish(self, exchange: str, key: str, body: bytes) -> asyncio.Future[None]:
        """Write a message; the future ends with the broker's confirm.

        It fails with `QueueMissing` when no queue takes the message, and with
        `TransportUnavailable` when it is not known whether one did.

        Raises:
            TransportUnavailable: There is no connection now, or the broker takes no messages.
        """
        publisher = self._publisher
        if publisher is None or self._blocked:
            raise TransportUnavailable(self.trouble or f"RabbitMQ at {self.where} is not ready")
        if self._late_bytes > LATE_MAX_BYTES:
            raise TransportUnavailable(
                f"RabbitMQ at {self.where} does not answer; {self._late_bytes >> 20} MiB wait for it"
            )
        tag = self._tag + 1
        confirmed: asyncio.Future[None] = self.loop.create_future()
        try:
            self._putting.publish(publisher.raw, exchange, key, str(tag), body)
        except _pika_errors() as error:
            raise TransportUnavailable(f"RabbitMQ at {self.where}: {error}") from error
        self._tag = tag
        self._pending[tag] = (confirmed, len(body))
        deadlines, pending = self._deadlines, self._pending
        while deadlines and deadlines[0][1] not in pending:
            deadlines.popleft()
        deadlines.append((self.loop.time() + self.timeout_s, tag))
        if self._sweeper is None:
            self._sweeper = self.loop.call_at(deadlines[0][0], self._sweep)
        return confirmed

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
            self._connect_one("taking"), self._connect_one("putting"), return_exceptions=True
        )
        opened = [one for one in results if not isinstance(one, BaseException)]
        failed = next((one for one in results if isinstance(one, BaseException)), None)
        try:
            if failed is not None:
                raise failed
            if self._closed:
                raise TransportUnavailable(self._trouble)
            taking, putting = opened
            publisher = await self._open_publisher(putting)
            if taking.is_closed:
                raise TransportUnavailable(f"RabbitMQ at {self.where} closed the connection")
        except BaseException:
            for connection in opened:
                self._discard_later(connection)
            raise
        self._taking, self._putting, self._publisher = taking, putting, publisher
        self.version = str((taking.server_properties or {}).get("version", ""))
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
        self._tag = 0
        channel.raw.add_on_return_callback(self._on_return)
        await channel.call("confirm_delivery", self._on_confirm)
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
        except _pika_errors() as error:
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

    # -- confirms -----------------------------------------------------------------------------------

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        tag: int = method.delivery_tag
        accepted = method.NAME == "Basic.Ack"
        if not method.multiple:
            self._settle(tag, accepted)
            return
        pending = self._pending
        for first in list(pending):
            if first > tag:
                break
            self._settle(first, accepted)

    def _settle(self, tag: int, accepted: bool) -> None:
        entry = self._pending.pop(tag, None)
        if entry is None:
            return
        confirmed, size = entry
        if confirmed.cancelled():
            return
        if confirmed.done():
            self._late_bytes -= size
        elif accepted:
            confirmed.set_result(None)
            if self._refused:
                self._refused = ""
                log.warning("RabbitMQ at %s takes messages again", self.where)
        else:
            confirmed.set_exception(
                TransportUnavailable(f"RabbitMQ at {self.where} could not store a message")
            )

    def _on_return(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        # It comes before the confirm, which then finds a future that is done.
        entry = self._pending.get(int(properties.message_id))
        if entry is not None and not entry[0].done():
            self._late_bytes += entry[1]
            entry[0].set_exception(
                QueueMissing(f"there is no queue {method.routing_key} at RabbitMQ {self.where}")
            )

    def _sweep(self) -> None:
        self._sweeper = None
        deadlines, pending, now = self._deadlines, self._pending, self.loop.time()
        while deadlines and (deadlines[0][0] <= now or deadlines[0][1] not in pending):
            entry = pending.get(deadlines.popleft()[1])
            if entry is None:
                continue
            confirmed, size = entry
            if not confirmed.done():
                self._late_bytes += size
                text = f"RabbitMQ at {self.where} did not confirm within {self.timeout_s:g} s"
                confirmed.set_exception(TransportUnavailable(self._blocked or text))
        if deadlines:
            self._sweeper = self.loop.call_at(deadlines[0][0], self._sweep)

    def _fail_all(self, reason: str) -> None:
        pending, self._pending = self._pending, {}
        self._deadlines.clear()
        self._late_bytes = 0
        for confirmed, _ in pending.values():
            if not confirmed.done():
                confirmed.set_exception(TransportUnavailable(reason))

    # -- losing and finding -------------------------------------------------------------------------

    def _on_blocked(self, connection: Any, frame: Any) -> None:
        reason = frame.method.reason
        self._blocked = (
            f"RabbitMQ at {self.where} takes no messages ({reason}); give it memory or disk space"
        )
        log.warning("%s", self._blocked)
        now = self.loop.time()
        self._deadlines = deque((now, tag) for _, tag in self._deadlines)
        self._sweep()

    def _on_unblocked(self, connection: Any, frame: Any) -> None:
        if self._blocked:
            self._blocked = ""
            log.warning("RabbitMQ at %s takes messages again", self.where)

    def _on_publisher_closed(self, connection: Any, error: TransportError) -> None:
        """The broker refuses a message by closing the channel, whatever else is on it."""
        if connection is not self._putting or self._closed:
            return
        if isinstance(error, TransportUnavailable) or not connection.is_open:
            self._lost(without_place(str(error), self.where))
            return
        self._publisher = None
        if not self._refused:
            log.warning("%s; trying on", error)
        self._refused = str(error)
        self._fail_all(self._refused)
        if isinstance(error, QueueMissing):
            self.on_missing()
        self._run(self._reopen(connection))

    async def _reopen(self, connection: Any) -> None:
        await asyncio.sleep(REOPEN_S)
        while connection is self._putting:
            try:
                publisher = await self._open_publisher(connection)
            except TransportError:
                await asyncio.sleep(RECONNECT_MAX_S)
            else:
                if connection is self._putting:
                    self._publisher = publisher
                return

    def _on_connection_closed(self, connection: Any, reason: BaseException) -> None:
        if connection is self._taking or connection is self._putting:
            self._lost(_text(reason))

    def _lost(self, reason: str) -> None:
        if self._taking is None or self._closed:
            return
        connections = self._detach()
        self._trouble = f"no connection to RabbitMQ at {self.where} ({reason})"
        for connection in connections:
            self._discard_later(connection)
        self._fail_all(f"the connection to RabbitMQ at {self.where} broke")
        self.on_down()
        self._revival = self.loop.create_task(self._revive(reason))

    def _detach(self) -> list[Any]:
        connections = [one for one in (self._taking, self._putting) if one is not None]
        self._taking = self._putting = self._publisher = None
        self._blocked = self._refused = ""
        return connections

    async def _revive(self, reason: str) -> None:
        lost_at, delay_s = self.loop.time(), RECONNECT_FIRST_S
        told = back = False
        while not back:
            if self._closed:  # `close` cancels this, too; a cancellation may be lost on its way
                return
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 1.5, RECONNECT_MAX_S)
            try:
                await self._connect()
                back = True
            except TransportError as error:
                self._trouble = str(error)
                # Why it was lost is often less telling than why it does not come back.
                if not isinstance(error, TransportUnavailable):
                    reason = without_place(str(error), self.where)
            if not told:
                told = True
                log.warning(
                    "lost the connection to RabbitMQ at %s (%s); connecting again until it is back",
                    self.where,
                    reason,
                )
        log.warning(
            "connected to RabbitMQ at %s again after %.1f s", self.where, self.loop.time() - lost_at
        )
        self.on_up()

    def _discard_later(self, connection: Any) -> None:
        self._run(_discard(connection))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tick(self) -> None:
        self._ticker = self.loop.call_later(TICK_S, self._tick)
        if self.up:
            self.on_tick()


_STREAM_LOST = re.compile(r"Stream connection lost: \w+\(\d+, '(.*)'\)")
_REFUSED_ENTRY = frozenset(
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


def _pika_errors() -> tuple[type[Exception], ...]:
    from pika.exceptions import AMQPError

    return (AMQPError,)


def _resolver(answer: asyncio.Future[Any]) -> Callable[[Any], None]:
    def resolve(frame: Any) -> None:
        if not answer.done():
            answer.set_result(frame)

    return resolve


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
        connection._adapter_disconnect_stream()  # noqa: SLF001 -- pika has no public way to abort


def _ignore(error: TransportError) -> None:
    return None


def _nothing() -> None:
    return None
