"""Checks a new envelope before anything is stored.

Everything is pure except `Gate`, which asks the mesh which actors there are, and how much waits for
the first one.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from msgspec import Raw

from asya.clock import from_rfc3339
from asya.durations import parse_duration
from asya.envelope import FLOW_HEADER, SYSTEM_PREFIX, Envelope, raw_json, route_problem
from asya.errors import TransportError, nearest
from asya.tasks.mesh import FlowSpec, MeshClient
from asya.tasks.refusals import RETRY_AFTER_S, Fault, Kind, Refusal
from asya.tasks.rules import TaskRow

ID_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._:~-]{0,127}$"
"""Ids that clients choose: they stand in URLs and in the broker's ids."""

TIMEOUT_MAX_S: Final = 366 * 24 * 3600.0
"""The longest time that a client may give an envelope, in seconds."""

DEPTH_AGE_S: Final = 0.5
"""How old a queue's depth may be before it is asked again, in seconds."""

DEPTH_STALE_S: Final = 5.0
"""How old a depth may be to be used at all, in seconds."""

_FEW: Final = 4
_ID: Final = re.compile(ID_PATTERN)


@dataclass(frozen=True)
class Admission:
    """The task that a request led to; `replayed`: it was there before."""

    row: TaskRow
    replayed: bool


def check_id(id: str | None) -> None:
    """Refuse an id that cannot stand in a URL."""
    if id is not None and not _ID.match(id):
        detail = (
            "an id has 1-128 characters of A-Z a-z 0-9 . _ : ~ - and starts with a letter or digit"
        )
        raise Refusal.invalid(detail, "$.id")


def check_route(actors: Sequence[str]) -> None:
    """Refuse a route that has no actors, or names that cannot be actors."""
    problem = route_problem(list(actors)) if actors else "a route has at least one actor"
    if problem is not None:
        raise Refusal.invalid(problem, "$.route")


def find_flow(flows: Mapping[str, FlowSpec], name: str) -> FlowSpec:
    """The flow of this name.

    Raises:
        Refusal: There is none; names the nearest one.
    """
    flow = flows.get(name)
    if flow is None:
        close = nearest(name, flows)
        hint = f"; did you mean {close!r}?" if close else ""
        raise Refusal(Kind.UNKNOWN_FLOW, f"there is no flow {name!r}{hint}", nearest=close)
    return flow


def check_headers(headers: Mapping[str, Any]) -> None:
    """Refuse headers that belong to the system."""
    for name in headers:
        if name.lower().startswith(SYSTEM_PREFIX):
            detail = f"the header {name!r} belongs to the system; leave it out"
            raise Refusal.invalid(detail, "$.headers")


def check_payload(payload: Raw, payload_max_bytes: int) -> None:
    """Refuse a payload over the limit."""
    size = len(payload)
    if size > payload_max_bytes:
        raise Refusal(
            Kind.TOO_LARGE,
            f"the payload has {size} bytes; this mesh takes at most {payload_max_bytes}",
        )


def duration_s(value: str | float) -> float:
    """Seconds of a duration that a client gave: Go style, or a number of seconds.

    Raises:
        ValueError: It is neither, or negative, or over a year.
    """
    found = parse_duration(value) if isinstance(value, str) and not _is_number(value) else value
    seconds = float(found)
    if not 0 <= seconds <= TIMEOUT_MAX_S:  # NaN, too
        raise ValueError(f"expected 0 to {TIMEOUT_MAX_S:.0f} seconds, got {value!r}")
    return seconds


def seconds(value: str | float, where: str) -> float:
    """As `duration_s`, for the value at the place `where` of a request.

    Raises:
        Refusal: It cannot be used.
    """
    try:
        return duration_s(value)
    except ValueError as error:
        raise _invalid(where, str(error)) from error


def _invalid(where: str, message: str) -> Refusal:
    return Refusal.invalid(f"{where}: {message}", where, message)


def begin_time(
    not_before: str | None, delay: str | float | None, now: datetime, where: str
) -> datetime | None:
    """When an envelope may begin, or None for at once.

    Args:
        not_before: RFC 3339, or a duration from now.
        delay: A duration from now, or a number of seconds.
        now: The time.
        where: What stands before the names of the fields in the refusals, such as `$.`.

    Raises:
        Refusal: Neither form, both fields, or over a year ahead.
    """
    if not_before is not None and delay is not None:
        raise _invalid(f"{where}delay", f"give {where}not_before or {where}delay, not both")
    if delay is not None:
        return now + timedelta(seconds=seconds(delay, f"{where}delay"))
    if not_before is None:
        return None
    place = f"{where}not_before"
    try:
        return now + timedelta(seconds=parse_duration(not_before))
    except (ValueError, OverflowError):
        pass
    try:
        moment = from_rfc3339(not_before)
    except (ValueError, OverflowError) as error:
        raise _invalid(
            place,
            "expected a time such as 2026-11-23T18:25:00Z (RFC 3339, with an offset) or a "
            f"duration such as 10m, got {not_before!r}",
        ) from error
    if moment - now > timedelta(seconds=TIMEOUT_MAX_S):
        raise _invalid(place, "expected a time within the next year")
    return moment


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text) is not None


def new_row(envelope: Envelope) -> TaskRow:
    """The row of a task that begins with this envelope."""
    return TaskRow(
        id=envelope.id,
        root=envelope.id,
        route=envelope.route,
        created_at=envelope.status.created_at,
        updated_at=envelope.status.updated_at,
        parent_id=envelope.parent_id,
        flow=envelope.header_text(FLOW_HEADER),
        headers=bytes(raw_json(envelope.headers)),
        deadline_at=envelope.status.deadline_at,
    )


def digest(actors: Sequence[str], payload: Raw) -> bytes:
    """A hash of route and payload: two envelopes of one id are the same if it is equal."""
    mark = hashlib.blake2b(",".join(actors).encode(), digest_size=16)
    mark.update(b"\0")
    mark.update(payload)
    return mark.digest()


@dataclass
class _Depth:
    ready: int
    asked_at: float
    refresh: asyncio.Task[None] | None = None


class Gate:
    """Asks the mesh whether a route can be taken now.

    Args:
        mesh: The mesh.
        queue_max: Messages that may wait in the first actor's queue.
    """

    def __init__(self, mesh: MeshClient, queue_max: int) -> None:
        self._mesh = mesh
        self._queue_max = queue_max
        self._depths: dict[str, _Depth] = {}

    async def check(self, actors: Sequence[str]) -> None:
        """Refuse a route with unknown actors, and one whose first queue is full.

        Raises:
            Refusal: `unavailable`, `unknown-actor` or `queue-full`.
        """
        self.check_mesh()
        names = await self._mesh.actors()
        known = names if len(actors) <= _FEW else frozenset(names)
        for name in dict.fromkeys(actors):
            if name not in known:
                close = nearest(name, known)
                detail = f"there is no actor {name!r} in this mesh"
                hint = f"; did you mean {close!r}?" if close else ""
                if name.startswith("x-"):
                    hint = '; names that start with "x-" are the system\'s'
                raise Refusal(
                    Kind.UNKNOWN_ACTOR,
                    detail + hint,
                    nearest=close,
                    faults=[Fault(f"$.route[{list(actors).index(name)}]", detail)],
                )
        await self._check_depth(actors[0])

    def check_mesh(self) -> None:
        """Refuse every route while the mesh is in trouble."""
        problem = self._mesh.problem()
        if problem is not None:
            raise Refusal(Kind.UNAVAILABLE, problem, retry_after_s=RETRY_AFTER_S)

    def admitted(self, actor: str) -> None:
        """Count one more envelope into an actor's queue until the queue is asked again."""
        depth = self._depths.get(actor)
        if depth is not None:
            depth.ready += 1

    async def _check_depth(self, actor: str) -> None:
        depth = self._depths.get(actor)
        age = math.inf if depth is None else time.monotonic() - depth.asked_at
        full = depth is not None and depth.ready >= self._queue_max
        if depth is None or age > DEPTH_STALE_S or (full and age > DEPTH_AGE_S):
            await self._ask(actor)
        elif age > DEPTH_AGE_S and depth.refresh is None:
            depth.refresh = asyncio.create_task(self._ask(actor))
        depth = self._depths.get(actor)
        if depth is not None and depth.ready >= self._queue_max:
            raise Refusal(
                Kind.QUEUE_FULL,
                f"{depth.ready} envelopes wait for the actor {actor!r}; the bound is "
                f"{self._queue_max}",
                retry_after_s=RETRY_AFTER_S,
            )

    async def _ask(self, actor: str) -> None:
        try:
            ready = await self._mesh.ready(actor)
        except TransportError:  # the publish that follows says what is wrong
            self._depths.pop(actor, None)
        else:
            self._depths[actor] = _Depth(ready, time.monotonic())

    async def close(self) -> None:
        """Wait for queries of depths that are under way."""
        asked = [depth.refresh for depth in self._depths.values() if depth.refresh is not None]
        if asked:
            await asyncio.wait(asked)
