"""`asya validate`: check manifests, functions and settings without starting anything."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from asya import manifest, settings
from asya.codes import Code
from asya.errors import Complaint, UsageError

EXIT_PROBLEMS: Final = 2


def validate(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH]…",
            help="Manifest files, folders, asya.yaml, or file.py:function. Without: this folder.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")
    ] = False,
) -> None:
    """Check manifests and settings; every problem is named with file, line and remedy."""
    raise typer.Exit(check(paths or ["."], as_json=as_json))


def check(paths: Sequence[str | Path], *, as_json: bool = False) -> int:
    """Print what is wrong to stderr (with `as_json`, everything to stdout).

    Returns:
        0 when nothing is wrong, else 2. Warnings do not count.
    """
    result = examine(paths)
    if as_json:
        _print_json(result)
    else:
        _print_text(result)
    return EXIT_PROBLEMS if result["problems"] else 0


def examine(paths: Sequence[str | Path]) -> dict[str, Any]:
    """What the paths hold: names (`actors`, …), lines (`problems`, …) and codes of the problems."""
    problems: list[Complaint] = []
    rest: list[str | Path] = []
    folders: list[Path] = []
    for path in paths:
        if Path(path).name == settings.SETTINGS_FILE:
            folders.append(Path(path).parent)
            if not Path(path).is_file():
                problems.append(Complaint(f"{path}: no such file", Code.MANIFEST_MISSING))
        else:
            rest.append(path)
            if Path(path).is_dir():
                folders.append(Path(path))
    given = settings.Settings()
    for folder in dict.fromkeys(folders):
        try:
            # variables count too: this is what `asya up` would read here
            given = settings.read(folder, settings.environment(), {})
        except UsageError as error:
            problems += error.complaints()
    loaded = manifest.Manifests()
    try:
        if rest:
            loaded = manifest.load(rest, namespace=given.namespace)
    except UsageError as error:
        problems += error.complaints()
    found = list(dict.fromkeys(problems))
    return {
        "ok": not problems,
        "actors": [actor.name for actor in loaded.actors],
        "flows": [flow.name for flow in loaded.flows],
        "schedules": [schedule.name for schedule in loaded.schedules],
        "problems": found,
        "codes": [problem.code for problem in found],
        "warnings": [*loaded.warnings, *_without_address(loaded, given)],
        "notes": loaded.notes,
    }


def _without_address(loaded: manifest.Manifests, given: settings.Settings) -> list[str]:
    """Actors whose broker has no address: a warning, since a flag may still give it."""
    # not asked for at all: what it needs to know of the mesh takes time to load
    if not any(actor.spec.transport for actor in loaded.actors):
        return []
    from asya.local.transports import without_address

    return list(without_address(loaded.actors, given))


def _print_json(result: dict[str, Any]) -> None:
    print(json.dumps(result, ensure_ascii=False, indent=2))


def _print_text(result: dict[str, Any]) -> None:
    for note in result["notes"]:
        print(f"note: {note}", file=sys.stderr)
    for warning in result["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    for problem in result["problems"]:
        print(f"{problem}  [{problem.code}]", file=sys.stderr)
    print(_summary(result), file=sys.stderr)


def _summary(result: dict[str, Any]) -> str:
    if result["problems"]:
        return _count(len(result["problems"]), "problem")
    parts = [_count(len(result["actors"]), "actor"), _count(len(result["flows"]), "flow")]
    if result["schedules"]:
        parts.append(_count(len(result["schedules"]), "schedule"))
    if result["warnings"]:
        parts.append(_count(len(result["warnings"]), "warning"))
    checked = " (handlers are not imported here; `asya doctor` does that)"
    return f"{', '.join(parts)}: valid{checked if result['actors'] else ''}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
