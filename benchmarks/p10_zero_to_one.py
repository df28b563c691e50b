"""P10: from zero replicas to the first result.

Cold: the actor's first replica since the mesh began. Warm: it had one before, which went, so a template
forks the next. P10 and P10b with a handler of the standard library, P10c and P10d with one whose module
takes a second to import.
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

HEAVY = "import time\n\ntime.sleep(1)\n\ndef echo(payload):\n    return payload\n"
"""The import as a wait: what a template saves must not depend on what is installed here."""


def once(mesh: Mesh, name: str) -> float:
    began = time.perf_counter()
    answer = mesh.call([name], 1)
    took = (time.perf_counter() - began) * 1e3
    assert answer["result"] == 1, answer
    return took


def main() -> None:
    cold, warm, heavy_cold, heavy_warm = [], [], [], []
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
    with Mesh(HEAVY, actor("heavy", "handlers.echo"), "--cooldown", "200ms") as mesh:
        heavy_cold.append(once(mesh, "heavy"))
        mesh.wait_for_replicas("heavy", 0)
        time.sleep(1.5)
        for _ in range(WARM):
            mesh.wait_for_replicas("heavy", 0)
            time.sleep(0.1)
            heavy_warm.append(once(mesh, "heavy"))
    report(row("P10", what, cold, "ms", better="lower", target=300, peer=ray("zero")))
    report(row("P10b", "0 to 1, first result, warm", warm, "ms", better="lower", target=60))
    report(
        row("P10c", "0 to 1, import of 1 s, cold", heavy_cold, "ms", better="lower", target=None)
    )
    report(
        row("P10d", "0 to 1, import of 1 s, warm", heavy_warm, "ms", better="lower", target=None)
    )


if __name__ == "__main__":
    main()
