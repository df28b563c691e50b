"""A sidecar's end of the socket, played by the test, and real runtimes that dial in."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from asya.runtime.protocol import FrameParser, pack

# The machine may be busy with other work; a slow example is no failure.
hypothesis.settings.register_profile("asya", deadline=None)
hypothesis.settings.load_profile("asya")

SOURCES = Path(__file__).parents[3] / "src"
LIMIT_S = 20.0


class Replica:
    """A runtime in its own session, and the connection that it dialled."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket) -> None:
        self.process = process
        self.sock = sock
        self._parser = FrameParser()
        self._inbox: list[tuple[dict[str, Any], list[bytes]]] = []
        self.hello: dict[str, Any] = {}

    def receive(self) -> tuple[dict[str, Any], list[bytes]]:
        while not self._inbox:
            data = self.sock.recv(1 << 18)
            if not data:
                raise EOFError
            found = self._parser.feed(data)
            self._inbox += [(header, list(map(bytes, parts))) for header, parts in found]
        return self._inbox.pop(0)

    def send(self, header: dict[str, Any], *parts: bytes) -> None:
        self.sock.sendall(pack(header, parts))

    def call(self, payload: bytes = b"null", call_id: int = 1, **envelope: Any) -> None:
        found = {
            "id": "e1",
            "route": {"prev": ["before"], "curr": "here", "next": ["b", "c"]},
            "headers": {"trace": "t"},
            "status": {"phase": "processing", "attempt": 1},
        }
        header = {"k": "call", "id": call_id, "kind": "handle", "envelope": found | envelope}
        self.send(header, payload)

    def answer(self) -> list[tuple[dict[str, Any], list[bytes]]]:
        """All frames up to the end of one call."""
        found = []
        while True:
            found.append(self.receive())
            if found[-1][0]["k"] in ("done", "error", "canceled"):
                return found

    def ask(self, payload: bytes = b"null", **envelope: Any) -> list[Any]:
        self.call(payload, **envelope)
        return self.answer()

    def bye(self) -> int:
        self.send({"k": "bye"})
        return self.process.wait(LIMIT_S)

    def printed(self) -> str:
        """All of stdout and stderr; only when the process has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.read().decode()


class Starter:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Replica] = []

    def __call__(
        self,
        source: str,
        handler: str = "shop.handle",
        *,
        concurrency: int = 1,
        command: list[str] | None = None,
        hello: bool = True,
        **environ: str,
    ) -> Replica:
        (self.folder / "shop.py").write_text(source)
        path = self.folder / f"s{len(self.started)}"
        environment = os.environ | {
            "ASYA_SOCKET": str(path),
            "ASYA_HANDLER": handler,
            "ASYA_ACTOR": "shop",
            "ASYA_CONCURRENCY": str(concurrency),
            "ASYA_PATH": str(self.folder),
            "PYTHONPATH": str(SOURCES),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            listener.settimeout(LIMIT_S)
            process = subprocess.Popen(
                command or [sys.executable, "-m", "asya.runtime"],
                env=environment | environ,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            sock, _ = listener.accept()
        sock.settimeout(LIMIT_S)
        replica = Replica(process, sock)
        self.started.append(replica)
        if hello:
            replica.hello = replica.receive()[0]
            assert replica.hello["k"] == "hello", replica.hello
        return replica

    def stop(self) -> None:
        for replica in self.started:
            replica.sock.close()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(replica.process.pid, signal.SIGKILL)
            replica.process.wait(LIMIT_S)
            if replica.process.stdout:
                replica.process.stdout.close()


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Starts replicas with a module `shop` of the given source."""
    starter = Starter(tmp_path_factory.mktemp("s"))
    yield starter
    starter.stop()


@pytest.fixture
def wait_for() -> Callable[..., Any]:
    """Waits until a condition about another process holds."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    return wait
