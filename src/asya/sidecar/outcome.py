"""What a handler did with an envelope, as `decide` is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from msgspec import Raw

from asya.envelope import ErrorInfo
from asya.errors import ActorTimeout, PayloadTooLarge, full_name


@dataclass(frozen=True, slots=True)
class Changes:
    """What a handler changed by SET and DEL; the empty one changes nothing.

    Attributes:
        next: The rest of the route, or None where it is as it came.
        headers: Raw values by name, to be set.
        removed: Names of headers to be removed.
        status: Raw values by name, to be set.
    """

    next: list[str] | None = None
    headers: dict[str, Raw] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    status: dict[str, Raw] = field(default_factory=dict)


NO_CHANGES: Final = Changes()


@dataclass(frozen=True, slots=True)
class Frame:
    """One emitted payload, with the changes that hold for it."""

    payload: Raw
    changes: Changes = NO_CHANGES


@dataclass(frozen=True, slots=True)
class Returned:
    """The handler ended well.

    Attributes:
        frames: What it emitted, in order, from index 0; empty means "stop here". Where frames
            were sent on before the end (past the bound), only frame 0 is left here.
        fan_out: More than one frame was emitted.
        final: The changes in effect at the end, for "stop here".
    """

    frames: list[Frame]
    fan_out: bool = False
    final: Changes = NO_CHANGES


@dataclass(frozen=True, slots=True)
class Raised:
    """The handler raised, overran its time, or emitted what cannot be sent.

    Attributes:
        began: When this attempt began; None means now.
        late: The envelope's deadline was what stopped it.
    """

    error: ErrorInfo
    began: datetime | None = None
    late: bool = False


@dataclass(frozen=True, slots=True)
class Lost:
    """The runtime died while it worked on the envelope.

    Attributes:
        deaths: Of this message so far, this one included.
        how: What is known of the end, for people.
    """

    deaths: int
    how: str


@dataclass(frozen=True, slots=True)
class Canceled:
    """Somebody canceled the envelope or its root."""


@dataclass(frozen=True, slots=True)
class Expired:
    """`deadline_at` passed before the handler began."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The payload was checked in, and is not there any more."""

    error: ErrorInfo


@dataclass(frozen=True, slots=True)
class Emitted:
    """A frame that is sent on while the handler runs, past the bound on what is kept back.

    Attributes:
        index: Of the frame in its call, from 1: frame 0 always waits for the handler's end.
    """

    frame: Frame
    index: int


@dataclass(frozen=True, slots=True)
class Undeliverable:
    """`route.curr` of an envelope that was to be sent names an actor that has no queue.

    Attributes:
        known: Names of the actors that have one.
    """

    known: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Oversized:
    """The broker refuses the message for its size, and no payload is big enough to be checked in."""

    error: ErrorInfo


@dataclass(frozen=True, slots=True)
class Rejected:
    """Received bytes that the actor cannot handle.

    Attributes:
        actor: In whose queue they stood.
        reason: `ParseError` or `RouteMismatch`.
        text: What is wrong with them.
        body: As received.
        envelope_id: None if they are no envelope at all.
    """

    actor: str
    reason: str
    text: str
    body: bytes
    envelope_id: str | None = None


Outcome = (
    Returned | Raised | Lost | Canceled | Expired | Unreadable | Emitted | Undeliverable | Oversized
)
"""What `decide` is told of an envelope. `Rejected` is about bytes that are none."""


def unparsable(actor: str, problem: str, body: bytes) -> Rejected:
    """Bytes that are no envelope."""
    return Rejected(actor, "ParseError", problem, body)


def misrouted(actor: str, envelope_id: str, problem: str, body: bytes) -> Rejected:
    """An envelope whose route names what can be no actor."""
    return Rejected(actor, "ParseError", f"`route.next`: {problem}", body, envelope_id)


def mismatch(actor: str, envelope_id: str, curr: str, body: bytes) -> Rejected:
    """An envelope that stood in the queue of another actor than its `route.curr`."""
    text = f"route.curr is {curr!r}, but the message stood in the queue of {actor!r}"
    return Rejected(actor, "RouteMismatch", text, body, envelope_id)


def timed_out(actor: str, limit_s: float, by_deadline: bool) -> Raised:
    """A handler overran its limit."""
    whose = "the envelope's deadline" if by_deadline else "actorTimeout"
    text = f"{actor} was stopped after {limit_s:g} s ({whose})"
    return Raised(error_info(ActorTimeout(text)), late=by_deadline)


def too_large(actor: str, size: int, limit: int) -> Raised:
    """A handler emitted a payload over the limit."""
    text = f"{actor} emitted a payload of {size} bytes; the limit is {limit} bytes"
    return Raised(error_info(PayloadTooLarge(text)))


def error_info(error: BaseException) -> ErrorInfo:
    """One of our own errors in the form that handlers' errors have."""
    kind = type(error)
    return ErrorInfo(
        type=full_name(kind),
        message=str(error),
        mro=[full_name(base) for base in kind.__mro__],
    )
