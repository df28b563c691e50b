"""P11: SIGKILL of the only replica with 100 calls under way.

Ray Serve, measured on two cores: 100 of 100 lost, the next answer after 7.4 s.
"""

from __future__ import annotations

import os
import signal
import threading
import time

from harness import report, row
from mesh import Mesh, actor
from peer import ray

RUNS = int(os.environ.get("RUNS", "3"))
CALLS = 100
HANDLER = """
import asyncio

async def work(payload):
    await asyncio.sleep(0.5)
    return payload
"""


def one() -> tuple[float, float]:
    """Lost calls, and seconds from the kill to the last answer."""
    more = "  concurrency: 100\n  scaling:\n    maxReplicaCount: 1\n"
    with Mesh(HANDLER, actor("work", "handlers.work", more)) as mesh:
        mesh.call(["work"], "first")
        answers: list[tuple[int, float]] = []
        lock = threading.Lock()

        def call(i: int) -> None:
            answer = mesh.call(["work"], i)
            if answer.get("result") == i:
                with lock:
                    answers.append((i, time.perf_counter()))

        threads = [threading.Thread(target=call, args=(i,)) for i in range(CALLS)]
        for thread in threads:
            thread.start()
        time.sleep(0.35)
        (replica,) = mesh.replicas("work")
        os.kill(replica["pid"], signal.SIGKILL)
        killed = time.perf_counter()
        for thread in threads:
            thread.join()
        last = max((at for _, at in answers), default=killed)
        return float(CALLS - len({i for i, _ in answers})), last - killed


def main() -> None:
    lost, took = zip(*(one() for _ in range(RUNS)), strict=True)
    what = "lost of 100 at a replica's death"
    report(row("P11", what, list(lost), "", better="lower", target=0, peer=ray("kill")))
    report(row("P11b", "kill to the last answer", list(took), "s", better="lower", target=2))


if __name__ == "__main__":
    main()
