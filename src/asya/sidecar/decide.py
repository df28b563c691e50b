"""Every rule of routing, retries and endings, as one pure function.

`decide` turns an envelope and what became of it into envelopes to send; the loop sends them. It is
the one place where "the route has ended" and "no attempt is left" become sends. The
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
from asya.errors import DeadlineExceeded, HopLimit, ReplicaGone, UnknownActor, nearest
from asya.resiliency import Resiliency, delay_s
from asya.runtime.route import advance
from asya.sidecar.outcome import (
    Canceled,
    Changes,
    Emitted,
    Expired,
    Frame,
    Lost,
    Outcome,
    Oversized,
    Raised,
    Rejected,
    Returned,
    Undeliverable,
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


def decide(
    envelope: Envelope,
    outcome: Outcome,
    resiliency: Resiliency,
    now: datetime,
    uniform: Callable[[float, float], float],
) -> list[Send]:
    """What to send, given an envelope and what became of it. Nothing given is changed.

    The only entry to the rules, for whole outcomes as for a frame that is sent on early or a
    message that its broker does not take. `reject` is its twin for bytes that are no envelope.

    Args:
        envelope: As received; for `Undeliverable` and `Oversized` as it was to be sent.
        outcome: What became of it.
        resiliency: The actor's rules.
        now: Wall time.
        uniform: As `random.uniform`; for jitter.

    Returns:
        Envelopes with their queues. All must be confirmed before the message is acked. An empty
        list means that the message goes back to its queue at once, where the broker counts it as a
        crash.
    """
    match outcome:
        case Returned():
            return _after_return(envelope, outcome, now)
        case Emitted(frame=frame, index=index):
            return [_forward(envelope, frame, index, True, now)]
        case Raised():
            return [_after_error(envelope, outcome, resiliency, now, uniform)]
        case Lost(deaths=deaths, how=how):
            return [_poison(envelope, deaths, how, now)] if deaths >= DEATHS_MAX else []
        case Canceled():
            return [_end(envelope, "canceled", None, None, now)]
        case Undeliverable(known=known):
            return [_undeliverable(envelope, known, now)]
        case Expired() | Unreadable() | Oversized():
            reason, error = _failure(envelope, outcome)
            return [_fail(envelope, reason, error, now)]


def reject(rejected: Rejected, now: datetime) -> Send:
    """What to send for received bytes that the actor cannot handle: a dead letter around them."""
    return _keep(rejected, now)


def _after_return(envelope: Envelope, returned: Returned, now: datetime) -> list[Send]:
    frames = returned.frames
    if not frames:
        return [_stop(envelope, returned.final, now)]
    if envelope.hop + 1 > HOPS_MAX:
        return [_fail(envelope, "HopLimit", _hop_limit(), now)]
    fans = returned.fan_out or len(frames) > 1
    return [_forward(envelope, frame, i, fans, now) for i, frame in enumerate(frames)]


def _failure(
    envelope: Envelope, outcome: Expired | Unreadable | Oversized
) -> tuple[str, ErrorInfo]:
    if isinstance(outcome, Expired):
        return "DeadlineExceeded", _late(envelope)
    if isinstance(outcome, Unreadable):
        return "BlobMissing", outcome.error
    return "MessageTooLarge", outcome.error


def _forward(envelope: Envelope, frame: Frame, index: int, fan_out: bool, now: datetime) -> Send:
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
    out.route = Route(*advance(envelope.route.prev, envelope.route.curr, upcoming))
    status = out.status
    status.updated_at = to_rfc3339(now)
    if upcoming:
        status.actor = upcoming[0]
        status.attempt = 1
        status.max_attempts = 1
    if status.phase != "failed":
        # an envelope that `onExhausted` routed as failed stays failed to its end
        status.phase = "processing" if upcoming else "succeeded"
        status.error = None
    return Send(out, f"{out.id}:{hop + 1}")


def _stop(envelope: Envelope, final: Changes, now: datetime) -> Send:
    """No frame at all: to the sink with the payload it came with, and the rest of no route."""
    kept = Changes([], final.headers, final.removed, final.status)
    return _forward(envelope, Frame(envelope.payload, kept), 0, False, now)


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
        return _fail(envelope, "DeadlineExceeded", error, now)
    began = _first_attempt(envelope, raised.began or now)
    if attempt < policy.max_attempts:
        at = now + timedelta(seconds=delay_s(policy, attempt, uniform))
        in_time = policy.max_duration_s is None or (
            (at - began).total_seconds() <= policy.max_duration_s
        )
        if in_time and deadline is not None and at >= deadline:
            return _fail(envelope, "DeadlineExceeded", error, now)
        if in_time:
            return _retry(envelope, error, policy.max_attempts, began, at, now)
    if policy.on_exhausted:
        return _route_failed(envelope, error, policy.on_exhausted, policy.max_attempts, now)
    return _fail(envelope, "PolicyExhausted", error, now, attempts_max=policy.max_attempts)


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
        return _fail(envelope, "HopLimit", error, now)
    out = envelope.copy()
    _trace(out, envelope)
    _leave(out, hop)
    out.route = Route(*advance(envelope.route.prev, envelope.route.curr, actors))
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


def _fail(
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


def _poison(envelope: Envelope, deaths: int, how: str, now: datetime) -> Send:
    """Straight to the dead letters: the message has killed too many processes."""
    text = f"the process that held it died {deaths} times; the last time: {how}"
    error = error_info(ReplicaGone(text))
    return _end(envelope, "failed", "PoisonMessage", error, now, to=SUMP)


def _undeliverable(envelope: Envelope, known: Iterable[str], now: datetime) -> Send:
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


def _keep(rejected: Rejected, now: datetime) -> Send:
    """To the dead letters: an envelope of ours around received bytes, its id derived from them."""
    actor, reason, body = rejected.actor, rejected.reason, rejected.body
    derived = rejected.envelope_id or child_id(f"{actor}:{reason}", 0, _fingerprint(body))
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
            message=rejected.text,
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


def _hop_limit() -> ErrorInfo:
    return error_info(
        HopLimit(
            f"the envelope has made {HOPS_MAX} hops, the most there may be; does its route go round?"
        )
    )


def _late(envelope: Envelope) -> ErrorInfo:
    status = envelope.status
    text = f"deadline_at ({status.deadline_at}) passed before {envelope.route.curr} began"
    return error_info(DeadlineExceeded(text))
