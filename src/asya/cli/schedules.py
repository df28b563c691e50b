"""`asya schedules`: what a running mesh sends again and again."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

import typer

from asya.cli.outcome import Url, connect
from asya.errors import UsageError

COLUMNS: Final = ("SCHEDULE", "SENDS TO", "WHEN", "NEXT", "LAST", "LAST ID", "LAST ERROR")
ERROR_MAX: Final = 120


def schedules(
    action: Annotated[
        Literal["list", "run", "suspend", "resume"],
        typer.Argument(help="run starts one now; suspend and resume last over restarts."),
    ] = "list",
    name: Annotated[
        str | None, typer.Argument(help="The name of the schedule; not for list.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the gateway's answer as JSON.")
    ] = False,
    url: Url = None,
) -> None:
    """List the schedules, fire one now, suspend or resume it.

    `run` prints the envelope's id, and keeps to the schedule's concurrency policy. What was due
    while a schedule was suspended is not made up for.
    """
    if (name is None) != (action == "list"):
        raise UsageError(
            f"{action} takes no name" if action == "list" else f"name the schedule to {action}"
        )
    client = connect(url)
    if name is None:
        answer = client.get("/v1/schedules")
        if as_json:
            print(json.dumps(answer, indent=2, ensure_ascii=False))
        else:
            _print_table(answer["schedules"])
        return
    path = f"/v1/schedules/{quote(name, safe='')}/{action}"
    if action == "run":
        path += f"?id={uuid.uuid4()}"
    answer = client.post(path, b"").body
    if as_json:
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    elif action == "run":
        print(answer["id"])
    else:
        print(f"asya: {name} is {'suspended' if answer['suspended'] else 'on'}", file=sys.stderr)


def row(schedule: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts of one schedule, by `COLUMNS`."""
    zone = "" if schedule["timezone"] == "UTC" else f" {schedule['timezone']}"
    upcoming = "suspended" if schedule["suspended"] else schedule["next_at"] or "over"
    return (
        schedule["name"],
        schedule["flow"] or ",".join(schedule["route"]),
        schedule["when"] + zone,
        _short(upcoming),
        _short(schedule["last_at"] or "-"),
        schedule["last_id"] or "-",
        (schedule["last_error"] or "").partition("\n")[0][:ERROR_MAX],
    )


def _short(moment: str) -> str:
    """Without milliseconds."""
    return moment.replace(".000Z", "Z")


def plain(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """The table as text, in columns."""
    rows: list[Sequence[str]] = [COLUMNS, *map(row, found)]
    widths = [max(len(line[n]) for line in rows) for n in range(len(COLUMNS))]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in rows]


def _print_table(found: Sequence[Mapping[str, Any]]) -> None:
    if not found:
        print("asya: this mesh has no schedules", file=sys.stderr)
        return
    print("\n".join(plain(found)))
