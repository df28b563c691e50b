"""`asya schema`: the JSON Schema of a kind, for editors and other tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer

from asya import manifest, settings
from asya.codes import Code
from asya.document import unknown
from asya.errors import UsageError

SCHEMAS: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    "AsyncActor": lambda: manifest.json_schema("AsyncActor"),
    "Flow": lambda: manifest.json_schema("Flow"),
    "Schedule": lambda: manifest.json_schema("Schedule"),
    "Envelope": lambda: manifest.json_schema("Envelope"),
    "Settings": settings.json_schema,
}


def schema(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="[KIND]", help=f"{', '.join(SCHEMAS)}. Without: all of them."),
    ] = None,
) -> None:
    """Print the JSON Schema of a kind on stdout; without KIND one object with all, by kind."""
    print(json.dumps(schema_of(kind), ensure_ascii=False, indent=2))


def schema_of(kind: str | None) -> dict[str, Any]:
    """The schema of a kind, in any case of its letters; all by kind for None.

    Raises:
        UsageError: There is no such kind.
    """
    if kind is None:
        return {name: make() for name, make in SCHEMAS.items()}
    for name, make in SCHEMAS.items():
        if name.lower() == kind.lower():
            return make()
    raise UsageError(unknown("kind", kind, list(SCHEMAS)), code=Code.NAME_UNKNOWN)
