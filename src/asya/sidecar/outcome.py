"""What a handler did with an envelope, as `decide` is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from msgspec import Raw

from asya.envelope import ErrorInfo
from asya.errors import full_name


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


NO_CHANGES = Changes()


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


Outcome = Returned | Raised | Lost | Canceled | Expired | Unreadable


def error_info(error: BaseException) -> ErrorInfo:
    """One of our own errors in the form that handlers' errors have."""
    kind = type(error)
    return ErrorInfo(
        type=full_name(kind),
        message=str(error),
        mro=[full_name(base) for base in kind.__mro__],
    )
