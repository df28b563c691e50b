"""What every benchmark script shares: medians over runs, one JSON object per row, a table.

A script calls `report(Row(...))` once per figure. JSON goes to stdout and, with the machine and the
commit, to `benchmarks/results/`; a line for people goes to stderr.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAYLOAD = {"text": "x" * 1000, "n": 1}
"""About 1 KiB as JSON."""


@dataclass
class Row:
    """One figure beside its target. `spread` is (smallest, largest) over the runs."""

    id: str
    what: str
    value: float
    unit: str
    better: str
    target: float | None
    spread: tuple[float, float]
    peer: dict[str, Any] | None = None
    runs: int = 1


def row(
    row_id: str,
    what: str,
    values: list[float],
    unit: str,
    *,
    better: str,
    target: float | None,
    peer: dict[str, Any] | None = None,
) -> Row:
    """The median of several runs."""
    return Row(
        row_id,
        what,
        round(statistics.median(values), 4),
        unit,
        better,
        target,
        (round(min(values), 4), round(max(values), 4)),
        peer,
        len(values),
    )


def report(result: Row) -> None:
    """Print a row and keep it."""
    print(json.dumps(asdict(result)), flush=True)
    reached = "" if result.target is None else _against(result)
    peer = f"  beside {result.peer}" if result.peer else ""
    print(
        f"{result.id:4} {result.what:58} {result.value:>10.6g} {result.unit:8}{reached}"
        f"  ({result.spread[0]:.4g} to {result.spread[1]:.4g}, n={result.runs}){peer}",
        file=sys.stderr,
        flush=True,
    )
    RESULTS.mkdir(exist_ok=True)
    stamp = time.strftime("%Y%m%d")
    with (RESULTS / f"{stamp}-{commit()}.jsonl").open("a") as out:
        out.write(json.dumps(asdict(result) | {"machine": machine(), "commit": commit()}) + "\n")


def _against(result: Row) -> str:
    assert result.target is not None
    good = (
        result.value <= result.target if result.better == "lower" else result.value >= result.target
    )
    sign = "≤" if result.better == "lower" else "≥"
    return f" {'ok  ' if good else 'MISS'} {sign} {result.target:g}"


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the sorted values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpus": os.cpu_count(),
        "arch": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "load": [round(x, 1) for x in os.getloadavg()],
    }


def commit() -> str:
    """The short id of the checked-out commit, with a + where files are changed."""
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty=+"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout.strip() or "unknown"
