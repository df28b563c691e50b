"""Chains of three steps on a task queue of RabbitMQ, in its own environment (`make bench-peers`).

    AMQP_URL=... .venv-queues/bin/python chains.py celery|dramatiq|faststream [CHAINS] [IDLE]

Two worker processes, durable queues, messages of 1 KiB. The queue is filled before the workers start;
the rate is that between the first step's begin and the last chain's end, times three. Then chains are
sent one at a time. Prints one JSON object {"what", "value", "unit", "idle_chain_ms"}: hops per second
and the median of those single chains.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
STEPS = 3
LIMIT_S = 120.0
TEXT = "x" * 950


def message(sent: float) -> dict[str, object]:
    return {"text": TEXT, "step": 0, "sent": sent}


def wait_for(marks, wanted: int) -> None:  # noqa: ANN001  a module, imported once MARKS is set
    until = time.monotonic() + LIMIT_S
    while marks.count() < wanted:
        if time.monotonic() > until:
            raise SystemExit(f"{marks.count()} of {wanted} marks after {LIMIT_S} s")
        time.sleep(0.002)


def loaded(marks, chains: int) -> float:  # noqa: ANN001  as above
    """Hops per second; returns when the last chain is over."""
    ends: list[float] = []
    until = time.monotonic() + LIMIT_S
    while len(ends) < chains:
        if time.monotonic() > until:
            raise SystemExit(f"{len(ends)} of {chains} chains after {LIMIT_S} s")
        time.sleep(0.05)
        if marks.count() >= chains:
            ends = [at for at, sent in marks.read() if sent != marks.BEGIN]
    began = min(at for at, sent in marks.read() if sent == marks.BEGIN)
    return chains * STEPS / (max(ends) - began)


def idle(marks, queue, chains: int) -> float:  # noqa: ANN001  as above
    """Milliseconds of one chain, alone."""
    took = []
    for _ in range(chains):
        marks.clear()
        queue.send([message(time.time())])
        wait_for(marks, 1)
        took.extend((at - sent) * 1e3 for at, sent in marks.read() if sent != marks.BEGIN)
    return statistics.median(took[5:])


def main() -> None:
    name = sys.argv[1]
    chains = int(sys.argv[2]) if len(sys.argv) > 2 else 1500
    singles = int(sys.argv[3]) if len(sys.argv) > 3 else 60
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MARKS"] = str(Path(folder) / "marks")
        sys.path.insert(0, str(HERE))
        marks = importlib.import_module("marks")
        queue = importlib.import_module(f"on_{name}")
        marks.clear()
        queue.send([message(time.time()) for _ in range(chains)])
        program, *rest = queue.COMMAND
        workers = subprocess.Popen(
            [str(Path(sys.executable).parent / program), *rest],
            cwd=HERE,
            env=os.environ | {"PYTHONPATH": str(HERE)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            rate = loaded(marks, chains)
            single = idle(marks, queue, singles)
        finally:
            workers.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                workers.wait(5)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(workers.pid, signal.SIGKILL)
            workers.wait()
    confirmed = name == "faststream" or bool(os.environ.get("CONFIRM"))
    what = f"{name.capitalize()}, {'confirms' if confirmed else 'no confirms'}"
    result = {"what": what, "value": round(rate), "unit": "hops/s"}
    print(json.dumps(result | {"idle_chain_ms": round(single, 2)}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
