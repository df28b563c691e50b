"""Sending payloads and learning how they end: what call, send and watch have in common."""

from __future__ import annotations

import json
import sys
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, TextIO
from urllib.parse import quote, urlencode

import typer

from asya.cli.client import Answer, GatewayClient, Refused, find_mesh
from asya.cli.display import Display
from asya.cli.send_options import Terms
from asya.cli.waiting import telling
from asya.codes import Code
from asya.errors import MeshUnreachable, UsageError, nearest

CHILDREN_MAX: Final = 500
"""Children of a fan-out that are counted, the newest."""

NO_LETTER: Final = frozenset({"PolicyRouted", "DeadlineExceeded"})
"""Reasons of failures that leave no dead letter."""

Url = Annotated[
    str | None,
    typer.Option(
        envvar="ASYA_URL",
        metavar="URL",
        help="Address of the mesh; by default the mesh of this folder.",
    ),
]
Timeout = Annotated[
    str | None,
    typer.Option(metavar="DURATION", help="Time limit for the whole route, such as 30s or 5m."),
]
EnvelopeId = Annotated[
    str | None,
    typer.Option("--id", help="The envelope's id; a repeated id sends nothing new."),
]
Target = Annotated[
    str, typer.Argument(metavar="FLOW|A,B,C", help="A flow, or actors separated by commas.")
]


def connect(url: str | None) -> GatewayClient:
    """A client of the mesh that the options or this folder name."""
    return GatewayClient(
        find_mesh(url, Path.cwd()), say=lambda text: print(f"asya: {text}", file=sys.stderr)
    )


class Sender:
    """Sends payloads to one target, a flow or a list of actors; which of them is asked once.

    Args:
        client: The mesh.
        target: What the user wrote: `search`, `embedder` or `embedder,reranker`.
        terms: Time limit, begin and key.
    """

    def __init__(self, client: GatewayClient, target: str, terms: Terms) -> None:
        self.client = client
        self._target = target
        self._terms = terms
        self._actors = [name.strip() for name in target.split(",")]
        if not all(self._actors):
            raise UsageError(
                f"{target!r} has an empty name; expected a flow, or actors such as a,b,c"
            )
        self._is_flow = len(self._actors) == 1 and target in flow_names(client)

    def send(self, payload: bytes, envelope_id: str | None = None, *, wait_s: int = 0) -> Answer:
        """Send one payload, JSON as bytes.

        Args:
            payload: JSON.
            envelope_id: Its id; a new one is made without it. The same id is the same envelope.
            wait_s: How long the gateway may hold the answer back.

        Returns:
            202 with the id, or 200 with the envelope when it has ended.
        """
        envelope_id = envelope_id or str(uuid.uuid4())
        query: dict[str, str] = {"wait": f"{wait_s}s"} if wait_s else {}
        if self._is_flow:
            query |= {"id": envelope_id, **self._terms.fields}
            path, body = f"/v1/flows/{quote(self._target)}", payload
        else:
            path, body = "/v1/envelopes", self._wrapped(payload, envelope_id)
        try:
            answer = self.client.post(
                _with_query(path, query), body, wait_s=wait_s, headers=self._terms.headers
            )
        except Refused as error:
            if len(self._actors) == 1 and error.is_about("unknown-actor"):
                raise UsageError(self._unknown(), code=Code.NAME_UNKNOWN) from error
            raise
        if self._terms.key is not None and answer.body["id"] != envelope_id:
            holder = answer.body["id"]
            print(f"asya: the envelope {holder} holds this key; sent nothing", file=sys.stderr)
        return answer

    def _wrapped(self, payload: bytes, envelope_id: str) -> bytes:
        fields: dict[str, Any] = {"id": envelope_id, "route": self._actors, **self._terms.fields}
        return json.dumps(fields).encode()[:-1] + b',"payload":' + payload + b"}"

    def _unknown(self) -> str:
        actors = [actor["name"] for actor in self.client.get("/v1/actors")["actors"]]
        known = [*flow_names(self.client), *actors]
        close = nearest(self._target, known)
        hint = f"did you mean {close}?" if close else f"there are: {', '.join(known) or 'none'}"
        return f"{self._target!r} is neither a flow nor an actor of this mesh; {hint}"


def flow_names(client: GatewayClient) -> list[str]:
    """Names of the flows of the mesh."""
    return [flow["name"] for flow in client.get("/v1/flows")["flows"]]


def _with_query(path: str, query: dict[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def follow(client: GatewayClient, envelope_id: str, display: Display) -> dict[str, Any]:
    """Show an envelope's events until its end; the envelope, as the gateway shows it."""
    try:
        for event in client.events(envelope_id):
            display.show(event)
    finally:
        display.close()
    envelope: dict[str, Any] = client.get(f"/v1/envelopes/{quote(envelope_id, safe='')}")
    return envelope


def follow_to_exit(
    client: GatewayClient, envelope_id: str, display: Display, *, compact: bool
) -> None:
    """Follow an envelope, print its result, and end with the exit code that tells how it ended.

    An interrupt leaves the envelope running, and so does a mesh that stops.
    """
    try:
        with telling(client, envelope_id, display.note):
            envelope = follow(client, envelope_id, display)
    except KeyboardInterrupt:
        sys.stderr.write(f"the envelope {envelope_id} goes on; asya watch {envelope_id}\n")
        raise
    except MeshUnreachable:
        say_kept([envelope_id], sys.stderr)
        raise
    family = tell_of_children(client, envelope)
    if envelope["status"] != "succeeded":
        fail(envelope, sys.stderr, family)
    sys.stderr.writelines(f"asya: {line}\n" for line in family)
    json.dump(envelope.get("result"), sys.stdout, ensure_ascii=False, indent=None if compact else 2)
    sys.stdout.write("\n")


def say_kept(ids: Sequence[str], out: TextIO) -> None:
    """Say of envelopes whose mesh is gone how to hear of them again."""
    out.writelines(
        f"the envelope {each} goes on with the next `asya up`: asya watch {each}\n" for each in ids
    )


def tell_of_children(client: GatewayClient, envelope: Mapping[str, Any]) -> list[str]:
    """A line on what became of a fan-out's children, where not all of them have succeeded."""
    asked = urlencode({"root": envelope["id"], "limit": CHILDREN_MAX})
    found = client.get(f"/v1/envelopes?{asked}")["envelopes"]
    states = Counter(str(each["status"]) for each in found if each["id"] != envelope["id"])
    total = states.total()
    if states["succeeded"] == total:
        return []
    text = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    least = "at least " if len(found) == CHILDREN_MAX else ""
    noun = "child" if total == 1 else "children"
    return [
        f"its fan-out made {least}{total} {noun}: {text}; asya trace {envelope['id']} --children"
    ]


def fail(envelope: dict[str, Any], out: TextIO, notes: Sequence[str] = ()) -> NoReturn:
    """Say why an envelope did not succeed and what to do next, and end with exit code 1."""
    error = envelope.get("error") or {}
    head = f"error {error['code']}" if error.get("code") else "asya"
    lines = [f"{head}: the envelope {envelope['id']} {describe_end(envelope)}"]
    traceback = error.get("traceback")
    if traceback:
        lines.append(traceback.rstrip())
    lines += (f"  {note}" for note in notes)
    lines += next_steps(envelope)
    out.write("\n".join(lines) + "\n")
    raise typer.Exit(1)


def next_steps(envelope: Mapping[str, Any]) -> list[str]:
    """The commands that tell more of an envelope that failed."""
    if envelope["status"] != "failed":
        return []
    reason = (envelope.get("error") or {}).get("reason")
    if reason in NO_LETTER:
        return [f"  asya why {envelope['id']}"]
    return [f"  asya dead show {envelope['id']}"]


def describe_end(envelope: dict[str, Any]) -> str:
    """`failed at embedder: ValueError: no text (PolicyExhausted)`."""
    error = envelope.get("error") or {}
    text = str(envelope["status"])
    place = _place(envelope)
    if place is not None:
        text += f" at {place}"
    said = ": ".join(part for part in (error.get("type"), error.get("message")) if part)
    if said:
        text += f": {said}"
    return f"{text} ({error['reason']})" if error.get("reason") else text


def _place(envelope: Mapping[str, Any]) -> str | None:
    """The actor where it ended; for one that failed that is where the error came from.

    After it the actors of `onExhausted` may have had the envelope, and succeeded.
    """
    hops = envelope.get("hops") or []
    ended = [hop["actor"] for hop in hops if hop["state"] == envelope["status"]]
    if ended:
        return str(ended[-1])
    return str(hops[-1]["actor"]) if hops else None
