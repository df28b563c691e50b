"""The message: one model, one codec, and the size limits.

An envelope is one JSON object. What the mesh needs of it (id, route, headers' keys, status) is
decoded; the payload, the values of headers and every top-level field that this version does not
know stay raw bytes and leave as they came. Nothing here performs anything.

The wire form is documented by `docs/reference/envelope.md`, made from `json_schema()`.
"""

from __future__ import annotations

import re
import uuid
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from asya.clock import from_rfc3339, to_rfc3339
from asya.errors import ParseError

PREV_MAX: Final = 64
"""Hops kept in `route.prev`, the newest; the header `x-asya-hop` counts all."""

HOPS_MAX: Final = 1000
"""Hops that one envelope may make; a route that goes round in a circle ends here."""

ROUTE_MAX: Final = 1000
"""Actors that may stand in `route.next`."""

ID_MAX: Final = 256
"""Characters of an id."""

NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"
NAME_MAX: Final = 63
SYSTEM_PREFIX: Final = "x-asya-"
HOP_HEADER: Final = "x-asya-hop"
ROOT_HEADER: Final = "x-asya-root"
DEATHS_HEADER: Final = "x-asya-deaths"
SINCE_HEADER: Final = "x-asya-since"
FLOW_HEADER: Final = "x-asya-flow"
BLOB_HEADER: Final = "x-asya-blob"
"""A claim check: the payload is in the blob store, and `null` stands in its place."""
SINK: Final = "x-sink"
SUMP: Final = "x-sump"
END_ACTORS: Final = frozenset({SINK, SUMP})
"""Where envelopes end. They may not stand in a route."""

PHASES: Final = ("pending", "processing", "retrying", "paused", "succeeded", "failed", "canceled")
TERMINAL_PHASES: Final = frozenset({"succeeded", "failed", "canceled"})

_HOP_MAX: Final = 2**31 - 1
"""A count that fits every store; whoever writes a larger one into the header gets this."""
_CHILD_NAMESPACE: Final = uuid.UUID("6b1f8f0e-58a4-4c0b-9d53-1c5b8f6f2a11")
_NAME: Final = re.compile(NAME_PATTERN)


ActorNames = list[str]
_Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class Route(msgspec.Struct, omit_defaults=False):
    """Where an envelope has been, is, and will go."""

    prev: Annotated[
        ActorNames,
        Meta(description="Hops already made, oldest first, the 64 newest; `x-asya-hop` counts all"),
    ]
    curr: Annotated[str, Meta(description="The actor in whose queue it is")]
    next: Annotated[ActorNames, Meta(description="Hops still to make; handlers may rewrite it")]


class ErrorInfo(msgspec.Struct, omit_defaults=True):
    """What a handler raised. `mro` holds dotted names, most derived first, builtins included."""

    type: Annotated[str, Meta(description="The dotted name of the class; builtins stand bare")]
    message: Annotated[str, Meta(description="What `str()` of the error gives")] = ""
    mro: Annotated[list[str], Meta(description="Names of the class and its bases, in order")] = []
    args: Annotated[
        list[str | int | float | bool | None],
        Meta(description="The error's arguments, as JSON scalars"),
    ] = []
    traceback: Annotated[str, Meta(description="The user's frames, as Python prints them")] = ""


class Status(msgspec.Struct):
    """The mesh's own record inside the envelope. Times are RFC 3339 UTC texts."""

    phase: Annotated[
        str, Meta(description="How far it is", extra_json_schema={"enum": list(PHASES)})
    ] = "pending"
    actor: Annotated[str, Meta(description="The actor that the phase is about")] = ""
    attempt: Annotated[_Count, Meta(description="Attempts at this actor, this one included")] = 1
    max_attempts: Annotated[_Count, Meta(description="Attempts that the policy allows")] = 1
    created_at: Annotated[str, Meta(description="When the envelope was made")] = ""
    updated_at: Annotated[str, Meta(description="When this record was written")] = ""
    deadline_at: Annotated[
        str | None, Meta(description="When its time is over; every actor keeps it")
    ] = None
    reason: Annotated[str | None, Meta(description="Why it failed, in one word")] = None
    error: Annotated[ErrorInfo | None, Meta(description="What the last attempt raised")] = None


STATUS_FIELDS: Final = frozenset(Status.__struct_fields__)


class _WireRoute(msgspec.Struct):
    curr: str
    prev: list[str] = []
    next: list[str] = []


class Envelope:
    """One message, decoded as far as the mesh needs it.

    Attributes:
        id: Unique; a UUID when we make it.
        parent_id: Of fan-out children: the envelope they came from.
        route: Where it has been, is and goes.
        headers: Raw JSON value by name.
        status: The known fields of `status`.
        status_extra: Fields of `status` that are not ours, raw.
        payload: The user's data, raw JSON.
        extra: Top-level fields that are not ours, raw, in their order.
    """

    __slots__ = (
        "extra",
        "headers",
        "id",
        "parent_id",
        "payload",
        "route",
        "status",
        "status_extra",
    )

    def __init__(
        self,
        id: str,
        route: Route,
        payload: Raw,
        *,
        parent_id: str | None = None,
        headers: dict[str, Raw] | None = None,
        status: Status | None = None,
        status_extra: dict[str, Raw] | None = None,
        extra: dict[str, Raw] | None = None,
    ) -> None:
        self.id = id
        self.parent_id = parent_id
        self.route = route
        self.headers = {} if headers is None else headers
        self.status = Status() if status is None else status
        self.status_extra = {} if status_extra is None else status_extra
        self.payload = payload
        self.extra = {} if extra is None else extra

    @property
    def hop(self) -> int:
        """Hops made so far; 0 in the first queue."""
        raw = self.headers.get(HOP_HEADER)
        if raw is None:
            return len(self.route.prev)
        try:
            count: int = _decode_int(raw)
        except msgspec.DecodeError:
            return len(self.route.prev)
        return min(count, _HOP_MAX) if count >= 0 else len(self.route.prev)

    @property
    def root(self) -> str:
        """The id of the first ancestor; its own id for an envelope that never fanned out."""
        return self.header_text(ROOT_HEADER) or self.id

    @property
    def deadline(self) -> datetime | None:
        """When the envelope's time is over, or None."""
        return from_rfc3339(self.status.deadline_at) if self.status.deadline_at else None

    def header(self, name: str, default: Any = None) -> Any:
        """The decoded value of a header; `default` also for JSON that Python cannot hold.

        Such are nesting near the recursion limit and numbers like `1e999`, from outside only.
        """
        raw = self.headers.get(name)
        if raw is None:
            return default
        try:
            return _decode_any(raw)
        except (msgspec.DecodeError, RecursionError):
            return default

    def header_text(self, name: str) -> str | None:
        """The header's value where it is a string, else None."""
        raw = self.headers.get(name)
        if raw is None:
            return None
        try:
            text: str = _decode_text(raw)
        except msgspec.DecodeError:
            return None
        return text

    def copy(self) -> Envelope:
        """A copy whose route, headers and status can be changed; raw bytes are shared."""
        return Envelope(
            self.id,
            Route(list(self.route.prev), self.route.curr, list(self.route.next)),
            self.payload,
            parent_id=self.parent_id,
            headers=dict(self.headers),
            status=msgspec.structs.replace(self.status),
            status_extra=dict(self.status_extra),
            extra=dict(self.extra),
        )

    def __repr__(self) -> str:
        return f"<Envelope {self.id} at {self.route.curr} hop {self.hop} {self.status.phase}>"


_encoder = msgspec.json.Encoder()
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_route = msgspec.json.Decoder(_WireRoute).decode
_decode_status = msgspec.json.Decoder(Status).decode
_decode_int = msgspec.json.Decoder(int).decode
_decode_any = msgspec.json.Decoder().decode
_decode_text = msgspec.json.Decoder(str).decode
_NULL: Final = Raw(b"null")


def raw_json(value: Any) -> Raw:
    """Any JSON value as raw bytes, for headers and payloads that we make ourselves."""
    return Raw(_encoder.encode(value))


def decode(data: bytes) -> Envelope:
    """An envelope from the bytes of a message.

    Raises:
        ParseError: Not JSON, a required field is missing, or a field has a wrong type. The text
            names the field.

    Of a key that stands twice the last one counts, as in Python's own `json`.
    """
    _check_utf8(data)
    fields = _as(_decode_fields, data, "the message")
    if "id" not in fields:
        raise ParseError("the field `id` is missing")
    if "route" not in fields:
        raise ParseError("the field `route` is missing")
    if "payload" not in fields:
        raise ParseError("the field `payload` is missing")
    envelope_id = _as(_decode_text, fields.pop("id"), "`id`")
    if problem := id_problem(envelope_id):
        raise ParseError(f"`id` {problem}")
    wire = _as(_decode_route, fields.pop("route"), "`route`")
    payload = fields.pop("payload")
    raw_parent = fields.pop("parent_id", _NULL)
    parent_id = None if _is_null(raw_parent) else _as(_decode_text, raw_parent, "`parent_id`")
    raw_headers = fields.pop("headers", _NULL)
    headers = {} if _is_null(raw_headers) else _as(_decode_fields, raw_headers, "`headers`")
    raw_status = fields.pop("status", _NULL)
    status, status_extra = _read_status(raw_status)
    return Envelope(
        envelope_id,
        Route(wire.prev, wire.curr, wire.next),
        payload,
        parent_id=parent_id,
        headers=headers,
        status=status,
        status_extra=status_extra,
        extra=fields,
    )


def _check_utf8(data: bytes) -> None:
    # the decoder takes the insides of skipped texts as they are, valid or not
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            raise ParseError(f"the message is not UTF-8 at byte {error.start}") from error


def id_problem(text: str) -> str | None:
    """What is wrong with an id that came from outside, or None.

    Ids stand in URLs, logs and brokers' headers: printable characters only.
    """
    if 0 < len(text) <= ID_MAX and text.isprintable():
        return None
    return f"must be 1 to {ID_MAX} printable characters"


def _read_status(raw: Raw) -> tuple[Status, dict[str, Raw]]:
    if _is_null(raw):
        return Status(), {}
    status = _as(_decode_status, raw, "`status`")
    if status.phase not in PHASES:
        raise ParseError(f"`status.phase` must be one of {', '.join(PHASES)}, not {status.phase!r}")
    if status.deadline_at:
        try:
            from_rfc3339(status.deadline_at)
        except ValueError as error:
            raise ParseError(f"`status.deadline_at`: {error}") from error
    fields = _as(_decode_fields, raw, "`status`")
    return status, {key: value for key, value in fields.items() if key not in STATUS_FIELDS}


def _as(decoder: Any, data: bytes | Raw, where: str) -> Any:
    try:
        return decoder(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ParseError(f"{where}: {error}") from error


def _is_null(raw: Raw) -> bool:
    return raw is _NULL or bytes(raw).strip() == b"null"


class _Wire(msgspec.Struct, omit_defaults=True):
    id: str
    route: Route
    headers: dict[str, Raw]
    status: Status | Raw
    parent_id: str | UnsetType = UNSET


def encode(envelope: Envelope) -> bytes:
    """The bytes of an envelope, the payload last and untouched."""
    status: Status | Raw = envelope.status
    if envelope.status_extra:
        known = msgspec.to_builtins(envelope.status)
        status = Raw(_encoder.encode(known | envelope.status_extra))
    parent_id = UNSET if envelope.parent_id is None else envelope.parent_id
    wire = _Wire(envelope.id, envelope.route, envelope.headers, status, parent_id)
    out = bytearray(_encoder.encode(wire))
    out.pop()
    for key, value in envelope.extra.items():
        out += b"," + _encoder.encode(key) + b":" + bytes(value)
    out += b',"payload":'
    out += envelope.payload
    out += b"}"
    return bytes(out)


def new_envelope(
    actors: list[str],
    payload: Raw,
    *,
    now: datetime,
    id: str | None = None,
    headers: dict[str, Any] | None = None,
    deadline: datetime | None = None,
) -> Envelope:
    """A first envelope for the route `actors`, of which the first is where it will stand."""
    created = to_rfc3339(now)
    return Envelope(
        id or str(uuid.uuid4()),
        Route([], actors[0], list(actors[1:])),
        payload,
        headers={key: raw_json(value) for key, value in (headers or {}).items()},
        status=Status(
            actor=actors[0],
            created_at=created,
            updated_at=created,
            deadline_at=to_rfc3339(deadline) if deadline else None,
        ),
    )


def child_id(parent_id: str, hop: int, index: int) -> str:
    """The id of frame `index` (from 1) that an envelope emitted at its hop number `hop`.

    The same call always gives the same id, so a run again after a crash makes no new envelopes.
    """
    return str(uuid.uuid5(_CHILD_NAMESPACE, f"{parent_id}:{hop}:{index}"))


def queue_name(namespace: str, actor: str) -> str:
    """The queue of an actor: `asya-{namespace}-{actor}`."""
    return f"asya-{namespace}-{actor}"


def is_actor_name(name: str) -> bool:
    """Whether `name` is a DNS label of at most 63 characters."""
    return len(name) <= NAME_MAX and _NAME.fullmatch(name) is not None


def route_problem(actors: list[str]) -> str | None:
    """What is wrong with a route that a client or a handler gave, or None."""
    if len(actors) > ROUTE_MAX:
        return f"a route may hold {ROUTE_MAX} actors, this one has {len(actors)}"
    for name in actors:
        if not isinstance(name, str) or not is_actor_name(name):
            return f"{name!r} is no actor name (a DNS label: a-z, 0-9 and -, at most {NAME_MAX})"
        if name in END_ACTORS:
            return f"{name} may not stand in a route: every envelope ends there by itself"
    return None


class _Document(msgspec.Struct):
    """The message between actors: one JSON object in UTF-8. Other fields travel on unchanged."""

    id: Annotated[
        str,
        Meta(min_length=1, max_length=ID_MAX, description="Unique; a UUID when the mesh makes it"),
    ]
    route: Annotated[Route, Meta(description="Where it has been, is, and will go")]
    payload: Annotated[Raw, Meta(description="The user's data, any JSON value; never decoded")]
    parent_id: Annotated[
        str | None, Meta(description="Of fan-out children: the envelope they came from")
    ] = None
    headers: Annotated[
        dict[str, Raw] | None,
        Meta(description="Metadata, any JSON values. Keys that start with `x-asya-` are ours"),
    ] = None
    status: Annotated[Status | None, Meta(description="The mesh's own record")] = None


def json_schema() -> dict[str, Any]:
    """The JSON Schema of what `decode` takes; `encode` writes all but `parent_id` always."""
    schema: dict[str, Any] = msgspec.json.schema(_Document)
    parts: dict[str, Any] = schema["$defs"]
    parts["Route"]["required"] = ["curr"]
    for name in ("prev", "next"):
        parts["Route"]["properties"][name]["default"] = []
    document: dict[str, Any] = parts.pop("_Document")
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect} | document | {"title": "Envelope", "$defs": parts}
