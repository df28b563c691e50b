"""pika's connection, with what one turn of the event loop writes put into one system call.

pika gives each frame to the system by itself, three for a message and one for an ack: at a few
thousand messages per second that is most of a sidecar's time. Made by `asya.transports.rabbitmq_link`,
which imports this file, and pika with it, only when it connects.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from pika.adapters.asyncio_connection import AsyncioConnection

APART_BYTES: Final = 64 * 1024
"""A larger frame is not copied together with others."""


class Wire(AsyncioConnection):  # type: ignore[misc]  # pika comes without types here
    """An `AsyncioConnection` that gathers frames."""

    def __init__(self, *args: Any, custom_ioloop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        self._turn = custom_ioloop
        self._gathered: list[bytes] = []
        super().__init__(*args, custom_ioloop=custom_ioloop, **kwargs)

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
