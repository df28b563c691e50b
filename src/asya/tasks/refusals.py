"""What the task service refuses, for every protocol in front of it.

One error, `Refusal`, whose `Kind` says what is wrong. The gateway turns it into an answer by a
table over the kinds (`gateway/http/problems.py`). Rules branch on the kind only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Sequence
from enum import StrEnum
from typing import Any, Final, ParamSpec, Self, TypeVar

import msgspec

from asya.codes import Code
from asya.errors import AsyaError, StoreError, StoreFull

P = ParamSpec("P")
T = TypeVar("T")

RETRY_AFTER_S: Final = 1
"""Seconds after which a client may repeat a request that was refused for a transient reason."""


class Kind(StrEnum):
    """Why a request is refused. The value is the stable name that clients switch on.

    Attributes:
        code: The code whose error page explains the kind.
    """

    code: Code

    def __new__(cls, name: str, code: Code) -> Self:
        """A kind from its name and its code."""
        kind = str.__new__(cls, name)
        kind._value_ = name
        kind.code = code
        return kind

    INVALID = "invalid", Code.INVALID_REQUEST
    INVALID_PAYLOAD = "invalid-payload", Code.INVALID_PAYLOAD
    TOO_LARGE = "too-large", Code.REQUEST_TOO_LARGE
    UNKNOWN_ACTOR = "unknown-actor", Code.UNKNOWN_ROUTE
    UNKNOWN_FLOW = "unknown-flow", Code.UNKNOWN_FLOW
    UNKNOWN_SCHEDULE = "unknown-schedule", Code.UNKNOWN_SCHEDULE
    UNKNOWN_ENVELOPE = "unknown-envelope", Code.UNKNOWN_ENVELOPE
    NOT_FOUND = "not-found", Code.NOT_FOUND
    NOT_DEAD = "not-dead", Code.NOT_DEAD
    ID_CONFLICT = "id-conflict", Code.ID_CONFLICT
    KEY_TAKEN = "key-taken", Code.KEY_TAKEN
    KEY_REUSED = "key-reused", Code.KEY_REUSED
    QUEUE_FULL = "queue-full", Code.QUEUE_FULL
    UNAVAILABLE = "unavailable", Code.UNAVAILABLE
    BLOBS_UNAVAILABLE = "blobs-unavailable", Code.BLOB_UNAVAILABLE
    STORE_UNAVAILABLE = "store-unavailable", Code.STORE_UNAVAILABLE
    DISK_FULL = "disk-full", Code.DISK_FULL
    INTERNAL = "internal", Code.GATEWAY_INTERNAL


TRANSIENT: Final = frozenset(
    {
        Kind.QUEUE_FULL,
        Kind.UNAVAILABLE,
        Kind.BLOBS_UNAVAILABLE,
        Kind.STORE_UNAVAILABLE,
        Kind.DISK_FULL,
    }
)
"""Kinds that pass by themselves: the same request may be accepted later."""


class Fault(msgspec.Struct):
    """One thing that is wrong in the request; `path` is a JSON path such as `$.query`."""

    path: str
    message: str


class Refusal(AsyaError):
    """A request that is refused.

    Attributes:
        kind: Why.
        text: What is wrong with which value, what was expected, what to do.
        faults: The places in the request that are wrong; empty if no single place is to blame.
        retry_after_s: Seconds after which the request may be repeated, or None.
        id: The envelope that the refusal is about, or None.
        nearest: The existing name that is closest to an unknown one, or None.
        retried_as: The envelope that was made from a dead letter before, or None.
    """

    code = Code.REFUSED

    def __init__(
        self,
        kind: Kind,
        text: str,
        *,
        faults: Sequence[Fault] = (),
        retry_after_s: int | None = None,
        id: str | None = None,
        nearest: str | None = None,
        retried_as: str | None = None,
    ) -> None:
        super().__init__(text, code=kind.code)
        self.kind = kind
        self.text = text
        self.faults = tuple(faults)
        self.retry_after_s = retry_after_s
        self.id = id
        self.nearest = nearest
        self.retried_as = retried_as

    @classmethod
    def invalid(
        cls,
        text: str,
        path: str,
        message: str | None = None,
        *,
        id: str | None = None,
        nearest: str | None = None,
    ) -> Refusal:
        """The refusal of one wrong value at `path`.

        Args:
            text: Of the refusal.
            path: Where the value stands in the request.
            message: Of the fault, if it is shorter than `text`.
            id: The envelope that it is about.
            nearest: The existing name that is closest to the one that was given.
        """
        faults = [Fault(path, message or text)]
        return cls(Kind.INVALID, text, faults=faults, id=id, nearest=nearest)

    @property
    def transient(self) -> bool:
        """Whether the same request may be accepted later."""
        return self.kind in TRANSIENT


def store_refusal(error: StoreError) -> Refusal:
    """The refusal of what the task store cannot do now."""
    kind = Kind.DISK_FULL if isinstance(error, StoreFull) else Kind.STORE_UNAVAILABLE
    return Refusal(kind, str(error), retry_after_s=RETRY_AFTER_S)


def refuses_store_errors(
    method: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """Decorate a method that clients call: a `StoreError` leaves it as a `Refusal`."""

    @functools.wraps(method)
    async def refusing(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except StoreError as error:
            raise store_refusal(error) from error

    return refusing
