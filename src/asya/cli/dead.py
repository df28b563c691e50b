"""`asya dead list|show|retry|purge`: envelopes that failed for good, and what to do with them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final
from urllib.parse import quote, urlencode

import typer

from asya.cli.client import RECONNECT_MAX_S, GatewayClient, Refused
from asya.cli.display import NullDisplay, make_display
from asya.cli.outcome import Url, connect, describe_end, follow, follow_to_exit, say_kept
from asya.cli.set_values import read_assignment
from asya.errors import MeshUnreachable, UsageError, nearest

PAGE: Final = 500
ERROR_MAX: Final = 70
COLUMNS: Final = ("COUNT", "ACTOR", "ERROR", "FIRST", "LAST", "EXAMPLE")
LETTER_COLUMNS: Final = ("ID", "ACTOR", "ERROR", "AT")

_Actor = Annotated[str | None, typer.Option(help="Only dead letters of this actor.")]
_Reason = Annotated[
    str | None, typer.Option(help="Only dead letters with this reason, such as PolicyExhausted.")
]
_Fingerprint = Annotated[str | None, typer.Option(help="Only dead letters with this error.")]
_Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]…", help="Ids, or their first 8 characters.")
]


def dead_list(
    actor: _Actor = None,
    reason: _Reason = None,
    fingerprint: _Fingerprint = None,
    all_letters: Annotated[
        bool, typer.Option("--all", help="One line per dead letter instead of per error.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    url: Url = None,
) -> None:
    """List dead letters by their error.

    One line per actor and error: how many, since when, and one example. Errors that differ in
    numbers, ids or quoted values are the same error.
    """
    kind = "letters" if all_letters else "groups"
    query = {"group": "none"} if all_letters else {}
    client, chosen = connect(url), _filter(actor, reason, fingerprint)
    found = list(_pages(client, kind, query | chosen))
    if not found:
        _say_none(client, chosen)
    if as_json:
        print(json.dumps({kind: found}, indent=2, ensure_ascii=False))
    elif not found:
        print("no dead letters", file=sys.stderr)
    elif all_letters:
        _table(
            LETTER_COLUMNS,
            [(each["id"], each["actor"], _error(each), _time(each["at"])) for each in found],
        )
    else:
        _table(COLUMNS, [_group_row(each) for each in found])


def dead_show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the dead letter.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    url: Url = None,
) -> None:
    """Show one dead letter in full. It has the error, hops, headers and payload."""
    letter = connect(url).get(f"/v1/dead/{quote(letter_id, safe='')}")
    if as_json:
        print(json.dumps(letter, indent=2, ensure_ascii=False))
    else:
        print("\n".join(described(letter)))


def dead_retry(
    ids: _Ids = None,
    all_letters: Annotated[
        bool, typer.Option("--all", help="All dead letters, or all that match the filters.")
    ] = False,
    actor: _Actor = None,
    reason: _Reason = None,
    fingerprint: _Fingerprint = None,
    rate: Annotated[
        float | None, typer.Option(min=0.1, metavar="N", help="Send at most this many per second.")
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="PATH=VALUE", help="First replace a value, such as .payload.x=1"
        ),
    ] = None,
    route: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="Use this route instead.")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Time limit; none by default.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also send dead letters that were retried before.")
    ] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Follow the new envelopes to their end; exit with 1 if one fails."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    url: Url = None,
) -> None:
    """Send dead letters again.

    Each becomes a new envelope that begins at the actor that failed; its parent is the old one.
    Prints the old and the new id. A run that was broken off may be started again: what was sent is
    not sent twice.
    """
    chosen = _filter(actor, reason, fingerprint)
    if bool(ids) == all_letters or (ids and chosen):
        raise UsageError(
            "expected ids or --all, which --actor, --reason and --fingerprint can narrow"
        )
    how: dict[str, Any] = {"force": force}
    if values:
        how["set"] = [read_assignment(each) for each in values]
    if route is not None:
        how["route"] = [name.strip() for name in route.split(",")]
    if timeout is not None:
        how["timeout"] = timeout
    client = connect(url)
    if ids:
        run = _retry_each(client, ids, how, rate, as_json)
    else:
        what = {"filter": chosen} if chosen else {"all": True}
        run = _retry_all(client, what | how | ({"rate": rate} if rate else {}), as_json)
        if not (run.retried or run.already or run.refused):
            _say_none(client, chosen)
    run.close()
    if watch and run.retried:
        _watch(client, [new for _, new in run.retried])
    if run.refused:
        raise typer.Exit(1)


def _retry_each(
    client: GatewayClient, ids: list[str], how: dict[str, Any], rate: float | None, as_json: bool
) -> _Run:
    """Retry the letters of these ids, `rate` a second; a single one that is refused raises."""
    run = _Run(as_json)
    for number, each in enumerate(ids):
        if number and rate:
            time.sleep(1 / rate)
        path = f"/v1/dead/{quote(each, safe='')}/retry"
        try:
            run.sent(each, client.post(path, json.dumps(how).encode()).body["id"])
        except Refused as error:
            if len(ids) == 1:
                raise
            run.refuse(each, error)
    return run


def dead_purge(
    ids: _Ids = None,
    all_letters: Annotated[
        bool, typer.Option("--all", help="All dead letters, or all that match the filters.")
    ] = False,
    actor: _Actor = None,
    reason: _Reason = None,
    fingerprint: _Fingerprint = None,
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION", help="Only dead letters that are older than this, such as 168h."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask for confirmation.")] = False,
    url: Url = None,
) -> None:
    """Delete the payloads of dead letters.

    They cannot be sent again then. Asks first.
    """
    chosen = _filter(actor, reason, fingerprint)
    if bool(ids) == all_letters or (ids and (chosen or older_than)):
        raise UsageError("expected ids or --all, which filters can narrow")
    client = connect(url)
    if not yes:
        _confirm(client, ids, chosen, older_than)
    if ids:
        for each in ids:
            client.delete(f"/v1/dead/{quote(each, safe='')}")
        count = len(ids)
    else:
        asked: dict[str, Any] = {"filter": chosen} if chosen else {"all": True}
        if older_than:
            asked["older_than"] = older_than
        count = client.post("/v1/dead/purge", json.dumps(asked).encode()).body["purged"]
        if not count:
            _say_none(client, chosen)
    print(f"{count} purged", file=sys.stderr)


def _confirm(
    client: GatewayClient, ids: Sequence[str] | None, chosen: Mapping[str, str], older: str | None
) -> None:
    if not sys.stdin.isatty():
        raise UsageError(
            "this deletes payloads; pass --yes to confirm when stdin is not a terminal"
        )
    count = len(ids or ()) or sum(each["count"] for each in _pages(client, "groups", chosen))
    which = f"{count} dead letter{'' if count == 1 else 's'}" + (
        f", those older than {older}," if older else ""
    )
    if not typer.confirm(f"Throw {which} away?"):
        raise typer.Exit(1)


class _Run:
    """What a retry did, printed as it goes."""

    def __init__(self, as_json: bool) -> None:
        self.retried: list[tuple[str, str]] = []
        self.already: list[tuple[str, str]] = []
        self.refused: list[tuple[str, str]] = []
        self._as_json = as_json

    def sent(self, old: str, new: str) -> None:
        self.retried.append((old, new))
        if not self._as_json:
            print(f"{old}  {new}", flush=True)

    def refuse(self, old: str, error: Refused) -> None:
        """One of several is not sent; the others are."""
        before = error.problem.get("retried_as")
        if before:
            self.already.append((old, str(before)))
            return
        self.refused.append((old, str(error)))
        print(f"{old}: {error}", file=sys.stderr)

    def take(self, answer: Mapping[str, Any]) -> None:
        for each in answer["retried"]:
            self.sent(each["id"], each["retried_as"])
        self.already += [(each["id"], each["retried_as"]) for each in answer["already"]]
        for each in answer["refused"]:
            self.refused.append((each["id"], each["detail"]))
            print(f"{each['id']}: {each['detail']}", file=sys.stderr)

    def close(self) -> None:
        if self._as_json:
            pairs = {"retried": self.retried, "already": self.already}
            answer: dict[str, Any] = {
                name: [{"id": old, "retried_as": new} for old, new in found]
                for name, found in pairs.items()
            }
            answer["refused"] = [{"id": old, "detail": text} for old, text in self.refused]
            print(json.dumps(answer, indent=2, ensure_ascii=False))
        text = f"{len(self.retried)} sent again"
        if self.already:
            text += f", {len(self.already)} sent before"
        if self.refused:
            text += f", {len(self.refused)} refused"
        print(text, file=sys.stderr)


def _retry_all(client: GatewayClient, asked: dict[str, Any], as_json: bool) -> _Run:
    """Ask for page after page; over a mesh that is down for a moment."""
    run = _Run(as_json)
    alive = time.monotonic()
    while True:
        try:
            answer = client.post("/v1/dead/retry", json.dumps(asked).encode()).body
        except MeshUnreachable:
            if time.monotonic() - alive > RECONNECT_MAX_S:
                raise
            time.sleep(0.5)
            continue
        alive = time.monotonic()
        run.take(answer)
        if answer["next_cursor"] is None:
            return run
        asked["cursor"] = answer["next_cursor"]


def _watch(client: GatewayClient, ids: Sequence[str]) -> None:
    if len(ids) == 1:
        follow_to_exit(client, ids[0], make_display(progress=None), compact=False)
        return
    failed = 0
    for place, each in enumerate(ids):
        try:
            envelope = follow(client, each, NullDisplay())
        except MeshUnreachable:
            say_kept(ids[place:], sys.stderr)
            raise
        if envelope["status"] != "succeeded":
            failed += 1
            print(f"{each}: {describe_end(envelope)}", file=sys.stderr)
    print(f"{len(ids) - failed} succeeded, {failed} did not", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def described(letter: Mapping[str, Any]) -> list[str]:
    """A letter for people."""
    error = letter["error"] or {}
    route = letter["route"]
    way = [*route["prev"], f"[{route['curr']}]", *route["next"]]
    lines = [
        f"{letter['id']}  {letter['status']}",
        f"  failed at    {letter['actor']}, {_time(letter['at'])} ({letter['reason']})",
        f"  error        {_error(letter, ERROR_MAX * 4)}",
        f"  fingerprint  {letter['fingerprint']}",
        f"  route        {' > '.join(way)}",
    ]
    if letter["parent_id"]:
        lines.append(f"  parent       {letter['parent_id']}")
    if letter["retried_as"]:
        lines.append(f"  retried as   {letter['retried_as']}")
    lines += [
        f"  hop {hop['n']:<8} {hop['actor']}, attempt {hop['attempt']}, {hop['state']}"
        for hop in letter["hops"]
    ]
    if letter["headers"]:
        lines.append(f"  headers      {json.dumps(letter['headers'], ensure_ascii=False)}")
    if error.get("traceback"):
        lines += ["", error["traceback"].rstrip()]
    payload = letter["payload_problem"] or json.dumps(
        letter["payload"], indent=2, ensure_ascii=False
    )
    return [*lines, "", "payload:", payload]


def _say_none(client: GatewayClient, chosen: Mapping[str, str]) -> None:
    """Of a filter that leaves nothing, say which of its values no letter has."""
    groups = list(_pages(client, "groups", {})) if chosen else []
    for name, value in chosen.items():
        each = (group["reasons"] if name == "reason" else [group[name]] for group in groups)
        known = {str(one) for some in each for one in some}
        if value in known:
            continue
        close = nearest(value, known)
        there_are = f"there are {', '.join(sorted(known))}" if known else "none exist"
        hint = f"did you mean {close}?" if close else there_are
        print(f"asya: no dead letter has the {name} {value!r}; {hint}", file=sys.stderr)


def _filter(actor: str | None, reason: str | None, fingerprint: str | None) -> dict[str, str]:
    given = {"actor": actor, "reason": reason, "fingerprint": fingerprint}
    return {name: value for name, value in given.items() if value is not None}


def _pages(client: GatewayClient, kind: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    cursor: str | None = None
    while True:
        asked = {**query, "limit": str(PAGE)} | ({"cursor": cursor} if cursor else {})
        answer = client.get(f"/v1/dead?{urlencode(asked)}")
        yield from answer[kind]
        cursor = answer["next_cursor"]
        if cursor is None:
            return


def _group_row(group: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(group["count"]),
        group["actor"],
        _error(group),
        _time(group["first_at"]),
        _time(group["last_at"]),
        group["example_id"],
    )


def _error(found: Mapping[str, Any], size: int = ERROR_MAX) -> str:
    error = found["error"]
    if error is None:
        return str(found.get("reason") or ", ".join(found.get("reasons", ())))
    text = f"{error['type']}: {error['message']}".partition("\n")[0]
    return text if len(text) <= size else f"{text[: size - 1]}…"


def _time(at: str) -> str:
    return at.replace("T", " ").partition(".")[0].removesuffix("Z")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = [columns, *rows]
    widths = [max(len(line[n]) for line in lines) for n in range(len(columns))]
    for line in lines:
        print("  ".join(map(str.ljust, line, widths)).rstrip())
