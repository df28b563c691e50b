"""Makes the envelope that is sent in place of a dead letter. Pure.

The new envelope begins at the actor that failed. It has an id of its own, the old id as
`parent_id`, attempt 1, and no deadline unless one is given. Payload and headers are as they were
sent, byte by byte, except for what the client sets. Called by `dead_letters`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import Raw

from asya.clock import to_rfc3339
from asya.envelope import (
    BLOB_HEADER,
    FLOW_HEADER,
    SYSTEM_PREFIX,
    Envelope,
    Route,
    Status,
    decode,
    raw_json,
)
from asya.errors import ParseError, nearest
from asya.runtime.paths import parse_path
from asya.tasks.refusals import Fault, Kind, Refusal

KEPT_HEADERS: Final = frozenset({FLOW_HEADER, BLOB_HEADER})
"""Headers of the system that the new envelope takes over: by which flow it came, and where its
payload is."""

Assignment = tuple[str, Raw]
"""A path such as `.payload.x`, `.payload.list[0]` or `.headers.name`, and the JSON value there."""

_SECTIONS: Final = ("payload", "headers")
_decode_object: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_list: Final = msgspec.json.Decoder(list[Raw]).decode
_decode_any: Final = msgspec.json.Decoder().decode


@dataclass(frozen=True)
class RedriveOptions:
    """How a dead letter is sent again.

    Attributes:
        assignments: What is set in the new envelope, in this order.
        route: In place of the failing actor and the rest of its route, or None.
        timeout_s: Seconds to the new envelope's deadline, or None for no deadline.
        force: Send a letter once more that was retried before.
    """

    assignments: Sequence[Assignment] = ()
    route: Sequence[str] | None = None
    timeout_s: float | None = None
    force: bool = False


def as_sent(letter: Envelope) -> Envelope:
    """What the failing actor got: the letter without its end, `route` whole.

    Of a message that was no envelope for its queue (`RouteMismatch`) it is the one that was
    received; of one that was none at all (`ParseError`) it has the received payload where there is
    one, and stands at the actor in whose queue it was.
    """
    status = letter.status
    if status.reason in {"ParseError", "RouteMismatch"}:
        return _received(letter, status.actor)
    sent = letter.copy()
    actors = list(letter.route.next)
    if status.reason != "UnknownActor":  # there the name that is none stands first already
        actors.insert(0, status.actor)
    curr, *after = actors or [status.actor]
    sent.route = Route(list(letter.route.prev), curr, after)
    sent.status = Status(
        "processing",
        curr,
        status.attempt,
        status.max_attempts,
        status.created_at,
        status.updated_at,
        status.deadline_at,
    )
    return sent


def _received(letter: Envelope, actor: str) -> Envelope:
    data = _received_bytes(letter.payload)
    try:
        return decode(data)
    except ParseError:
        return Envelope(letter.id, Route([], actor, []), _received_payload(data, letter.payload))


def _received_bytes(kept: Raw) -> bytes:
    try:
        found: Mapping[str, Any] = _decode_any(kept)
        if "received" in found:
            return str(found["received"]).encode()
        return base64.b64decode(found["received_base64"])
    except (msgspec.DecodeError, TypeError, KeyError, ValueError):
        return b""


def _received_payload(data: bytes, kept: Raw) -> Raw:
    """The field `payload` of an object, else the whole JSON value, else what the letter keeps."""
    try:
        value = _decode_any(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return kept
    if isinstance(value, dict) and "payload" in value:
        return raw_json(value["payload"])
    return raw_json(value)


def retry_route(letter: Envelope, sent: Envelope, given: Sequence[str] | None) -> list[str]:
    """The actors of a retry.

    Raises:
        Refusal: No route was given, and the letter has none.
    """
    if given is not None:
        return list(given)
    if letter.status.reason == "ParseError":
        detail = "the message could not be read, so it has no route; give one"
        raise Refusal(Kind.INVALID, detail, id=letter.id, faults=[Fault("$.route", detail)])
    return [sent.route.curr, *sent.route.next]


def needs_payload(assignments: Sequence[Assignment]) -> bool:
    """Whether a part of the payload is to be set, so that the payload must be read."""
    return any(
        path.startswith(".payload") and len(_steps(number, path)) > 1
        for number, (path, _) in enumerate(assignments)
    )


def new_try(
    sent: Envelope,
    actors: Sequence[str],
    assignments: Sequence[Assignment],
    *,
    id: str,
    now: datetime,
    deadline: datetime | None = None,
) -> Envelope:
    """The envelope that is sent in place of a letter.

    Args:
        sent: What the failing actor got.
        actors: The route, at least one.
        assignments: What is set in it, in their order.
        id: Of the new envelope.
        now: When it is made.
        deadline: When its time is over, or None.

    Raises:
        Refusal: A path cannot be read, or does not exist.
    """
    at = to_rfc3339(now)
    made = Envelope(
        id,
        Route([], actors[0], list(actors[1:])),
        sent.payload,
        parent_id=sent.id,
        headers={name: value for name, value in sent.headers.items() if _is_kept(name)},
        status=Status(
            actor=actors[0],
            created_at=at,
            updated_at=at,
            deadline_at=None if deadline is None else to_rfc3339(deadline),
        ),
        status_extra=dict(sent.status_extra),
        extra=dict(sent.extra),
    )
    for number, each in enumerate(assignments):
        _assign(made, number, each)
    return made


def _is_kept(name: str) -> bool:
    return name in KEPT_HEADERS or not name.lower().startswith(SYSTEM_PREFIX)


def _assign(made: Envelope, number: int, assignment: Assignment) -> None:
    path, value = assignment
    section, *steps = _steps(number, path)
    if section == "payload":
        if not steps:
            made.headers.pop(BLOB_HEADER, None)
        made.payload = _replaced(made.payload, steps, value, ".payload", number)
        return
    name = steps[0] if steps else None
    if not isinstance(name, str) or name.lower().startswith(SYSTEM_PREFIX):
        raise _no_path(
            number, f"{path}: set one header, such as .headers.priority, not one of the system"
        )
    whole = raw_json(made.headers)
    made.headers = _decode_object(_replaced(whole, steps, value, ".headers", number))


def _steps(number: int, path: str) -> tuple[str | int | slice, ...]:
    try:
        steps = parse_path(path)
    except ValueError as error:
        raise _no_path(number, str(error)) from error
    if steps[0] not in _SECTIONS:
        close = nearest(str(steps[0]), _SECTIONS)
        hint = f"; did you mean .{close}?" if close else ""
        detail = f"{path}: a path that can be set begins with .payload or .headers{hint}"
        raise _no_path(number, detail, close)
    return steps


def _replaced(
    raw: Raw, steps: Sequence[str | int | slice], value: Raw, where: str, number: int
) -> Raw:
    """A JSON text with one value in it replaced; everything else stays byte by byte."""
    if not steps:
        return value
    step, *rest = steps
    if isinstance(step, str):
        try:
            fields = _decode_object(raw)
        except msgspec.DecodeError:
            raise _no_path(number, f"{where} is not an object, so it has no {step!r}") from None
        if step not in fields:
            raise _no_key(number, where, step, fields)
        fields[step] = _replaced(fields[step], rest, value, f"{where}.{step}", number)
        return raw_json(fields)
    if isinstance(step, slice):
        raise _no_path(number, f"{where}: a slice cannot be set; set the whole list")
    try:
        items = _decode_list(raw)
    except msgspec.DecodeError:
        raise _no_path(number, f"{where} is not a list, so it has no place {step}") from None
    if not -len(items) <= step < len(items):
        raise _no_path(number, f"{where} is a list of {len(items)}, it has no place {step}")
    items[step] = _replaced(items[step], rest, value, f"{where}[{step}]", number)
    return raw_json(items)


def _no_key(number: int, where: str, key: str, fields: Mapping[str, Raw]) -> Refusal:
    close = nearest(key, fields)
    if close is not None:
        return _no_path(number, f"{where} has no {key!r}; did you mean {close!r}?", close)
    known = ", ".join(list(fields)[:20]) or "nothing"
    return _no_path(
        number, f"{where} has no {key!r}; it has: {known}. To add a key, set {where} as a whole"
    )


def _no_path(number: int, detail: str, close: str | None = None) -> Refusal:
    faults = [Fault(f"$.set[{number}].path", detail)]
    return Refusal(Kind.INVALID, detail, nearest=close, faults=faults)
