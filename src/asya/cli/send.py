"""`asya send`: hand an envelope to the mesh and go."""

from __future__ import annotations

from typing import Annotated

import typer

from asya.cli.outcome import EnvelopeId, Sender, Target, Timeout, Url, connect
from asya.cli.payload import read_payload


def send(
    target: Target,
    payload: Annotated[str, typer.Argument(metavar="JSON", help="The payload; - reads stdin.")],
    timeout: Timeout = None,
    envelope_id: EnvelopeId = None,
    url: Url = None,
) -> None:
    """Send a payload and print the envelope's id.

    When the command ends well, the envelope is stored and will be worked on, whatever dies.
    """
    body = read_payload(payload)
    answer = Sender(connect(url), target, timeout).send(body, envelope_id)
    typer.echo(answer.body["id"])
