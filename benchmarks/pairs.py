"""Compares two checkouts, row by row, in alternating pairs: what a refactoring costs.

    .venv/bin/python benchmarks/pairs.py ../before . --rows P3 P4 P5 --pairs 7

Each checkout needs a `.venv` of its own (`make setup`) and runs its own benchmark scripts. A pair
runs both checkouts one after the other; the order changes from pair to pair, so that a machine that
gets slower over time counts against both. For each figure the table has the median of both sides
and the median of the ratios within the pairs. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any


def scripts_of(checkout: Path, rows: list[str]) -> list[Path]:
    """The benchmark scripts of a checkout that measure some of the rows."""
    wanted = {row.lower() for row in rows}
    found = sorted((checkout / "benchmarks").glob("p[0-9]*.py"))
    return [path for path in found if wanted & set(path.stem.split("_"))]


def measure(checkout: Path, script: Path, environ: dict[str, str]) -> list[dict[str, Any]]:
    """The rows that one run of a script prints.

    Raises:
        RuntimeError: The script failed; the text ends with its output.
    """
    done = subprocess.run(
        [str(checkout / ".venv/bin/python"), str(script)],
        cwd=checkout, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{script} exited with {done.returncode}: {done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def main() -> int:
    """Run the pairs and print the table (stdout) and the progress (stderr)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--rows", nargs="+", default=["P3", "P4", "P5"])
    parser.add_argument("--pairs", type=int, default=7)
    given = parser.parse_args()
    sides = {"before": given.before.resolve(), "after": given.after.resolve()}
    environ = {"RUNS": "1", **os.environ}
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: {"before": [], "after": []})
    about: dict[str, str] = {}
    for number in range(given.pairs):
        order = ("before", "after") if number % 2 == 0 else ("after", "before")
        for side in order:
            for script in scripts_of(sides[side], given.rows):
                print(f"pair {number + 1}: {side} {script.stem}", file=sys.stderr, flush=True)
                for row in measure(sides[side], script, environ):
                    values[row["id"]][side].append(row["value"])
                    about[row["id"]] = f"{row['what']}, {row['unit']}"
    print("| row | what | before | after | after / before |\n| --- | --- | --- | --- | --- |")
    for row_id, both in values.items():
        ratios = [b / a for a, b in zip(both["before"], both["after"], strict=True) if a]
        spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        old, new = (statistics.median(both[side]) for side in ("before", "after"))
        print(f"| {row_id} | {about[row_id]} | {old:.5g} | {new:.5g} | {spread} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
