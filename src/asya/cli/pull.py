"""`asya pull ID`: an envelope as an actor got it, for `asya run`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

import typer

from asya.cli.client import GatewayClient, Refused
from asya.cli.outcome import Url, connect
from asya.errors import UsageError


def pull(
    envelope_id: Annotated[str, typer.Argument(metavar="ID", help="The envelope's id.")],
    hop: Annotated[
        int | None,
        typer.Option(
            "--hop", min=0, metavar="N", help="Print the input of this hop, counted from 0."
        ),
    ] = None,
    url: Url = None,
) -> None:
    """Print an envelope as an actor received it.

    Of a dead letter: as the actor got it that failed. With --hop any hop whose payload was kept
    (`spec.capture`). `asya run ACTOR FILE` takes what this prints.
    """
    client = connect(url)
    case = _dead(client, envelope_id) if hop is None else _captured(client, envelope_id, hop)
    print(json.dumps(case, indent=2, ensure_ascii=False))


def _dead(client: GatewayClient, envelope_id: str) -> dict[str, Any]:
    try:
        letter = client.get(f"/v1/dead/{quote(envelope_id, safe='')}")
    except Refused as error:
        if error.is_about("not-dead"):
            raise UsageError(f"{error}; name one of its hops with --hop N") from error
        raise
    if letter["payload_problem"]:
        raise UsageError(f"the payload of {letter['id']} is not available: "
                         f"{letter['payload_problem']}")  # fmt: skip
    case: dict[str, Any] = letter["case"]
    return case | {"payload": letter["payload"]}


def _captured(client: GatewayClient, envelope_id: str, hop: int) -> dict[str, Any]:
    path = f"/v1/envelopes/{quote(envelope_id, safe='')}"
    envelope = client.get(path)
    attempts = [each for each in envelope["hops"] if each["n"] == hop]
    if not attempts:
        made = sorted({each["n"] for each in envelope["hops"]})
        known = f"it has {', '.join(map(str, made))}" if made else "none has begun"
        raise UsageError(f"the envelope {envelope['id']} has no hop {hop}; {known}")
    found = client.get_bytes(f"{path}/hops/{hop}/payload?side=in")
    if found is None:
        raise UsageError(
            f"of hop {hop} no payload is kept: `capture: all` in the actor's spec keeps the next "
            "ones; that of a dead letter is there without --hop"
        )
    body, headers = found
    if headers.get("asya-truncated") == "true":
        raise UsageError(f"of hop {hop} only the beginning of the payload is kept (captureMax)")
    attempt = int(headers.get("asya-attempt", attempts[-1]["attempt"]))
    return _case(envelope, attempts[-1]["actor"], hop, attempt) | {"payload": json.loads(body)}


def _case(envelope: Mapping[str, Any], actor: str, hop: int, attempt: int) -> dict[str, Any]:
    route = envelope["route"]
    way = [*route["prev"], route["curr"], *route["next"]]
    if route["curr"].startswith("x-"):  # at its end: one that failed stands before its last actor
        last = envelope["hops"][-1]["actor"] if envelope["status"] != "succeeded" else None
        way[len(route["prev"])] = last
    passed = [name for name in way if name is not None]
    return {
        "id": envelope["id"],
        "route": {"prev": passed[:hop], "curr": actor, "next": passed[hop + 1 :]},
        "headers": envelope["headers"],
        "status": {
            "phase": "processing",
            "actor": actor,
            "attempt": attempt,
            "created_at": envelope["created_at"],
        },
    }
