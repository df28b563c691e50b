"""A whole mesh as a user runs it: `python -m asya up` in a folder, spoken to over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

START_S = 40.0
STOP_S = 40.0
TERMINAL = ("succeeded", "failed", "canceled")
AGAIN = frozenset({429, 503})
"""Answers after which a client that wants to be sure sends again."""


class Mesh:
    """One `asya up` in `folder`; may be started again after it was stopped or killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / ".asya"
        self.process: subprocess.Popen[bytes] | None = None
        self.flags: list[str] = []
        self.environ: dict[str, str] = {}
        self.url = ""

    def actor(self, name: str, handler: str, **spec: Any) -> None:
        """Write the manifest of an actor."""
        manifest = {
            "apiVersion": "asya.sh/v1alpha1",
            "kind": "AsyncActor",
            "metadata": {"name": name},
            "spec": {"handler": handler, **spec},
        }
        (self.folder / f"{name}.yaml").write_text(json.dumps(manifest))

    def code(self, text: str, name: str = "handlers.py") -> None:
        """Write the handlers' module."""
        (self.folder / name).write_text(text)

    def popen(self, *flags: str, preexec: Callable[[], None] | None = None) -> Any:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("ASYA_")}
        with (self.folder / "mesh.stderr").open("ab") as stderr:
            return subprocess.Popen(
                [sys.executable, "-m", "asya", "up", "--port", "0", *self.flags, *flags],
                cwd=self.folder,
                env=environ | self.environ,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                preexec_fn=preexec,
            )

    def up(self, *flags: str) -> None:
        """Start it; returns when it is ready."""
        self.process = self.popen(*flags)
        until(self.is_ready, START_S, self.said)

    def is_ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail(f"asya up exited with {self.process.returncode}:\n{self.said()}")
        record = self.record()
        if record.get("pid") != self.process.pid:
            return False
        self.url = record["url"]
        return self.get("/readyz", ok=(200, 503))[0] == 200

    def record(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.data / "mesh.json").read_text())
            return found
        except FileNotFoundError:
            return {}

    def said(self) -> str:
        """All that it told the user, of all runs."""
        path = self.folder / "mesh.stderr"
        return path.read_text(errors="replace") if path.exists() else ""

    def log(self, actor: str) -> str:
        path = self.data / "logs" / f"{actor}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def command(self, *arguments: str) -> str:
        """Run another command in the project's folder; gives what it printed."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith("ASYA_")}
        done = subprocess.run(
            [sys.executable, "-m", "asya", *arguments],
            cwd=self.folder,
            env=environ,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def kill(self) -> None:
        """kill -9 of the supervisor alone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, number: int = signal.SIGTERM, *, within_s: float = STOP_S) -> int:
        """Tell it to stop; gives its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(within_s)

    @property
    def broker_pid(self) -> int:
        return int(json.loads((self.data / "nats" / "nats.json").read_text())["pid"])

    # -- over HTTP

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        url = urlsplit(self.url)
        connection = http.client.HTTPConnection(str(url.hostname), url.port or 0, timeout=60)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text else None
        finally:
            connection.close()

    def get(self, path: str, ok: tuple[int, ...] = (200,)) -> tuple[int, Any]:
        try:
            status, body = self.ask("GET", path)
        except OSError:
            if 503 in ok:
                return 503, None
            raise
        assert status in ok, (status, body)
        return status, body

    def send(self, route: str | list[str], payload: Any = None, **fields: Any) -> str:
        """Send an envelope; gives its id."""
        body = {"route": [route] if isinstance(route, str) else route, "payload": payload, **fields}
        status, answer = self.ask("POST", "/v1/envelopes", body)
        assert status == 202, (status, answer)
        return str(answer["id"])

    def send_surely(
        self,
        route: list[str],
        payload: Any,
        id_: str,
        within_s: float = 60,
        again: frozenset[int] = AGAIN,
    ) -> None:
        """Send over deaths of the mesh, until it is accepted: the same id again is safe.

        Any answer that refuses it and is not one of `again` is a failure.
        """
        give_up = time.monotonic() + within_s
        body = {"id": id_, "route": route, "payload": payload}
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, answer = self.ask("POST", "/v1/envelopes", body)
                if status in {200, 202}:
                    return
                assert status in again, (status, answer)
            assert time.monotonic() < give_up, self.said()
            time.sleep(0.05)

    def sending(
        self, route: list[str], ids: list[str], payload: Any, again: frozenset[int] = AGAIN
    ) -> Future[None]:
        """Send all of these, one after the other, while something else happens."""
        pool = ThreadPoolExecutor(1)

        def run() -> None:
            for each in ids:
                self.send_surely(route, payload, each, again=again)

        future = pool.submit(run)
        pool.shutdown(wait=False)
        return future

    def send_many(self, route: str, payloads: list[Any]) -> list[str]:
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda payload: self.send(route, payload), payloads))

    def call(self, route: str | list[str], payload: Any = None, wait_s: int = 30) -> dict[str, Any]:
        """Send an envelope and wait for its end."""
        return self.ended(self.send(route, payload), wait_s)

    def envelope(self, id_: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/v1/envelopes/{id_}")[1]
        return found

    def ended(self, id_: str, wait_s: float = 30) -> dict[str, Any]:
        """The envelope at its end."""
        until(lambda: self.envelope(id_)["status"] in TERMINAL, wait_s, lambda: self._state(id_))
        return self.envelope(id_)

    def _state(self, id_: str) -> str:
        return f"{self.envelope(id_)}\n{self.get('/v1/actors')[1]}\n{self.said()}"

    def all_ended(self, count: int, wait_s: float = 60) -> Counter[str]:
        """Wait until `count` envelopes are known and all of them ended; gives how they did."""

        def done() -> bool:
            states = self.states()
            assert states.total() <= count, states
            return sum(states[each] for each in TERMINAL) == count

        until(done, wait_s, lambda: f"{self.states()}\n{self.get('/v1/actors')[1]}\n{self.said()}")
        return self.states()

    def states(self) -> Counter[str]:
        """How many envelopes there are in each status."""
        return Counter(each["status"] for each in self.envelopes())

    def envelopes(self) -> Iterator[dict[str, Any]]:
        cursor = ""
        while True:
            body = self.get(f"/v1/envelopes?limit=500{cursor}")[1]
            yield from body["envelopes"]
            if not body.get("next_cursor"):
                return
            cursor = f"&cursor={body['next_cursor']}"

    def status(self, actor: str) -> dict[str, Any]:
        actors = self.get("/v1/actors")[1]["actors"]
        return next(each for each in actors if each["name"] == actor)

    def pids(self, actor: str, state: str | None = None) -> list[int]:
        replicas = self.status(actor)["replicas"]
        return [each["pid"] for each in replicas if state in {None, each["state"]}]


def until(
    true: Callable[[], Any], within_s: float, explain: Callable[[], str] = lambda: ""
) -> None:
    """Wait for another process to do something that nothing else tells of."""
    give_up = time.monotonic() + within_s
    while not true():
        if time.monotonic() > give_up:
            pytest.fail(f"not within {within_s} s\n{explain()}")
        time.sleep(0.05)


def children_of(folder: Path) -> list[psutil.Process]:
    """Every process that works in this folder or on its data."""
    found = []
    for process in psutil.process_iter():
        try:
            about = [process.cwd(), *process.cmdline()]
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(str(folder) in each for each in about):
            found.append(process)
    return found


def lives(pid: int) -> bool:
    """Whether there is such a process; one that has ended and was not reaped is none."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def is_alive() -> Callable[[int], bool]:
    return lives


@pytest.fixture
def wait_until() -> Callable[..., None]:
    return until


@pytest.fixture
def left_running() -> Callable[[Path], list[psutil.Process]]:
    return children_of


def _project(folder: Path) -> Iterator[Mesh]:
    mesh = Mesh(folder)
    try:
        yield mesh
    finally:
        if mesh.process is not None and mesh.process.poll() is None:
            mesh.process.kill()
            mesh.process.wait()
        for process in children_of(folder):
            process.kill()


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    """A project's folder, in which nothing runs yet."""
    yield from _project(tmp_path)


@pytest.fixture(scope="module")
def shared_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """The same, one for all tests of a file; the first one starts it."""
    yield from _project(tmp_path_factory.mktemp("mesh"))
