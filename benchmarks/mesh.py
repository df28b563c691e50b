"""A mesh under `asya up` in a folder of its own, as the benchmarks use it."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

ACTOR = """
apiVersion: asya.sh/v1alpha1
kind: AsyncActor
metadata:
  name: {name}
spec:
  image: {name}:latest
  handler: {handler}
{more}---
"""


def actor(name: str, handler: str, more: str = "") -> str:
    """A manifest; `more` are further lines of its spec, indented by two."""
    return ACTOR.format(name=name, handler=handler, more=more)


class Mesh:
    """Starts on entry, ends on exit. Handlers stand in `handlers.py`."""

    def __init__(self, handlers: str, manifests: str, *flags: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        (self.folder / "handlers.py").write_text(handlers)
        (self.folder / "actors.yaml").write_text(manifests)
        self._flags = flags

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "asya", "up", ".", "--port", "0", *self._flags],
            cwd=self.folder,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            found = re.search(r"http://[\d.]+:(\d+)", line)
            if found:
                self.port = int(found[1])
                break
        else:
            raise SystemExit("the mesh did not come up")
        # what it says later is read and dropped, so that it never waits for us
        self._drain = subprocess.Popen(
            ["cat"], stdin=self.process.stderr, stdout=subprocess.DEVNULL
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._drain.wait(10)
        self._folder.cleanup()

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One HTTP request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        raw = answer.read()
        connection.close()
        return answer.status, json.loads(raw) if raw else None

    def call(self, route: list[str], payload: Any, wait: str = "60s") -> Any:
        """Send an envelope and wait for its end."""
        _, answer = self.request(
            "POST", f"/v1/envelopes?wait={wait}", {"route": route, "payload": payload}
        )
        return answer

    def replicas(self, name: str) -> list[dict[str, Any]]:
        """The replicas of an actor."""
        _, answer = self.request("GET", "/v1/actors")
        return next(a["replicas"] for a in answer["actors"] if a["name"] == name)

    def wait_for_replicas(self, name: str, count: int, within_s: float = 60) -> None:
        """Until an actor has that many replicas."""
        until = time.monotonic() + within_s
        while len(self.replicas(name)) != count:
            if time.monotonic() > until:
                raise SystemExit(f"{name} did not come to {count} replicas")
            time.sleep(0.05)

    def tree(self) -> list[psutil.Process]:
        """The processes of the mesh."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def memory_mib(self) -> float:
        """Proportional set size of all processes (resident size where that is not told)."""
        total = 0
        for process in self.tree():
            info = process.memory_full_info()
            total += getattr(info, "pss", 0) or info.rss
        return total / 2**20

    def cpu_s(self) -> float:
        """CPU seconds of all processes so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self.tree())
