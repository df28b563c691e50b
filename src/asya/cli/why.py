"""`asya why ID`: why an envelope is where it is."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer

from asya.cli.outcome import Url, connect

WIDTH: Final = 96
"""Columns that a sentence may take."""


def why(
    envelope_id: Annotated[str, typer.Argument(metavar="ID", help="The envelope's id.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the gateway's answer as JSON.")
    ] = False,
    url: Url = None,
) -> None:
    """Say why an envelope is where it is.

    Prints the cause, the evidence, and the commands that fix the problem.
    """
    answer = connect(url).get(f"/v1/envelopes/{quote(envelope_id, safe='')}/why")
    if as_json:
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        print("\n".join(screen(answer, colour=sys.stdout.isatty())))


def screen(found: Mapping[str, Any], *, colour: bool = False) -> list[str]:
    """The lines of the answer, for people."""
    bold, dim, plain = ("\x1b[1m", "\x1b[2m", "\x1b[0m") if colour else ("", "", "")
    lines = [f"{dim}{found['id']}  {found['status'] or 'unknown'}{plain}", ""]
    lines += [f"{bold}{line}{plain}" for line in textwrap.wrap(found["cause"], WIDTH)]
    if found["evidence"]:
        lines.append("")
        for fact in found["evidence"]:
            lines += textwrap.wrap(fact, WIDTH, initial_indent="  - ", subsequent_indent="    ")
    if found["remedy"]:
        lines.append("")
        width = max(len(each["command"]) for each in found["remedy"])
        for each in found["remedy"]:
            lines.append(f"  {each['command']:<{width}}  {dim}# {each['does']}{plain}")
    return lines
