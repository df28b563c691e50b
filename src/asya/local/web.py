"""The gateway's port: bound first, served last.

uvicorn's protocol classes and start-up are used without its main loop: that one wakes ten times a
second and takes over the signals, and both are the supervisor's business.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Final

from asya.errors import UsageError

if TYPE_CHECKING:
    import uvicorn

BACKLOG: Final = 1024
KEEP_ALIVE_S: Final = 30
"""How long an idle connection is kept, in seconds."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is a free one.

    It listens at once, because a port that is only bound can be bound twice. Who connects before
    the gateway is up waits for it.

    Raises:
        UsageError: The address is not this machine's, or the port is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise UsageError(f"{host!r} is no address of this machine: {error.strerror}") from error
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror}; "
            "stop the program that uses the port, or give another with --port (0: any free one)"
        ) from error
    listening.setblocking(False)
    return listening


def url_of(host: str, listening: socket.socket) -> str:
    """The address that clients of this machine use."""
    port = listening.getsockname()[1]
    shown = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


class WebServer:
    """An ASGI app on a listening socket."""

    def __init__(self, app: Any, listening: socket.socket) -> None:
        self._app = app
        self._socket = listening
        self._server: uvicorn.Server | None = None

    async def start(self) -> None:
        """Take requests from now on."""
        import uvicorn

        config = uvicorn.Config(
            self._app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            # The date would be refreshed by the main loop that does not run here.
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=1,
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[self._socket])
        self._server = server

    async def stop(self, wait_s: float) -> None:
        """Close the port and the connections; a response that takes longer is cut off."""
        if self._server is None:
            self._socket.close()
            return
        server, self._server = self._server, None
        server.config.timeout_graceful_shutdown = max(1, int(wait_s))
        try:
            async with asyncio.timeout(wait_s + 2.0):
                await server.shutdown(sockets=[self._socket])
        except TimeoutError:
            # The responses that are left die with the process.
            server.force_exit = True
