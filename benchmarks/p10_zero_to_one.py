"""P10: from zero replicas to the first result, a handler of the standard library.

Cold: the actor's first replica since the mesh began. Warm: it had one before, which went.
Ray Serve, measured on two cores: 2.2 to 9.6 s.
"""

from __future__ import annotations

import os
import time

from harness import report, row
from mesh import Mesh, actor
from peer import ray

RUNS = int(os.environ.get("RUNS", "3"))
ACTORS = 5
WARM = 5


def once(mesh: Mesh, name: str) -> float:
    began = time.perf_counter()
    answer = mesh.call([name], 1)
    took = (time.perf_counter() - began) * 1e3
    assert answer["result"] == 1, answer
    return took


def main() -> None:
    cold, warm = [], []
    manifests = "".join(actor(f"a{i}", "handlers.echo") for i in range(ACTORS))
    for _ in range(RUNS):
        with Mesh(
            "import json\n\ndef echo(payload):\n    return payload\n",
            manifests,
            "--cooldown",
            "200ms",
        ) as mesh:
            cold.extend(once(mesh, f"a{i}") for i in range(ACTORS))
            for _ in range(WARM):
                mesh.wait_for_replicas("a0", 0)
                time.sleep(0.1)
                warm.append(once(mesh, "a0"))
    what = "0 to 1, first result, cold"
    report(row("P10", what, cold, "ms", better="lower", target=300, peer=ray("zero")))
    report(row("P10b", "0 to 1, first result, warm", warm, "ms", better="lower", target=60))


if __name__ == "__main__":
    main()
