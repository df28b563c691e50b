"""`asya trace ID`: the hops of an envelope as a waterfall."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import quote

import typer

from asya.cli.client import GatewayClient
from asya.cli.outcome import Url, connect
from asya.cli.spans import parse, short
from asya.errors import counted

BAR: Final = 40
"""Columns of the bar."""

CHILDREN_MAX: Final = 500
"""Children of a fan-out that are summed up, and that `--children` shows."""

SHOWN_MAX: Final = 2_000
"""Characters of a payload that are shown."""

_MARKS: Final = {"failed": "✗", "retrying": "↻", "lost": "↻", "canceled": "✗"}


def trace(
    envelope_id: Annotated[str, typer.Argument(metavar="ID", help="The envelope's id.")],
    children: Annotated[
        bool, typer.Option("--children", help="Show the hops of a fan-out's children too.")
    ] = False,
    payloads: Annotated[
        bool, typer.Option("--payloads", help="Show the payloads that were kept of each hop.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    url: Url = None,
) -> None:
    """Show the hops of an envelope with their times.

    Each line is one attempt: how long it waited in the queue, how long the handler took, how long
    it took to hand on what follows.
    """
    client = connect(url)
    envelope = client.get(_path(envelope_id))
    family = _children(client, envelope["id"])  # of a short id the whole one
    whole = [client.get(_path(each["id"])) for each in family] if children else family
    kept = {
        each["id"]: _payloads(client, each)
        for each in [envelope, *(whole if children else ())]
        if payloads
    }
    if as_json:
        answer = envelope | {"children": whole}
        if payloads:
            answer["payloads"] = kept.get(envelope["id"], [])
        print(json.dumps(answer, indent=2, ensure_ascii=False))
        return
    now = datetime.now(UTC)
    lines = waterfall(envelope, now, kept.get(envelope["id"], ()))
    lines += _family(whole, now, kept) if children else summary(family)
    print("\n".join(lines))


def _path(envelope_id: str) -> str:
    return f"/v1/envelopes/{quote(envelope_id, safe='')}"


def _children(client: GatewayClient, envelope_id: str) -> list[dict[str, Any]]:
    """The children of a root, oldest first."""
    found = client.get(f"/v1/envelopes?root={quote(envelope_id, safe='')}&limit={CHILDREN_MAX}")
    return [each for each in reversed(found["envelopes"]) if each["id"] != envelope_id]


def summary(family: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line on the children of a fan-out, or none."""
    if not family:
        return []
    states = Counter(str(each["status"]) for each in family)
    text = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    least = "at least " if len(family) >= CHILDREN_MAX - 1 else ""
    return ["", f"fan-out: {least}{len(family)} children ({text}); --children shows them"]


def _family(
    family: Sequence[Mapping[str, Any]],
    now: datetime,
    kept: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Iterator[str]:
    for each in family:
        yield ""
        yield from waterfall(each, now, kept.get(each["id"], ()))


class Segments(NamedTuple):
    """Moments of one attempt; None for what has not come, or is not known."""

    enqueued: datetime | None
    started: datetime | None
    ended: datetime | None
    sent: datetime | None


def segments(hop: Mapping[str, Any]) -> Segments:
    """The moments of a hop. A later attempt waits from its turn, not from the first one's."""
    return Segments(
        parse(hop["enqueued_at"]),
        parse(hop["started_at"]),
        parse(hop["ended_at"]),
        parse(hop["sent_at"]),
    )


def waterfall(
    envelope: Mapping[str, Any],
    now: datetime,
    payloads: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """The hops as lines, with one bar for all of them."""
    hops = envelope["hops"]
    created = parse(envelope["created_at"]) or now
    open_ = envelope["status"] not in {"succeeded", "failed", "canceled"}
    last = now if open_ else parse(envelope["updated_at"]) or now
    took = (last - created).total_seconds()
    state = f"{envelope['status']}{', stuck' if envelope.get('stuck_at') else ''}"
    lines = [f"{envelope['id']}  {state}, {short(took)}, {counted(len(hops), 'hop')}"]
    if envelope.get("parent_id"):
        lines[0] += f", child of {envelope['parent_id']}"
    if not hops and open_:
        return [*lines, "no hop has begun; `asya why` tells what it waits for"]
    if not hops:
        lines.append("it ended before a hop began; `asya why` tells more")
        return lines + _failure(envelope)
    width = max(5, *(len(hop["actor"]) for hop in hops))
    lines.append(f" N  {'ACTOR':<{width}}  TRY   QUEUED  HANDLER  PUBLISH  REPLICA")
    for hop in hops:
        at = segments(hop)
        times = "  ".join(f"{short(each):>7}" for each in _times(at, now))
        bar = _bar(at, created, max(took, 0.001), now)
        replica = str(hop["replica"] or "-")
        lines.append(
            f"{hop['n']:>2}  {hop['actor']:<{width}}  {hop['attempt']:>3}  {times}  "
            f"{replica:>7}  {bar}".rstrip()
        )
        lines += _notes(hop)
        lines += _shown(hop, payloads)
    return lines + _failure(envelope)


def _failure(envelope: Mapping[str, Any]) -> list[str]:
    failed = envelope["status"] == "failed" and envelope["error"]
    return [f"failed: {_error(envelope['error'])}"] if failed else []


def _times(at: Segments, now: datetime) -> tuple[float | None, float | None, float | None]:
    running = now if at.started is not None else None
    return (
        _between(at.enqueued, at.started),
        _between(at.started, at.ended or running),
        _between(at.ended, at.sent),
    )


def _between(earlier: datetime | None, later: datetime | None) -> float | None:
    return None if earlier is None or later is None else (later - earlier).total_seconds()


def _bar(at: Segments, created: datetime, took_s: float, now: datetime) -> str:
    """`·` in the queue, `█` in the handler, `▒` on its way to the next queue."""
    ended = at.ended or (now if at.started is not None else None)
    cells = [" "] * BAR
    spans = (
        ("·", at.enqueued, at.started),
        ("▒", at.ended, at.sent),
        ("█", at.started, ended),
    )
    for mark, begin, end in spans:
        if begin is None or end is None:
            continue
        first = int((begin - created).total_seconds() / took_s * BAR)
        last = int((end - created).total_seconds() / took_s * BAR)
        for cell in range(max(0, min(first, BAR - 1)), max(0, min(last, BAR - 1)) + 1):
            if mark == "█" or cells[cell] == " ":
                cells[cell] = mark
    return "".join(cells)


def _notes(hop: Mapping[str, Any]) -> list[str]:
    if hop["state"] in {"succeeded", "running"}:
        return []
    text = f"      {_MARKS.get(hop['state'], '?')} {hop['state']}"
    if hop["error"]:
        text += f": {_error(hop['error'])}"
    if hop["retry_at"]:
        tries = f" of {hop['attempts_max']}" if hop["attempts_max"] else ""
        text += f"; attempt {hop['attempt'] + 1}{tries} not before {hop['retry_at']}"
    return [text]


def _error(error: Mapping[str, Any]) -> str:
    first = str(error["message"]).partition("\n")[0]
    return f"{error['type']}: {first}" if first else str(error["type"])


def _payloads(client: GatewayClient, envelope: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was kept of each attempt, before and after."""
    found = []
    for hop in envelope.get("hops", ()):
        for side in ("in", "out"):
            query = f"side={side}&attempt={hop['attempt']}"
            path = f"{_path(envelope['id'])}/hops/{hop['n']}/payload?{query}"
            kept = client.get_bytes(path)
            if kept is None:
                continue
            body, headers = kept
            truncated = headers.get("asya-truncated") == "true"
            text = body.decode("utf-8", "replace")
            found.append(
                {
                    "n": hop["n"], "attempt": hop["attempt"], "side": side,
                    "size": int(headers.get("asya-size", len(body))), "truncated": truncated,
                    "payload": text if truncated else json.loads(text),
                }
            )  # fmt: skip
    return found


def _shown(hop: Mapping[str, Any], payloads: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for each in payloads:
        if (each["n"], each["attempt"]) != (hop["n"], hop["attempt"]):
            continue
        value = each["payload"]
        text = value if each["truncated"] else json.dumps(value, ensure_ascii=False)
        if len(text) > SHOWN_MAX or each["truncated"]:
            text = f"{text[:SHOWN_MAX]}… ({each['size']} bytes)"
        lines.append(f"      {each['side']:<3} {text}")
    return lines
