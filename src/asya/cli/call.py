"""`asya call`: one payload with its live progress, or a file of them with a bar."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asya.cli.display import make_display
from asya.cli.outcome import EnvelopeId, Sender, Target, Timeout, Url, connect, follow_to_exit
from asya.cli.payload import read_payload
from asya.cli.send_options import At, Delay, Key, KeyLife, KeyPolicy, read_terms
from asya.errors import UsageError


def call(
    target: Target,
    payload: Annotated[
        str | None, typer.Argument(metavar="JSON", help="The payload; - reads stdin.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE",
            help="A file of JSON lines, one payload per line; - reads stdin.",
        ),
    ] = None,
    timeout: Timeout = None,
    envelope_id: EnvelopeId = None,
    at: At = None,
    delay: Delay = None,
    key: Key = None,
    key_policy: KeyPolicy = None,
    key_life: KeyLife = None,
    concurrency: Annotated[
        int,
        typer.Option(min=1, max=256, help="With -f: how many payloads are processed at a time."),
    ] = 16,
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
    """Send a payload, show the progress, print the result.

    The result is JSON on stdout; progress and streamed text go to stderr. With -f every line of
    the file is one payload, and stdout gets one line for each, in their order: the result, or
    {"error": …, "id": …}. The exit code is 1 when an envelope failed. Ctrl-C leaves it running.
    """
    if (payload is None) == (file is None):
        raise UsageError("expected one payload, as JSON or as -, or a file with -f")
    terms = read_terms(timeout, at, delay, key, key_policy, key_life)
    if file is not None:
        if envelope_id is not None or key is not None:
            raise UsageError("--id and --key need a single envelope, but -f sends many; remove one")
        from asya.cli.batch import call_lines, open_lines

        with open_lines(file) as lines:
            sender = Sender(connect(url), target, terms)
            call_lines(sender, lines, concurrency=concurrency, progress=progress)
        return
    body = read_payload(payload or "")
    client = connect(url)
    sent = Sender(client, target, terms).send(body, envelope_id).body["id"]
    follow_to_exit(client, sent, make_display(progress=progress), compact=compact)
