"""Every rule of routing, retries and endings, as one pure function.

`decide` turns an envelope and what its handler did into actions; the loop performs them in order.
It is the one place where "the route has ended" and "no attempt is left" become actions. The
publish of a step always carries a `dedup_id` made of the envelope's id and the step, so that a run
again after a crash does not make two envelopes of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec import Raw

from asya.clock import from_rfc3339, to_rfc3339
from asya.envelope import (
    BLOB_HEADER,
    DEATHS_HEADER,
    HOP_HEADER,
    HOPS_MAX,
    PREV_MAX,
    ROOT_HEADER,
    SINCE_HEADER,
    SINK,
    STATUS_FIELDS,
    SUMP,
    Envelope,
    ErrorInfo,
    Route,
    child_id,
    raw_json,
)
from asya.errors import ActorTimeout, PayloadTooLarge, ReplicaGone, UnknownActor, nearest
from asya.resiliency import Resiliency, delay_s
from asya.sidecar.outcome import (
    Canceled,
    Changes,
    Expired,
    Frame,
    Lost,
    Outcome,
    Raised,
    Returned,
    Unreadable,
    error_info,
)
from asya.tracecontext import TRACEPARENT, of_hop

DEATHS_MAX: Final = 5
"""Deaths of one message, after which it goes to `x-sump` instead of killing replicas for ever."""

SYSTEM_STATUS: Final = STATUS_FIELDS
"""Fields of `status` that handlers cannot set: the mesh writes them itself."""


@dataclass(frozen=True, slots=True)
class Send:
    """Publish to the queue of `envelope.route.curr`, and wait for the confirm."""

    envelope: Envelope
    dedup_id: str
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Requeue:
    """Give the message back to its queue at once; the broker counts it as a death."""


Action = Send | Requeue


def decide(
    envelope: Envelope,
    outcome: Outcome,
    resiliency: Resiliency,
    now: datetime,
    uniform: Callable[[float, float], float],
) -> list[Action]:
    """What to do with an envelope whose handler is done. An ack follows all but `Requeue`."""
    match outcome:
        case Returned(frames=frames, fan_out=fan_out, final=final):
            if not frames:
                return [_stop(envelope, final, now)]
            if envelope.hop + 1 > HOPS_MAX:
                return [fail(envelope, "HopLimit", _hop_limit(envelope), now)]
            fans = fan_out or len(frames) > 1
            return [forward(envelope, frame, i, fans, now) for i, frame in enumerate(frames)]
        case Raised():
            return [_after_error(envelope, outcome, resiliency, now, uniform)]
        case Lost(deaths=deaths, how=how):
            if deaths >= DEATHS_MAX:
                return [poison(envelope, deaths, how, now)]
            return [Requeue()]
        case Canceled():
            return [_end(envelope, "canceled", None, None, now)]
        case Expired():
            return [fail(envelope, "DeadlineExceeded", _late(envelope), now)]
        case Unreadable(error=error):
            return [fail(envelope, "BlobMissing", error, now)]


def forward(envelope: Envelope, frame: Frame, index: int, fan_out: bool, now: datetime) -> Send:
    """The envelope of one emitted frame, at its next hop.

    Frame 0 keeps the id; the others get one derived from (id, hop, index).
    """
    hop = envelope.hop
    out = envelope.copy()
    _trace(out, envelope)
    _apply(out, frame.changes)
    if frame.payload is not envelope.payload:
        # the claim check belongs to the payload that it came with
        out.headers.pop(BLOB_HEADER, None)
        out.payload = frame.payload
    if index:
        out.id = child_id(envelope.id, hop, index)
        out.parent_id = envelope.id
    if fan_out:
        out.headers[ROOT_HEADER] = raw_json(envelope.root)
    _leave(out, hop)
    upcoming = envelope.route.next if frame.changes.next is None else frame.changes.next
    prev = [*envelope.route.prev, envelope.route.curr][-PREV_MAX:]
    status = out.status
    status.updated_at = to_rfc3339(now)
    if upcoming:
        out.route = Route(prev, upcoming[0], list(upcoming[1:]))
        status.actor = upcoming[0]
        status.attempt = 1
        status.max_attempts = 1
        if status.phase != "failed":
            status.phase = "processing"
            status.error = None
    else:
        out.route = Route(prev, SINK, [])
        if status.phase != "failed":
            status.phase = "succeeded"
            status.error = None
    return Send(out, f"{out.id}:{hop + 1}")


def _stop(envelope: Envelope, final: Changes, now: datetime) -> Send:
    """No frame at all: to the sink with the payload it came with, and the rest of no route."""
    kept = Changes([], final.headers, final.removed, final.status)
    return forward(envelope, Frame(envelope.payload, kept), 0, False, now)


def _after_error(
    envelope: Envelope,
    raised: Raised,
    resiliency: Resiliency,
    now: datetime,
    uniform: Callable[[float, float], float],
) -> Send:
    error = raised.error
    policy = resiliency.policy_for(error.mro)
    attempt = envelope.status.attempt
    deadline = envelope.deadline
    if raised.late or (deadline is not None and now >= deadline):
        return fail(envelope, "DeadlineExceeded", error, now)
    began = _first_attempt(envelope, raised.began or now)
    if attempt < policy.max_attempts:
        at = now + timedelta(seconds=delay_s(policy, attempt, uniform))
        in_time = policy.max_duration_s is None or (
            (at - began).total_seconds() <= policy.max_duration_s
        )
        if in_time and deadline is not None and at >= deadline:
            return fail(envelope, "DeadlineExceeded", error, now)
        if in_time:
            return _retry(envelope, error, policy.max_attempts, began, at, now)
    if policy.on_exhausted:
        return _route_failed(envelope, error, policy.on_exhausted, policy.max_attempts, now)
    return fail(envelope, "PolicyExhausted", error, now, attempts_max=policy.max_attempts)


def _retry(
    envelope: Envelope,
    error: ErrorInfo,
    attempts_max: int,
    began: datetime,
    at: datetime,
    now: datetime,
) -> Send:
    out = envelope.copy()
    out.headers.pop(DEATHS_HEADER, None)
    out.headers[SINCE_HEADER] = raw_json(to_rfc3339(began))
    status = out.status
    if status.phase != "failed":
        status.phase = "retrying"
    status.actor = envelope.route.curr
    status.attempt = envelope.status.attempt + 1
    status.max_attempts = attempts_max
    status.error = error
    status.updated_at = to_rfc3339(now)
    dedup_id = f"{out.id}:{envelope.hop}:{status.attempt}"
    return Send(out, dedup_id, at if at > now else None)


def _route_failed(
    envelope: Envelope,
    error: ErrorInfo,
    actors: tuple[str, ...],
    attempts_max: int,
    now: datetime,
) -> Send:
    """No attempt is left, and the policy names who shall deal with it."""
    hop = envelope.hop
    if hop + 1 > HOPS_MAX:
        return fail(envelope, "HopLimit", error, now)
    out = envelope.copy()
    _trace(out, envelope)
    _leave(out, hop)
    prev = [*envelope.route.prev, envelope.route.curr][-PREV_MAX:]
    out.route = Route(prev, actors[0], list(actors[1:]))
    out.status = msgspec.structs.replace(
        out.status,
        phase="failed",
        actor=actors[0],
        attempt=1,
        max_attempts=attempts_max,
        updated_at=to_rfc3339(now),
        reason="PolicyRouted",
        error=error,
    )
    return Send(out, f"{out.id}:{hop + 1}")


def fail(
    envelope: Envelope,
    reason: str,
    error: ErrorInfo,
    now: datetime,
    *,
    attempts_max: int | None = None,
) -> Send:
    """To the sink as failed: payload and headers as they were sent, the open route kept."""
    return _end(envelope, "failed", reason, error, now, attempts_max=attempts_max)


def _end(
    envelope: Envelope,
    phase: str,
    reason: str | None,
    error: ErrorInfo | None,
    now: datetime,
    *,
    to: str = SINK,
    attempts_max: int | None = None,
) -> Send:
    out = envelope.copy()
    out.headers.pop(DEATHS_HEADER, None)
    out.route = Route(envelope.route.prev, to, envelope.route.next)
    out.status = msgspec.structs.replace(
        out.status,
        phase=phase,
        actor=envelope.route.curr,
        max_attempts=attempts_max or max(out.status.max_attempts, out.status.attempt),
        updated_at=to_rfc3339(now),
        reason=reason,
        error=error,
    )
    return Send(out, f"{out.id}:{envelope.hop + 1}")


def poison(envelope: Envelope, deaths: int, how: str, now: datetime) -> Send:
    """Straight to the dead letters: the message has killed too many processes."""
    text = f"the process that held it died {deaths} times; the last time: {how}"
    error = error_info(ReplicaGone(text))
    return _end(envelope, "failed", "PoisonMessage", error, now, to=SUMP)


def undeliverable(envelope: Envelope, known: Iterable[str], now: datetime) -> Send:
    """To the dead letters: `route.curr` names an actor that has no queue.

    The name stays first in `route.next`, so that the route can be mended and sent again.
    """
    wanted = envelope.route.curr
    close = nearest(wanted, known)
    hint = f"; did you mean {close!r}?" if close else ""
    error = error_info(UnknownActor(f"the route names {wanted!r}, which is no actor here{hint}"))
    out = envelope.copy()
    last = envelope.route.prev[-1] if envelope.route.prev else wanted
    out.route = Route(envelope.route.prev, SUMP, [wanted, *envelope.route.next])
    out.status = msgspec.structs.replace(
        out.status,
        phase="failed",
        actor=last,
        updated_at=to_rfc3339(now),
        reason="UnknownActor",
        error=error,
    )
    return Send(out, f"{out.id}:{envelope.hop}:sump")


def mismatch(envelope: Envelope, actor: str, body: bytes, now: datetime) -> Send:
    """To the dead letters: a foreign envelope in the queue of `actor`."""
    text = f"route.curr is {envelope.route.curr!r}, but the message stood in the queue of {actor!r}"
    return _kept(envelope.id, actor, "RouteMismatch", text, body, now)


def misrouted(envelope: Envelope, actor: str, problem: str, body: bytes, now: datetime) -> Send:
    """To the dead letters: its route names what can be no actor, or where envelopes end."""
    return _kept(envelope.id, actor, "ParseError", f"`route.next`: {problem}", body, now)


def unparsable(actor: str, problem: str, body: bytes, now: datetime) -> Send:
    """To the dead letters: bytes that are no envelope, kept as they came."""
    return _kept(None, actor, "ParseError", problem, body, now)


def _kept(
    envelope_id: str | None, actor: str, reason: str, text: str, body: bytes, now: datetime
) -> Send:
    """A message of ours around received bytes; its id is derived from them."""
    derived = envelope_id or child_id(f"{actor}:{reason}", 0, _fingerprint(body))
    at = to_rfc3339(now)
    out = Envelope(derived, Route([], SUMP, []), raw_json(_as_text(body)))
    out.status = msgspec.structs.replace(
        out.status,
        phase="failed",
        actor=actor,
        created_at=at,
        updated_at=at,
        reason=reason,
        error=ErrorInfo(
            type=f"asya.errors.{reason}",
            message=text,
            mro=[f"asya.errors.{reason}", "asya.errors.EnvelopeError", "Exception"],
        ),
    )
    return Send(out, f"{derived}:{reason}")


def _fingerprint(body: bytes) -> int:
    import hashlib

    return int.from_bytes(hashlib.sha256(body).digest()[:16], "big")


def _as_text(body: bytes) -> dict[str, str]:
    """Received bytes in a form that JSON can carry: text where it is text, else base64."""
    try:
        return {"received": body.decode()}
    except UnicodeDecodeError:
        import base64

        return {"received_base64": base64.b64encode(body).decode()}


def timed_out(actor: str, limit_s: float, by_deadline: bool) -> Raised:
    """The outcome of a handler that overran its limit."""
    whose = "the envelope's deadline" if by_deadline else "actorTimeout"
    text = f"{actor} was stopped after {limit_s:g} s ({whose})"
    return Raised(error_info(ActorTimeout(text)), late=by_deadline)


def too_large(actor: str, size: int, limit: int) -> Raised:
    """The outcome of a handler that emitted a payload over the limit."""
    text = f"{actor} emitted a payload of {size} bytes; the limit is {limit} bytes"
    return Raised(error_info(PayloadTooLarge(text)))


def _apply(out: Envelope, changes: Changes) -> None:
    for name in changes.removed:
        out.headers.pop(name, None)
    out.headers.update(changes.headers)
    for name, value in changes.status.items():
        if name not in SYSTEM_STATUS:
            out.status_extra[name] = value


def _trace(out: Envelope, envelope: Envelope) -> None:
    """This hop's span is the parent of the next one's, unless the handler sets another."""
    own = of_hop(envelope)
    if own is not None:
        out.headers[TRACEPARENT] = own


def _leave(out: Envelope, hop: int) -> None:
    """Count the hop, and drop what belongs to the visit that ends."""
    out.headers.pop(DEATHS_HEADER, None)
    out.headers.pop(SINCE_HEADER, None)
    out.headers[HOP_HEADER] = Raw(b"%d" % (hop + 1))


def _first_attempt(envelope: Envelope, this_one: datetime) -> datetime:
    """When the first attempt of this visit began."""
    since = envelope.header_text(SINCE_HEADER)
    try:
        return from_rfc3339(since) if since else this_one
    except ValueError:
        return this_one


def _hop_limit(envelope: Envelope) -> ErrorInfo:
    text = f"the envelope has made {HOPS_MAX} hops, the most there may be; does its route go round?"
    return ErrorInfo(type="asya.errors.HopLimit", message=text, mro=["asya.errors.HopLimit"])


def _late(envelope: Envelope) -> ErrorInfo:
    text = f"deadline_at ({envelope.status.deadline_at}) passed before {envelope.route.curr} began"
    return ErrorInfo(
        type="asya.errors.DeadlineExceeded", message=text, mro=["asya.errors.DeadlineExceeded"]
    )
