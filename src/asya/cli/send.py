"""`asya send`: hand an envelope to the mesh and go."""

from __future__ import annotations

from typing import Annotated

import typer

from asya.cli.outcome import EnvelopeId, Sender, Target, Timeout, Url, connect
from asya.cli.payload import read_payload
from asya.cli.send_options import At, Delay, Key, KeyLife, KeyPolicy, read_terms


def send(
    target: Target,
    payload: Annotated[str, typer.Argument(metavar="JSON", help="The payload; - reads stdin.")],
    timeout: Timeout = None,
    envelope_id: EnvelopeId = None,
    at: At = None,
    delay: Delay = None,
    key: Key = None,
    key_policy: KeyPolicy = None,
    key_life: KeyLife = None,
    url: Url = None,
) -> None:
    """Send a payload and print the envelope's id.

    When the command ends well, the envelope is stored and will be worked on, whatever dies.
    """
    body = read_payload(payload)
    terms = read_terms(timeout, at, delay, key, key_policy, key_life)
    answer = Sender(connect(url), target, terms).send(body, envelope_id)
    typer.echo(answer.body["id"])
