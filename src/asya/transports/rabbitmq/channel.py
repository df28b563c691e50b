"""One AMQP channel, awaitable.

Called by everything that talks to RabbitMQ; made by `asya.transports.rabbitmq.connection`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from asya.errors import TransportError, TransportUnavailable

if TYPE_CHECKING:
    from asya.transports.rabbitmq.connection import Connection

INTERNALS: Final = {"pika.channel:Channel": ("_rpc", "_cleanup_consumer_ref")}
"""The public `basic_cancel` rejects what is on its way, and the broker counts that as a delivery."""


class Channel:
    """One channel, awaitable.

    Attributes:
        raw: The channel of pika; for the hot path.
        closed: Why it is closed, once it is.
        on_closed: Called once with that.
    """

    def __init__(self, connection: Connection, raw: Any) -> None:
        self._connection = connection
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
        answer: asyncio.Future[Any] = self._connection.loop.create_future()
        self._waiting.add(answer)
        try:
            getattr(self.raw, method)(*arguments, **named, callback=_resolver(answer))
            async with asyncio.timeout(self._connection.timeout_s):
                return (await answer).method
        except TimeoutError:
            # Its late answer would be taken for that of the next question.
            self.close()
            raise TransportUnavailable(
                f"RabbitMQ at {self._connection.where} did not answer within {self._connection.timeout_s:g} s"
            ) from None
        except pika_errors() as error:
            raise TransportUnavailable(f"RabbitMQ at {self._connection.where}: {error}") from error
        finally:
            self._waiting.discard(answer)

    async def cancel(self, tag: str) -> None:
        """End a consumer; what still comes before the answer is delivered, not rejected."""
        raw = self.raw
        from pika.spec import Basic

        def send(callback: Callable[[Any], None]) -> None:
            replies = [(Basic.CancelOk, {"consumer_tag": tag})]
            raw._rpc(Basic.Cancel(consumer_tag=tag), callback, replies)  # noqa: SLF001 -- see INTERNALS

        answer: asyncio.Future[Any] = self._connection.loop.create_future()
        self._waiting.add(answer)
        try:
            send(_resolver(answer))
            async with asyncio.timeout(self._connection.timeout_s):
                await answer
            raw._cleanup_consumer_ref(tag)  # noqa: SLF001 -- see INTERNALS
        except TimeoutError:
            self.close()
            raise TransportUnavailable(
                f"RabbitMQ at {self._connection.where} does not answer"
            ) from None
        except pika_errors() as error:
            raise TransportUnavailable(f"RabbitMQ at {self._connection.where}: {error}") from error
        finally:
            self._waiting.discard(answer)

    def close(self) -> None:
        """Close it, without waiting. Idempotent."""
        if self.raw.is_open:
            with contextlib.suppress(*pika_errors()):
                self.raw.close()

    def _on_close(self, raw: Any, reason: BaseException) -> None:
        self.closed = self._connection.refusal(reason)
        for answer in self._waiting:
            if not answer.done():
                answer.set_exception(self.closed)
        self.on_closed(self.closed)


def pika_errors() -> tuple[type[Exception], ...]:
    """What pika raises. Imported late: the library may not be installed."""
    from pika.exceptions import AMQPError

    return (AMQPError,)


def _resolver(answer: asyncio.Future[Any]) -> Callable[[Any], None]:
    def resolve(frame: Any) -> None:
        if not answer.done():
            answer.set_result(frame)

    return resolve


def _ignore(error: TransportError) -> None:
    return None
