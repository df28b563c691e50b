"""`asya ps`: the actors of a running mesh."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

import typer

from asya.cli.outcome import Url, connect

COLUMNS: Final = ("ACTOR", "REPLICAS", "READY", "IN FLIGHT", "DELAYED", "RATE/S", "LAST ERROR")
ERROR_MAX: Final = 120


def ps(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the gateway's answer as JSON.")
    ] = False,
    url: Url = None,
) -> None:
    """List the running actors with their queues and replicas."""
    answer = connect(url).get("/v1/actors")
    if as_json:
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    elif sys.stdout.isatty():
        _print_table(answer["actors"])
    else:
        print("\n".join(plain(answer["actors"])))


def row(actor: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts of one actor, by `COLUMNS`."""
    queue = actor["queue"]
    return (
        str(actor["name"]),
        replicas(actor["replicas"]),
        str(queue["ready"]),
        str(queue["in_flight"]),
        str(queue["delayed"]),
        f"{actor['rate']:g}",
        (actor.get("last_error") or "").partition("\n")[0][:ERROR_MAX],
    )


def replicas(running: Iterable[Mapping[str, Any]]) -> str:
    """`3 (2 busy, 1 idle)`, or `0`."""
    states = Counter(str(each["state"]) for each in running)
    if not states:
        return "0"
    parts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return f"{states.total()} ({parts})"


def plain(actors: Iterable[Mapping[str, Any]]) -> list[str]:
    """The table as text, in columns, for what is no terminal."""
    rows = [COLUMNS, *map(row, actors)]
    widths = [max(len(line[n]) for line in rows) for n in range(len(COLUMNS))]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in rows]


def _print_table(actors: Iterable[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in {"ACTOR", "LAST ERROR"} else "right")
    for actor in actors:
        cells = [Text(cell) for cell in row(actor)]
        cells[-1].stylize("red")
        table.add_row(*cells)
    Console().print(table)
