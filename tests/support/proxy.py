"""A TCP proxy that misbehaves on command: what networks do to connections, on one machine.

It stands between a client and a server, in the test's own event loop, and knows nothing of what
they say. Called by the fault tests of brokers.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct

HOST = "127.0.0.1"
CHUNK_BYTES = 64 * 1024


class Proxy:
    """Forwards connections to one server.

    Attributes:
        port: Where clients connect; known after `start`.
        forwarded: Bytes so far, both ways.
    """

    def __init__(self, port: int, host: str = HOST, *, tls: ssl.SSLContext | None = None) -> None:
        """Prepare; `host` and `port` are the server's, and `tls` what clients are met with."""
        self._target = (host, port)
        self._tls = tls
        self.port = 0
        self.forwarded = 0
        self._listener: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._clients: set[asyncio.StreamWriter] = set()
        self._servers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen."""
        self._listener = await asyncio.start_server(self._accept, HOST, 0, ssl=self._tls)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """End everything."""
        if self._listener is not None:
            self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._clients | self._servers:
            # Python 3.11 trips over the end of a TLS connection that was closed twice
            with contextlib.suppress(AttributeError):
                writer.transport.abort()

    def stall(self) -> None:
        """Stop forwarding; nobody is told. New connections are accepted, and stall, too."""
        self._flowing.clear()

    def resume(self) -> None:
        """Forward again, beginning with what has piled up."""
        self._flowing.set()

    def cut(self) -> None:
        """Reset all connections, and new ones at once, until `mend`."""
        self._refusing = True
        for writer in self._clients | self._servers:
            _reset(writer)

    def mend(self) -> None:
        """Take connections again after `cut`."""
        self._refusing = False

    def half_open(self) -> None:
        """Close the server's side of all connections; their clients are not told, ever.

        As after a crash of the server's machine, or a firewall that forgot. New connections work.
        """
        for task in self._tasks:
            task.cancel()
        for writer in self._servers:
            _reset(writer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            _reset(writer)
            return
        self._clients.add(writer)
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:
            _reset(writer)
            return
        self._servers.add(server_writer)
        for source, target in ((reader, server_writer), (server_reader, writer)):
            task = asyncio.get_running_loop().create_task(self._forward(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await source.read(CHUNK_BYTES):
                await self._flowing.wait()
                target.write(chunk)
                self.forwarded += len(chunk)
                await target.drain()
            await self._flowing.wait()
            target.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a reset instead of a good-bye."""
    with contextlib.suppress(OSError):
        raw = writer.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
