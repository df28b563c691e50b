"""Runs the benchmark scripts of the rows that are asked for: `make bench ROWS="P3 P9"`.

JSON lines on stdout, a table on stderr, both also kept in `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def rows_of(script: Path) -> list[str]:
    """`p3_p4_durable_hop.py` measures P3 and P4, `transport_hops.py` is one of `transport`."""
    if script.stem.startswith("transport_"):
        return ["transport"]
    return re.findall(r"p\d+", script.stem.split("_durable")[0])


def wanted_of(text: str) -> list[str]:
    """The rows that somebody wrote: `P3 P9`, `p3,p9`."""
    return re.findall(r"[^\s,]+", text.lower())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="", help="such as 'P3 P9'; none means all")
    wanted = wanted_of(parser.parse_args().rows)
    found = [*HERE.glob("p[0-9]*.py"), *HERE.glob("transport_*.py")]
    scripts = {script: rows_of(script) for script in sorted(found, key=_order)}
    known = list(dict.fromkeys(name for names in scripts.values() for name in names))
    unknown = [name for name in wanted if name not in known]
    if unknown:
        print(
            f"no script measures {', '.join(unknown)}; there are {', '.join(known)}",
            file=sys.stderr,
        )
        return 2
    failed = 0
    for script, names in scripts.items():
        if not wanted or set(names) & set(wanted):
            print(f"== {script.name}", file=sys.stderr, flush=True)
            failed += subprocess.run([sys.executable, str(script)], check=False).returncode != 0
    return 1 if failed else 0


def _order(script: Path) -> tuple[float, str]:
    found = re.match(r"p(\d+)", script.stem)
    return (int(found[1]) if found else math.inf, script.stem)


if __name__ == "__main__":
    sys.exit(main())
