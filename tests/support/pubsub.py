"""Servers that speak as Google Pub/Sub does, for tests: Google's emulator, and a stand-in of ours.

`PubSubEmulator` is Google's own, where it is installed (it comes with the Google Cloud SDK, or
behind `PUBSUB_EMULATOR_HOST`); it forgets everything when it ends. `PubSubFake` runs
`tests.support.pubsub_fake`, which is not Google's, keeps its messages over a `kill -9`, and can be
told to refuse; tests that need these, or have no emulator, run on it and say so. Each is a process
of its own; tests share one and take a project each. Called by tests and by benchmarks.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Final, Self

from asya.addresses import Address, parse_address

ROOT: Final = Path(__file__).resolve().parents[2]  # where `tests.support` is found
HOST: Final = "127.0.0.1"
READY_S: Final = 90.0
STOP_S: Final = 10.0
POLL_S: Final = 0.05
JAR: Final = "platform/pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar"
SDK: Final = ("/usr/lib/google-cloud-sdk", "/usr/share/google-cloud-sdk", "/opt/google-cloud-sdk")


class _Server:
    """A process on a free port of the loopback address, which it keeps; a context manager."""

    title = ""

    def __init__(self) -> None:
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Where it answers, such as `127.0.0.1:8085`."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return None if self._process is None else self._process.pid

    def address(self, project: str) -> Address:
        """The address of a project for a transport; any project will do."""
        return parse_address(f"pubsub://{project}?endpoint={self.endpoint}")

    def start(self) -> None:
        """Start it; returns when it takes connections. Does nothing while it runs.

        Raises:
            RuntimeError: It ended or gave no answer; the text ends with its output.
        """
        if self._process is not None:
            return
        self.port = self.port or free_port()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 -- closed in `stop`
        self._process = subprocess.Popen(
            self._command(),
            cwd=ROOT,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + READY_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                output = self._output()
                self.kill()
                raise RuntimeError(f"{self.title} did not start: {output}")
            time.sleep(POLL_S)

    def kill(self) -> None:
        """End it at once, without a warning. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait(STOP_S)
        if self._log is not None:
            self._log.close()
            self._log = None

    def pause(self) -> None:
        """Let it stand still: connections stay, and nothing is answered."""
        self._signal(signal.SIGSTOP)
        if self.pid is not None:
            os.waitpid(self.pid, os.WUNTRACED)  # all of its threads stand still by then

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End it."""
        self.kill()

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=5):
            return True
        return False

    def _signal(self, number: int) -> None:
        if self._process is None:
            raise RuntimeError(f"{self.title} does not run")
        os.kill(self._process.pid, number)

    def _output(self) -> str:
        if self._log is None:
            return ""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-2000:]


class PubSubFake(_Server):
    """The stand-in; with `data` it keeps everything in this file, over `kill` and `start`."""

    title = "Asya's stand-in for Pub/Sub"

    def __init__(self, data: Path | None = None) -> None:
        super().__init__()
        self._data = data

    @staticmethod
    def missing() -> str | None:
        """Why there can be none here; None if there can."""
        import importlib.util

        try:
            found = importlib.util.find_spec("google.pubsub_v1")
        except ModuleNotFoundError:
            found = None
        return None if found else "google-cloud-pubsub is not installed: pip install 'asya[pubsub]'"

    async def deny(self, status: str = "PERMISSION_DENIED", *calls: str) -> None:
        """Answer these calls, or all, with a status from now on."""
        await self._tell(dict.fromkeys(calls or ("*",), status))

    async def allow(self) -> None:
        """Refuse nothing any more."""
        await self._tell({})

    async def _tell(self, denied: dict[str, str]) -> None:
        import json

        import grpc
        from tests.support.pubsub_fake import CONTROL

        async with grpc.aio.insecure_channel(self.endpoint) as channel:
            await channel.unary_unary(CONTROL)(json.dumps(denied).encode(), timeout=READY_S)

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "tests.support.pubsub_fake", "--host", HOST]
        command += ["--port", str(self.port)]
        return command if self._data is None else [*command, "--data", str(self._data)]


class PubSubEmulator(_Server):
    """Google's emulator: it forgets when it ends."""

    title = "Google's Pub/Sub emulator"

    @staticmethod
    def missing() -> str | None:
        """Why there can be none here; None if there can."""
        if _jar() is None:
            return "Google's Pub/Sub emulator is not installed (it comes with the Google Cloud SDK)"
        if shutil.which("java") is None:
            return "Google's Pub/Sub emulator needs Java"
        return None

    @staticmethod
    def version() -> str:
        """The jar's, such as `0.8`, to the minor number."""
        jar = _jar()
        return "" if jar is None else ".".join(jar.name.split("-")[3].split(".")[:2])

    def _command(self) -> list[str]:
        jar, java = _jar(), shutil.which("java")
        assert jar is not None
        assert java is not None
        # small, and without a thread per core for what a test asks of it
        options = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        return [java, *options, "-jar", str(jar), f"--host={HOST}", f"--port={self.port}"]


def ran_on() -> str:
    """What tests of Pub/Sub run on here, for the header of their output."""
    reason = PubSubEmulator.missing()
    fake = f"{PubSubFake.title} (not Google's)"
    if reason is None:
        return (
            f"{PubSubEmulator.title} {PubSubEmulator.version()}, and {fake} for kills and refusals"
        )
    return f"ONLY {fake}: {reason}"


def free_port() -> int:
    """A port of the loopback address that nobody uses now."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


def _jar() -> Path | None:
    folders = [Path(folder) for folder in SDK]
    gcloud = shutil.which("gcloud")
    if gcloud is not None:
        folders.insert(0, Path(gcloud).resolve().parent.parent)
    for folder in folders:
        for jar in sorted(folder.glob(JAR), reverse=True):
            return jar
    return None
