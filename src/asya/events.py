"""What happens to envelopes, as the parts tell one another.

Sidecars emit these to a `Listener`; the gateway's task service is one. All but `Finished` may be
dropped under load. `Finished` is never emitted to a listener: the sink stores it before it acks.
Times are RFC 3339 UTC texts, `n` is the envelope's hop number (from 0).
"""

from __future__ import annotations

from typing import Protocol

import msgspec
from msgspec import Raw

from asya.envelope import ErrorInfo, Route


class Content(msgspec.Struct, frozen=True):
    """Size in bytes and SHA-256 (hex) of a payload."""

    size: int
    sha256: str


class HopStarted(msgspec.Struct, tag="hop-started", omit_defaults=True):
    """A replica was given the envelope.

    `traceparent` is the header as it was received: its span is the parent of this hop's.
    `payload` comes along where payloads of this envelope are captured.
    """

    id: str
    n: int
    actor: str
    attempt: int
    at: str
    root: str
    route: Route
    enqueued_at: str
    replica: int | None = None
    parent_id: str | None = None
    flow: str | None = None
    body: Content | None = None
    traceparent: str | None = None
    payload: Raw | None = None


class HopEnded(msgspec.Struct, tag="hop-ended", omit_defaults=True):
    """A handler is done with the envelope, in one of the states below.

    `state`: `succeeded`, `failed`, `retrying` (see `retry_at`), `canceled`, `lost` (the replica
    died and the envelope went back to its queue). `attempts_max` counts this one too. Where payloads
    are captured `payload` is what the handler emitted first, and `payload_in` what it was given,
    where that has not come with the start.
    """

    id: str
    n: int
    actor: str
    attempt: int
    at: str
    state: str
    route: Route
    error: ErrorInfo | None = None
    retry_at: str | None = None
    body: Content | None = None
    attempts_max: int | None = None
    payload: Raw | None = None
    payload_in: Raw | None = None


class HopSent(msgspec.Struct, tag="hop-sent", omit_defaults=True):
    """What follows from a hop is in the next queue, confirmed. The hop into an end tells none."""

    id: str
    n: int
    actor: str
    attempt: int
    at: str
    route: Route


class Forked(msgspec.Struct, tag="forked", omit_defaults=True):
    """A fan-out made a child, which is now in the queue of `route.curr`."""

    id: str
    parent_id: str
    root: str
    route: Route
    at: str
    flow: str | None = None
    deadline_at: str | None = None


class Flown(msgspec.Struct, tag="flown", omit_defaults=True):
    """A handler streamed a value to whoever watches; `data` is one raw JSON object."""

    id: str
    root: str
    actor: str
    seq: int
    at: str
    data: Raw


class Finished(msgspec.Struct, tag="finished", omit_defaults=True):
    """The envelope's one end. `phase` is `succeeded`, `failed` or `canceled`."""

    id: str
    phase: str
    at: str
    n: int
    root: str
    route: Route
    created_at: str
    attempt: int = 1
    parent_id: str | None = None
    flow: str | None = None
    reason: str | None = None
    error: ErrorInfo | None = None
    result: Raw | None = None
    headers: dict[str, Raw] = {}
    deadline_at: str | None = None


class DeadLetter(msgspec.Struct, tag="dead-letter", omit_defaults=True):
    """What `x-sump` keeps: the envelope's bytes as they were, and why it is dead."""

    id: str
    at: str
    reason: str
    actor: str
    body: bytes
    error: ErrorInfo | None = None


Event = HopStarted | HopEnded | HopSent | Forked | Flown


class Listener(Protocol):
    """Is told of events. Must return at once and never raise; may drop."""

    def emit(self, event: Event) -> None:
        """Take note of one event."""
        ...


class NullListener:
    """Drops everything."""

    def emit(self, event: Event) -> None:
        """Take note of nothing."""


class Listeners:
    """Tells several listeners, in order."""

    def __init__(self, *listeners: Listener) -> None:
        self._emits = tuple(listener.emit for listener in listeners)

    def emit(self, event: Event) -> None:
        """Pass one event on."""
        for emit in self._emits:
            emit(event)


class Ledger(Protocol):
    """Where envelopes end: the durable side of the task service, as the crew sees it."""

    async def finish(self, end: Finished) -> bool:
        """Store a terminal state, durably, before returning.

        The first one of an id is kept; a later one changes nothing. An id that is not known is
        stored too (envelopes may come from elsewhere, and events may have been dropped).

        Returns:
            Whether this call made the task terminal.

        Raises:
            StoreError: Not stored. Try again.
        """
        ...

    async def dead_letter(self, letter: DeadLetter) -> None:
        """Store a dead letter, durably; the same id and reason again changes nothing.

        Raises:
            StoreError: Not stored. Try again.
        """
        ...
