"""A server that speaks as SQS does, for tests: moto's, in a process of its own.

It keeps everything in memory, forgets it when it ends, and slows down with every message it holds,
so tests use less than a hundred. What it does is what AWS documents, with these limits: it gives
no fault by itself, wakes a receive for delayed or given back messages up to a second late, does
not wake it at all for a FIFO group that is free again, and lets receives of vanished clients run
on. Called by tests and by benchmarks.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from typing import IO, Self

HOST = "127.0.0.1"
READY_S = 60.0
STOP_S = 10.0
POLL_S = 0.05
REGION = "eu-west-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
"""What clients need in their environment; moto takes any."""

# Two receives at a time could be given the same message where threads are switched in between:
# unlike SQS, moto keeps no lock. Threads then change only where one waits.
# And it ends with whoever started it, however that ends: then its standard input is closed.
_PROGRAM = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
sys.setswitchinterval(1000)
from moto.server import main
main()
"""


class MotoServer:
    """moto's server on a free port of the loopback address; a context manager."""

    def __init__(self) -> None:
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Where it answers, such as `http://127.0.0.1:5000`."""
        return f"http://{HOST}:{self.port}"

    @property
    def address(self) -> str:
        """The address for a transport."""
        return f"sqs://{REGION}?endpoint={self.endpoint}"

    @staticmethod
    def missing() -> str | None:
        """Why there can be no server here; None if there can."""
        import importlib.util

        if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
            return "moto's server is not installed: pip install 'moto[server]'"
        return None

    @staticmethod
    def version() -> str:
        """The version to the minor number; empty without moto."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            return ".".join(version("moto").split(".")[:2])
        except PackageNotFoundError:
            return ""

    def start(self) -> None:
        """Start it, empty; returns when it answers. A port that it had is kept.

        Raises:
            RuntimeError: It ended or gave no answer; the text ends with its output.
        """
        if self._process is not None:
            return
        self.port = self.port or _free_port()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 -- closed in `stop`
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, "-H", HOST, "-p", str(self.port)],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + READY_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                output = self._output()
                self.stop()
                raise RuntimeError(f"moto's server did not start: {output}")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End it, and with it everything that it held. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(STOP_S)
            if process.stdin is not None:
                process.stdin.close()
        if self._log is not None:
            self._log.close()
            self._log = None

    def reset(self) -> None:
        """Forget everything."""
        self.post("/moto-api/reset")

    def post(self, path: str, body: bytes = b"") -> bytes:
        """Ask moto itself for something, such as `/moto-api/reset-auth`."""
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(self.endpoint + path, body, headers, method="POST")
        with urllib.request.urlopen(request, timeout=READY_S) as answer:
            content: bytes = answer.read()
        return content

    def pause(self) -> None:
        """Let it stand still: it takes connections and gives no answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End it."""
        self.stop()

    def _signal(self, number: int) -> None:
        if self._process is None:
            raise RuntimeError("moto's server does not run")
        os.kill(self._process.pid, number)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/moto-api/", timeout=5):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def _output(self) -> str:
        if self._log is None:
            return ""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-2000:]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])
