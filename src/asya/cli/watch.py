"""`asya watch ID`: follow an envelope that was sent before."""

from __future__ import annotations

from typing import Annotated

import typer

from asya.cli.display import make_display
from asya.cli.outcome import Url, connect, follow_to_exit


def watch(
    envelope_id: Annotated[str, typer.Argument(metavar="ID", help="The envelope's id.")],
    progress: Annotated[
        bool | None,
        typer.Option(
            "--progress/--no-progress", help="Show progress; by default only on a terminal."
        ),
    ] = None,
    compact: Annotated[
        bool, typer.Option("--compact", help="Print the result on one line.")
    ] = False,
    url: Url = None,
) -> None:
    """Follow an envelope to its end, print the result.

    Shows what has happened so far, then what happens. The exit code is 1 when it failed.
    """
    follow_to_exit(connect(url), envelope_id, make_display(progress=progress), compact=compact)
