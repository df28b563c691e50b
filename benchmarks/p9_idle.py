"""P9: a mesh of 20 actors at zero replicas, idle: processes, memory, CPU.

Ray Serve idle, measured on two cores: 23 processes, 2.19 GiB resident, 0.2 core.
"""

from __future__ import annotations

import os
import time

from harness import report, row
from mesh import Mesh, actor
from peer import ray

RUNS = int(os.environ.get("RUNS", "3"))
WATCH_S = float(os.environ.get("WATCH_S", "15"))
ACTORS = 20


def main() -> None:
    processes, memory, cpu = [], [], []
    manifests = "".join(actor(f"a{i}", "handlers.echo") for i in range(ACTORS))
    for _ in range(RUNS):
        with Mesh("def echo(payload):\n    return payload\n", manifests) as mesh:
            time.sleep(2)
            before = mesh.cpu_s()
            time.sleep(WATCH_S)
            cpu.append((mesh.cpu_s() - before) / WATCH_S)
            processes.append(float(len(mesh.tree())))
            memory.append(mesh.memory_mib())
    what = "idle, 20 actors at zero: processes"
    report(row("P9", what, processes, "", better="lower", target=3, peer=ray("idle")))
    report(row("P9b", "the same: memory (PSS)", memory, "MiB", better="lower", target=120))
    report(row("P9c", "the same: CPU", cpu, "cores", better="lower", target=0.01))


if __name__ == "__main__":
    main()
