"""P8: from starting `asya up` to the first answer of an actor, everything cold but the page cache.

The handler needs the standard library only.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import percentile, report, row
from peer import ray

RUNS = int(os.environ.get("RUNS", "7"))
MANIFEST = """
apiVersion: asya.sh/v1alpha1
kind: AsyncActor
metadata:
  name: echo
spec:
  image: echo:latest
  handler: handlers.echo
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def post(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    body = json.dumps({"route": ["echo"], "payload": {"x": 1}})
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/envelopes?wait=15s", body, headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    assert response.status == 200, (response.status, answer)
    assert answer["result"] == {"x": 1}, answer
    return response.status


def one(folder: Path) -> tuple[float, float]:
    """Seconds to the gateway's first sign of life, and to the first answer."""
    port = free_port()
    began = time.perf_counter()
    mesh = subprocess.Popen(
        [sys.executable, "-m", "asya", "up", str(folder), "--port", str(port)],
        cwd=folder,
        stderr=subprocess.DEVNULL,
    )
    try:
        alive = None
        while time.perf_counter() - began < 30:
            try:
                if alive is None:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    alive = time.perf_counter() - began
                post(port)
                return alive, time.perf_counter() - began
            except ConnectionError:
                time.sleep(0.005)
        raise SystemExit("no answer within 30 s")
    finally:
        mesh.send_signal(signal.SIGTERM)
        mesh.wait(20)


def main() -> None:
    up, answers = [], []
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "handlers.py").write_text("def echo(payload):\n    return payload\n")
            (folder / "echo.yaml").write_text(MANIFEST)
            alive, answer = one(folder)
            up.append(alive)
            answers.append(answer)
    what = "asya up: start to first answer"
    report(row("P8", what, answers, "s", better="lower", target=1.5, peer=ray("start")))
    report(row("P8b", "asya up: start to listening", up, "s", better="lower", target=None))
    print(f"slowest {percentile(answers, 1.0):.2f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
