"""`asya cancel ID`: stop an envelope."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from asya.cli.outcome import Url, connect


def cancel(
    envelope_id: Annotated[str, typer.Argument(metavar="ID", help="The envelope's id.")],
    url: Url = None,
) -> None:
    """Cancel an envelope and its children.

    One that has ended stays as it ended; canceling twice is no error.
    """
    connect(url).delete(f"/v1/envelopes/{quote(envelope_id, safe='')}")
