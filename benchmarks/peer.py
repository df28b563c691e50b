"""The peers' side of a row, where their environment is installed (`make bench-peers`)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PEERS = Path(__file__).parent / "peers"
LIMIT_S = 240


def ray(job: str) -> dict[str, Any] | None:
    """What Ray Serve does for the same row, in this run; None where it is not installed."""
    python = PEERS / ".venv" / "bin" / "python"
    if not python.exists():
        return None
    try:
        done = subprocess.run(
            [str(python), str(PEERS / "ray_serve.py"), job],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(f"Ray Serve could not be measured: {error}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
