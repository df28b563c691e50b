"""pika's connection, with what one turn of the event loop writes put into one system call.

pika gives each frame to the system by itself, three for a message and one for an ack: at a few
thousand messages per second that is most of a sidecar's time. The frames of a message that we publish
are put together here as well, since all but three of their fields are always the same. Made by `asya.transports.rabbitmq.connection`,
which imports this file, and pika with it, only when it connects.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any, Final

from pika import BasicProperties
from pika.adapters.asyncio_connection import AsyncioConnection

APART_BYTES: Final = 64 * 1024
"""A larger frame is not copied together with others. Half of RabbitMQ's own limit for a frame."""

INTERNALS: Final = {
    "pika.adapters.asyncio_connection:AsyncioConnection": (
        "_adapter_emit_data",
        "_output_marshaled_frames",
    ),
    "pika.connection:Connection": ("_body_max_length",),
    "pika.adapters.base_connection:BaseConnection": ("_transport",),
}
"""What of pika is overridden or called here, and has no public form."""

KEY_MAX: Final = 255
"""Bytes of a routing key, by AMQP."""

_FRAME: Final = struct.Struct(">BHI")
_END: Final = b"\xce"
_PUBLISH: Final = struct.Struct(">HHHBB")
_CONTENT: Final = struct.Struct(">HHQHBB")
_DELIVERY_MODE, _MESSAGE_ID = 1 << 12, 1 << 7
_PERSISTENT: Final = 2


class Wire(AsyncioConnection):  # type: ignore[misc]  # pika comes without types here
    """An `AsyncioConnection` that gathers frames."""

    def __init__(self, *args: Any, custom_ioloop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        self._turn = custom_ioloop
        self._gathered: list[bytes] = []
        super().__init__(*args, custom_ioloop=custom_ioloop, **kwargs)

    def publish(self, channel: Any, exchange: str, key: str, message_id: str, body: bytes) -> None:
        """Publish a message, persistent and mandatory.

        Raises:
            pika.exceptions.ChannelWrongStateError: The channel is not open.
        """
        # A broker may be set to smaller frames than we ask for.
        limit = min(APART_BYTES, self._body_max_length or 0)
        usual = not exchange and 0 < len(body) <= limit and len(key) <= KEY_MAX
        if not usual or not key.isascii() or not channel.is_open:
            properties = BasicProperties(delivery_mode=_PERSISTENT, message_id=message_id)
            channel.basic_publish(exchange, key, body, properties, True)
        else:
            frames = message_frames(channel.channel_number, key, message_id, body)
            self._output_marshaled_frames((frames,))

    def _adapter_emit_data(self, data: bytes) -> None:
        """Called by pika for each frame; this is where an adapter says how it is written."""
        if not self._gathered:
            self._turn.call_soon(self._write_out)
        self._gathered.append(data)
        if len(data) > APART_BYTES:
            self._write_out()

    def _write_out(self) -> None:
        gathered, self._gathered = self._gathered, []
        if not gathered or self._transport is None:
            return  # written already, or the connection is over: then it never will be
        small, last = gathered, b""
        if len(gathered[-1]) > APART_BYTES:
            *small, last = gathered
        if small:
            super()._adapter_emit_data(b"".join(small))
        if last:
            super()._adapter_emit_data(last)


def message_frames(channel: int, key: str, message_id: str, body: bytes) -> bytes:
    """A message to the default exchange: method, header and body, as AMQP 0-9-1 has them.

    The key is at most 255 bytes, the body is not empty and fits into a frame.
    """
    name, mark = key.encode(), message_id.encode()
    method = _PUBLISH.pack(60, 40, 0, 0, len(name)) + name + b"\x01"
    content = _CONTENT.pack(60, 0, len(body), _DELIVERY_MODE | _MESSAGE_ID, _PERSISTENT, len(mark))
    return b"".join(
        (
            _FRAME.pack(1, channel, len(method)),
            method,
            _END,
            _FRAME.pack(2, channel, len(content) + len(mark)),
            content,
            mark,
            _END,
            _FRAME.pack(3, channel, len(body)),
            body,
            _END,
        )
    )
