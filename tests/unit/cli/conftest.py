"""A gateway that says what a test tells it to: for answers that a real one gives only rarely."""

import re
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Reply:
    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    method: str
    path: str
    body: bytes
    headers: dict[str, str]


class ScriptedGateway:
    """Answers each `METHOD path` with the replies given to `on`, in order; the last one repeats."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._replies: dict[str, deque[Reply]] = defaultdict(deque)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def on(self, what: str, *replies: Reply) -> None:
        self._replies[what].extend(replies)

    def seen(self, what: str) -> list[Request]:
        return [
            request
            for request in self.requests
            if f"{request.method} {request.path}".startswith(what)
        ]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, what: str) -> Reply:
        replies = self._replies[what]
        if not replies:
            return Reply(404, b'{"detail": "nothing here: ' + what.encode() + b'"}')
        return replies.popleft() if len(replies) > 1 else replies[0]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                request = Request(self.command, self.path, body, dict(self.headers))
                gateway.requests.append(request)
                # The ids that a client makes up are for the tests that look at `requests`.
                path = re.sub(r"[?&]id=[0-9a-f-]{36}", "", self.path)
                reply = gateway._answer(f"{self.command} {path}")
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body)

            do_GET = do_POST = do_DELETE = handle_any  # noqa: N815  names of the base class

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        return Handler


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    server = ScriptedGateway()
    yield server
    server.close()


@pytest.fixture
def reply() -> type[Reply]:
    return Reply
