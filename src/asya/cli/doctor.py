"""`asya doctor`: what is wrong with this set-up, a line per check."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from asya.cli.setting_flags import takes_settings
from asya.cli.up import project_folder
from asya.codes import Code
from asya.errors import UsageError

if TYPE_CHECKING:
    from asya.local.doctor import Finding

EXIT_UNWELL: Final = 1
COLOURS: Final = {"ok": "32", "warn": "33", "fail": "1;31", "skip": "2"}
NAME_WIDTH: Final = 12


@takes_settings
def doctor(
    flags: Mapping[str, Any],
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH]…",
            help="What to check, as for asya up; by default this folder.",
        ),
    ] = None,
    handlers: Annotated[
        bool,
        typer.Option(help="Import the handlers' modules, each in a separate process."),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this set-up: each line passes or names the remedy.

    Nothing is started, sent or changed, except that the handlers' modules are imported as a
    replica would do it.
    """
    from asya.local.doctor import SetUp, examine

    given = paths or []
    _check_paths(given)
    setup = SetUp.read(given, project_folder(given), os.environ, flags)
    findings = []
    for finding in examine(setup, handlers=handlers):
        findings.append(finding)
        if not as_json:
            print(line(finding, colour=sys.stdout.isatty()), flush=True)
    counts = Counter(finding.state for finding in findings)
    if as_json:
        print(json.dumps(as_object(findings), ensure_ascii=False, indent=2))
    else:
        sys.stdout.flush()
        print(summary(counts, findings), file=sys.stderr)
    sys.stdout.flush()
    raise typer.Exit(EXIT_UNWELL if counts["fail"] else 0)


def _check_paths(paths: Sequence[str]) -> None:
    """Refuse paths that are not there: then the answer would be about something else."""
    for path in paths:
        if not Path(path).exists() and ".py:" not in path:
            raise UsageError(f"{path}: no such file or folder", code=Code.FILE_UNREADABLE)


def line(finding: Finding, *, colour: bool = False) -> str:
    """`fail  port          port 8080 on 127.0.0.1 is in use …  [ASYA-1303]`."""
    state = f"{finding.state:<4}"
    if colour:
        state = f"\x1b[{COLOURS[finding.state]}m{state}\x1b[0m"
    code = f"  [{finding.code}]" if finding.code else ""
    text = " ".join(finding.text.split())
    return f"{state}  {finding.check:<{NAME_WIDTH}}  {text}{code}"


def as_object(findings: Sequence[Finding]) -> dict[str, Any]:
    """`{"ok", "findings": [{"check", "state", "text", "code"}]}`."""
    rows = [
        {"check": each.check, "state": each.state, "text": each.text, "code": each.code}
        for each in findings
    ]
    return {"ok": all(each.state != "fail" for each in findings), "findings": rows}


def summary(counts: Mapping[Any, int], findings: Sequence[Finding]) -> str:
    """`12 ok, 1 warning, 1 failed; asya explain ASYA-1303`."""
    parts = [f"{counts.get('ok', 0)} ok"]
    if warnings := counts.get("warn", 0):
        parts.append(f"{warnings} warning" if warnings == 1 else f"{warnings} warnings")
    if failed := counts.get("fail", 0):
        parts.append(f"{failed} failed")
    codes = dict.fromkeys(str(each.code) for each in findings if each.code)
    tell = f"; more: asya explain {' '.join(codes)}" if codes else ""
    return ", ".join(parts) + tell
