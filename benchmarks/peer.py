"""The peers' side of a row, where their environment is installed (`make bench-peers`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PEERS = Path(__file__).parent / "peers"
LIMIT_S = 240


def ray(job: str) -> dict[str, Any] | None:
    """What Ray Serve does for the same row, in this run; None where it is not installed."""
    return _run(".venv", "ray_serve.py", [job], {}, "Ray Serve")


def task_queue(name: str, url: str, *, chains: int) -> dict[str, Any] | None:
    """Chains on `celery`, `dramatiq` or `faststream` on the RabbitMQ at `url`, as `ray`."""
    return _run(".venv-queues", "chains.py", [name, str(chains)], {"AMQP_URL": url}, name)


def _run(
    environment: str, script: str, arguments: list[str], variables: dict[str, str], name: str
) -> dict[str, Any] | None:
    python = PEERS / environment / "bin" / "python"
    if not python.exists():
        return None
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    try:
        done = subprocess.run(
            [str(python), str(PEERS / script), *arguments],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=True,
            env=own | variables,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(f"{name} could not be measured: {error}\n{error.stderr}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
