"""Publishing to RabbitMQ with confirms, on the channel that is kept for that.

RabbitMQ refuses a message by closing the channel, with everything else that is under way on it.
Then the channel is opened again, and what was not confirmed fails.

Called by `asya.transports.rabbitmq.connection`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from asya.errors import QueueMissing, TransportError, TransportUnavailable
from asya.transports.confirms import Confirms
from asya.transports.outage import nothing
from asya.transports.rabbitmq.channel import Channel, pika_errors

log = logging.getLogger("asya.transports.rabbitmq")

REOPEN_S: Final = 0.05
REOPEN_AGAIN_S: Final = 1.0
LATE_MAX_BYTES: Final = 32 * 1024 * 1024
"""Of messages that timed out without a confirm; beyond it nothing is written any more."""


class Publisher:
    """The publishing channel, over all of its lives.

    Attributes:
        confirms: What waits for its confirm.
        blocked: Why the broker accepts no messages now, such as a full disk; else empty.
        refused: Why it closed the channel last; empty once it accepts messages again.
        on_missing: Called when an exchange that was published to does not exist.
    """

    def __init__(self, where: str, timeout_s: float) -> None:
        self._where = where
        self.confirms: Confirms[int] = Confirms(timeout_s, self._late)
        self.blocked = ""
        self.refused = ""
        self.on_missing: Callable[[], None] = nothing
        self._connection: Any = None
        self._channel: Channel | None = None
        self._tag = 0
        self._reopening: asyncio.Task[None] | None = None

    def use(self, connection: Any, channel: Channel | None) -> None:
        """Publish on this channel from now on, or on none."""
        self._connection, self._channel = connection, channel
        self.blocked = self.refused = ""

    async def prepare(self, channel: Channel) -> None:
        """Have a new channel confirm and return messages; tags begin at 1 on each."""
        self._tag = 0
        channel.raw.add_on_return_callback(self._on_return)
        await channel.call("confirm_delivery", self._on_confirm)

    def publish(self, exchange: str, key: str, body: bytes) -> asyncio.Future[None]:
        """Write a message; the future ends with the broker's confirm.

        It fails with `QueueMissing` when no queue accepts the message, and with
        `TransportUnavailable` when it is not known whether one did.

        Raises:
            TransportUnavailable: There is no channel now, or the broker accepts no messages.
        """
        channel = self._channel
        if channel is None or self.blocked:
            raise TransportUnavailable(
                self.blocked or self.refused or f"RabbitMQ at {self._where} is not ready"
            )
        confirms = self.confirms
        if confirms.late_bytes > LATE_MAX_BYTES:
            raise TransportUnavailable(
                f"RabbitMQ at {self._where} does not answer; "
                f"{confirms.late_bytes >> 20} MiB wait for its confirm"
            )
        tag = self._tag + 1
        try:
            self._connection.publish(channel.raw, exchange, key, str(tag), body)
        except pika_errors() as error:
            raise TransportUnavailable(f"RabbitMQ at {self._where}: {error}") from error
        self._tag = tag
        return confirms.expect(tag, len(body))

    def close(self, reason: str) -> None:
        """Publish no more; fail what waits."""
        self._connection = self._channel = None
        if self._reopening is not None:
            self._reopening.cancel()
        self.confirms.close()
        self.confirms.fail_all(reason)

    def lost(self, reason: str) -> None:
        """The connection is gone; fail what waits."""
        self.use(None, None)
        self.confirms.fail_all(reason)

    def reopen(self, error: TransportError, opening: Callable[[], Awaitable[Channel]]) -> None:
        """The broker closed the channel because of a message: open another one."""
        self._channel = None
        if not self.refused:
            log.warning("%s; retrying", error)
        self.refused = str(error)
        self.confirms.fail_all(self.refused)
        if isinstance(error, QueueMissing):
            self.on_missing()
        self._reopening = asyncio.get_running_loop().create_task(
            self._reopen(self._connection, opening)
        )

    def block(self, reason: str) -> None:
        """The broker accepts no messages, for want of memory or disk space."""
        self.blocked = (
            f"RabbitMQ at {self._where} accepts no messages ({reason}); "
            "give it memory or disk space"
        )
        log.warning("%s", self.blocked)
        self.confirms.expire()

    def unblock(self) -> None:
        """It accepts them again."""
        if self.blocked:
            self.blocked = ""
            log.warning("RabbitMQ at %s accepts messages again", self._where)

    async def _reopen(self, connection: Any, opening: Callable[[], Awaitable[Channel]]) -> None:
        await asyncio.sleep(REOPEN_S)
        while connection is self._connection:
            try:
                channel = await opening()
            except TransportError:
                await asyncio.sleep(REOPEN_AGAIN_S)
            else:
                if connection is self._connection:
                    self._channel = channel
                return

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        tag: int = method.delivery_tag
        accepted = method.NAME == "Basic.Ack"
        tags = self.confirms.through(tag) if method.multiple else (tag,)
        for each in tags:
            if not accepted:
                text = f"RabbitMQ at {self._where} could not store a message"
                self.confirms.settle(each, TransportUnavailable(text))
            elif self.confirms.settle(each, None) and self.refused:
                self.refused = ""
                log.warning("RabbitMQ at %s accepts messages again", self._where)

    def _on_return(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        # It comes before the confirm, which then finds a future that is done.
        future = self.confirms.pending.get(int(properties.message_id))
        if future is not None and not future.done():
            text = f"there is no queue {method.routing_key} at RabbitMQ {self._where}"
            future.set_exception(QueueMissing(text))

    def _late(self) -> str:
        text = f"RabbitMQ at {self._where} did not confirm within {self.confirms.timeout_s:g} s"
        return self.blocked or text
