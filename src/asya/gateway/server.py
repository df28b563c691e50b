"""uvicorn in the caller's event loop: own socket, no signal handlers, no access log.

The socket is bound before anything else, so that a port in use is reported at once. The caller's
signal handling stays as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from asya.codes import Code
from asya.errors import SettingsError
from asya.gateway.http.problems import PROBLEM_TYPES, type_of

BACKLOG: Final = 1024
"""Connections that may wait to be accepted."""

GRACE_S: Final = 5
"""Seconds that requests under way get to finish when the server stops."""

KEEP_ALIVE_S: Final = 75
"""Seconds that an idle connection is kept, for clients that pool connections."""

INTERNALS: Final = {
    "uvicorn:Server": ("capture_signals", "main_loop", "on_tick", "should_exit", "startup"),
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol": ("send_400_response", "transport"),
}
"""Undocumented methods that are replaced here; uvicorn has no options for what they do."""


class HttpServer:
    """Serves an app at one address.

    Args:
        app: The ASGI app.
        host: Name or address to bind.
        port: Port, or 0 for a free one.
        bound: A listening socket from `bind`, for a caller that needs the port before it has an
            app. The server closes it.
        on_stop: Called when the stop begins: ends what would never end by itself.

    Attributes:
        port: The port that is bound, once `start` has returned.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        *,
        bound: socket.socket | None = None,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self._app = app
        self._bound = bound
        self._host = host
        self.port = bound.getsockname()[1] if bound else port
        self._on_stop = on_stop
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """The address for clients on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self._host, self._host)
        if ":" in host and not host.startswith("["):
            host = f"[{host}]"
        return f"http://{host}:{self.port}"

    async def start(self) -> None:
        """Bind and serve; returns when connections are accepted.

        Raises:
            SettingsError: The address cannot be bound. The text names the port and, if the system
                tells, the process that has it.
        """
        bound = self._bound or bind(self._host, self.port)
        self.port = bound.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
        )
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve([bound]), name="asya-http")
        up = asyncio.create_task(self._server.up.wait())
        await asyncio.wait({self._task, up}, return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            up.cancel()
            await self._task

    async def stop(self) -> None:
        """Accept no more requests, let those under way end, and close. Idempotent."""
        self._on_stop()
        if self._server is None or self._task is None:
            if self._bound is not None:
                self._bound.close()
            return
        self._server.end()
        await asyncio.wait([self._task])
        self._task = self._server = None


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()
        self._ending = asyncio.Event()

    def end(self) -> None:
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        """As uvicorn's, but wakes up once a second instead of ten times, and at once to stop."""
        while not await self.on_tick(0):  # a count of 0 renews the Date header
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._ending.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(HttpToolsProtocol):
    """Answers bytes that are not HTTP with a problem document, too."""

    def send_400_response(self, msg: str) -> None:
        status, title, code = PROBLEM_TYPES["bad-request"]
        problem: dict[str, Any] = {
            "type": type_of("bad-request"),
            "title": title,
            "status": status,
            "detail": msg,
            "code": code,
        }
        body = json.dumps(problem).encode()
        head = (
            "HTTP/1.1 400 Bad Request\r\n"
            "content-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def bind(host: str, port: int, *, flag: str = "--port") -> socket.socket:
    """A listening socket.

    Raises:
        SettingsError: It cannot be bound.
    """
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise SettingsError(
            f"the host {host!r} is not known: {error.strerror}", code=Code.PORT_UNUSABLE
        ) from error
    family, kind, protocol, _, address = found[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise SettingsError(
            _bind_error(host, port, flag, error), code=Code.PORT_UNUSABLE
        ) from error
    made.setblocking(False)
    return made


def _bind_error(host: str, port: int, flag: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        pid = _holder(port)
        by = f" by process {pid}" if pid else ""
        return f"port {port} on {host} is in use{by}; stop that, or choose another with {flag}"
    if error.errno == errno.EACCES:
        return f"port {port} on {host} may not be used by this user; choose one above 1023 ({flag})"
    return f"port {port} on {host} cannot be bound: {error.strerror}"


def _holder(port: int) -> int | None:
    """The process that listens on a port, if psutil is installed and the system tells."""
    with contextlib.suppress(Exception):
        import psutil

        for connection in psutil.net_connections("tcp"):
            at = connection.laddr
            if connection.status == psutil.CONN_LISTEN and at and at.port == port:
                return connection.pid
    return None
