"""`asya top`: the actors of a running mesh, live."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from asya.cli.outcome import Url, connect
from asya.cli.spans import short
from asya.errors import counted

if TYPE_CHECKING:
    from rich.table import Table

EVERY_S: Final = 1.0
"""Seconds between two refreshes."""

COLUMNS: Final = (
    "ACTOR", "READY", "FLIGHT", "DELAYED", "BUSY", "IDLE", "START", "RATE/S", "P50", "P99",
    "ERRORS", "RETRIES", "LAST ERROR",
)  # fmt: skip
ERROR_MAX: Final = 60


def top(
    once: Annotated[bool, typer.Option("--once", help="Print the table once.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one look as JSON, with the totals.")
    ] = False,
    url: Url = None,
) -> None:
    """Show queues, replicas, rates and times, live.

    Where the output is no terminal it is printed once. Ctrl-C ends it.
    """
    client = connect(url)
    actors = client.get("/v1/actors")["actors"]
    if as_json:
        print(json.dumps({"actors": actors, "total": totals(actors)}, indent=2, ensure_ascii=False))
    elif once or not sys.stdout.isatty():
        print("\n".join(plain(actors)))
    else:
        from rich.live import Live

        with Live(table(actors), auto_refresh=False) as live:
            while True:
                time.sleep(EVERY_S)
                live.update(table(client.get("/v1/actors")["actors"]), refresh=True)


def totals(actors: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums over all actors; percentiles have none."""
    total: Counter[str] = Counter()
    for actor in actors:
        total.update(actor["queue"])
        total.update(_replicas(actor))
        total.update({name: actor[name] for name in ("succeeded", "failed", "retried", "rate")})
    names = (
        "ready", "in_flight", "delayed", "busy", "idle", "starting", "rate", "succeeded", "failed",
        "retried",
    )  # fmt: skip
    return {name: round(total[name], 2) for name in names}


def _replicas(actor: Mapping[str, Any]) -> Counter[str]:
    return Counter(str(each["state"]) for each in actor["replicas"])


def row(actor: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts of one actor, by `COLUMNS`."""
    queue, states = actor["queue"], _replicas(actor)
    return (
        str(actor["name"]),
        str(queue["ready"]),
        str(queue["in_flight"]),
        str(queue["delayed"]),
        str(states["busy"]),
        str(states["idle"]),
        str(states["starting"]),
        f"{actor['rate']:g}",
        _ms(actor["p50_ms"]),
        _ms(actor["p99_ms"]),
        str(actor["failed"]),
        str(actor["retried"]),
        (actor["last_error"] or "").partition("\n")[0][:ERROR_MAX],
    )


def total_row(actors: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The texts of the last line."""
    total = totals(actors)
    names = ("ready", "in_flight", "delayed", "busy", "idle", "starting")
    counts = [str(total[name]) for name in names]
    ends = (str(total["failed"]), str(total["retried"]), "")
    return (counted(len(actors), "actor"), *counts, f"{total['rate']:g}", "", "", *ends)


def plain(actors: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table as text, for what is no terminal."""
    rows = [COLUMNS, *map(row, actors), total_row(actors)]
    widths = [max(len(line[n]) for line in rows) for n in range(len(COLUMNS))]
    return [
        "  ".join(
            cell.ljust(width) if n in {0, len(COLUMNS) - 1} else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in rows
    ]


def table(actors: Sequence[Mapping[str, Any]]) -> Table:
    """The table for a terminal."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False)
    for name in COLUMNS:
        made.add_column(name, justify="left" if name in {"ACTOR", "LAST ERROR"} else "right")
    for actor in actors:
        cells = [Text(cell) for cell in row(actor)]
        cells[-1].stylize("red")
        made.add_row(*cells)
    made.add_row(*(Text(cell, "bold") for cell in total_row(actors)))
    return made


def _ms(milliseconds: float | None) -> str:
    return short(None if milliseconds is None else milliseconds / 1000)
