"""Why an envelope is where it is: pure, from facts to one cause, its evidence, and what mends it.

The first rule of `RULES` that has an answer gives it; their order is from what rules all else out
(it is not known, it has ended) to what only looks idle. `facts` gathers them; the gateway
and `asya why` show the outcome. Commands in remedies are commands of ours that exist.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from asya.durations import format_duration
from asya.envelope import END_ACTORS
from asya.errors import counted
from asya.tasks.diagnosis.latency import ActorLatency
from asya.tasks.diagnosis.stuck import stuck_after_s
from asya.tasks.mesh import ActorStatus, ReplicaStatus

SETTLE_S: Final = 1.0
"""What is in a queue for a shorter time is on its way."""


@dataclass(frozen=True)
class Remedy:
    """A command line, and what it does."""

    command: str
    does: str


@dataclass(frozen=True)
class Explanation:
    """Why an envelope is where it is.

    Attributes:
        kind: The cause in one stable word, to switch on.
        cause: The cause in one sentence.
        evidence: What it was concluded from, one fact each.
        remedy: What mends it, or shows more; the best first.
    """

    kind: str
    cause: str
    evidence: list[str] = field(default_factory=list)
    remedy: list[Remedy] = field(default_factory=list)


@dataclass(frozen=True)
class Position:
    """Where an envelope that has not ended is.

    Attributes:
        state: `queued`, `running` or `retrying`.
        actor: In whose queue, or by whose replica.
        since: Since when.
        n: The hop, from 0.
        attempt: The attempt that runs, or that ended last; 0 before the first.
        replica: The pid of the replica that works on it.
        retry_at: When the next attempt may begin.
        attempts_max: How many attempts the policy gives.
        error: The error of the last attempt, on one line.
    """

    state: str
    actor: str
    since: datetime
    n: int = 0
    attempt: int = 0
    replica: int | None = None
    retry_at: datetime | None = None
    attempts_max: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class DeadLetterFact:
    """What became of a dead letter: `status` is `dead`, `retried` or `purged`, since `at`.

    `retried_as` is the envelope that was made of it.
    """

    status: str
    at: datetime | None = None
    retried_as: str | None = None


@dataclass(frozen=True)
class Times:
    """When an envelope came, moved last, may begin, and must have ended; None: not known or none."""

    created_at: datetime | None = None
    updated_at: datetime | None = None
    not_before: datetime | None = None
    deadline: datetime | None = None


@dataclass(frozen=True)
class FailureFacts:
    """Why an envelope failed.

    Attributes:
        error: The error, on one line.
        reason: The mesh's word for it.
        dead_at: When it became a dead letter.
        letter: What became of the dead letter.
    """

    error: str | None = None
    reason: str | None = None
    dead_at: datetime | None = None
    letter: DeadLetterFact | None = None


@dataclass(frozen=True)
class ActorFacts:
    """The actor where the envelope is.

    Attributes:
        status: The actor as it runs, or None if it is no part of this mesh.
        ahead: Envelopes at this actor that most likely come first.
        latency: How long it usually takes.
        newest_start: When the newest of the calls under way began.
        nearest: The nearest name of an actor that is part of the mesh.
    """

    status: ActorStatus | None = None
    ahead: int = 0
    latency: ActorLatency = field(default_factory=ActorLatency)
    newest_start: datetime | None = None
    nearest: str | None = None


@dataclass(frozen=True)
class Facts:
    """All that is known. For an unknown id `status` is None, and only `nearest` counts.

    Attributes:
        status: As clients see it.
        nearest: The nearest id that is known.
        published: It is known to be in its first queue.
        problem: What is wrong with the whole mesh.
        position: Where it is, unless it has ended.
        at: The actor there.
        children: Envelopes that a fan-out made of it, the newest, counted by status.
    """

    id: str
    now: datetime
    status: str | None = None
    nearest: str | None = None
    times: Times = field(default_factory=Times)
    failure: FailureFacts = field(default_factory=FailureFacts)
    published: bool = True
    problem: str | None = None
    position: Position | None = None
    at: ActorFacts = field(default_factory=ActorFacts)
    children: Mapping[str, int] = field(default_factory=dict)


def why(facts: Facts) -> Explanation:
    """The cause, and what it follows from."""
    for rule in RULES:
        found = rule(facts)
        if found is not None:
            return replace(found, evidence=[*found.evidence, *_children(facts)])
    raise AssertionError("the last rule answers whatever comes")


# -- it is not known, or has ended -----------------------------------------------------------------


def _unknown(facts: Facts) -> Explanation | None:
    if facts.status is not None:
        return None
    evidence = ["no envelope with this id is in the task store"]
    evidence.append("ended ones are forgotten after the retention time (setting `retention`)")
    remedy = []
    if facts.nearest:
        evidence.append(f"the nearest id is {facts.nearest}")
        remedy.append(Remedy(f"asya why {facts.nearest}", "asks about the nearest one"))
    cause = f"Never accepted: no envelope {facts.id} is known here, or it was forgotten."
    return Explanation("unknown", cause, evidence, remedy)


def _ended(facts: Facts) -> Explanation | None:
    at = f" at {_clock(facts.times.updated_at)}" if facts.times.updated_at else ""
    took = ""
    if facts.times.created_at and facts.times.updated_at:
        took = f", {_span((facts.times.updated_at - facts.times.created_at).total_seconds())} after it came"
    show = Remedy(f"asya trace {facts.id}", "shows every hop with its times")
    if facts.status == "succeeded":
        see = Remedy(f"asya watch {facts.id}", "prints the result")
        return Explanation("done", f"Done: it succeeded{at}{took}.", [], [see, show])
    if facts.status == "canceled":
        return Explanation("canceled", f"Canceled{at}{took}; it goes nowhere any more.", [], [show])
    if facts.status != "failed":
        return None
    error = facts.failure.error or facts.failure.reason or "no error is known"
    evidence = [f"reason: {facts.failure.reason}"] if facts.failure.reason else []
    letter = facts.failure.letter
    if letter is not None and letter.status == "retried":
        cause = f"Sent again as {letter.retried_as} at {_clock(letter.at)}. It was dead: {error}"
        see = Remedy(f"asya why {letter.retried_as}", "says how that one does")
        more = Remedy(f"asya dead retry {facts.id} --force", "sends it once more")
        return Explanation("retried", cause, evidence, [see, more, show])
    if letter is not None and letter.status == "purged":
        evidence.append(f"its bytes were thrown away at {_clock(letter.at)}")
        return Explanation("failed", f"Failed{at}: {error}", evidence, [show])
    if facts.failure.dead_at is not None:
        evidence.append(
            f"its bytes are kept among the dead letters since {_clock(facts.failure.dead_at)}"
        )
        again = Remedy(f"asya dead retry {facts.id}", "sends it again, once the cause is mended")
        look = Remedy(f"asya dead show {facts.id}", "shows error, hops and payload")
        return Explanation("dead", f"Dead{at}: {error}", evidence, [again, look, show])
    cause = f"Failed{at}: {error}"
    if facts.failure.reason == "DeadlineExceeded":
        cause = f"Its deadline passed: it failed{at}."
        return Explanation("deadline", cause, evidence, [show])
    return Explanation("failed", cause, evidence, [show])


# -- it has not ended ------------------------------------------------------------------------------


def _running(facts: Facts) -> Explanation | None:
    position = facts.position
    if position is None or position.state != "running":
        return None
    for_s = (facts.now - position.since).total_seconds()
    p99 = facts.at.latency.handler.p99_s
    usual = "" if p99 is None else f" (its p99 is {_span(p99)})"
    logs = Remedy(
        f"asya logs {position.actor} --envelope {facts.id}", "shows what it printed so far"
    )
    cancel = Remedy(f"asya cancel {facts.id}", "stops it")
    pids = None if facts.at.status is None else {each.pid for each in facts.at.status.replicas}
    if pids is not None and position.replica is not None and position.replica not in pids:
        cause = (
            f"Its replica {position.replica} of {position.actor} is gone; it is given to another one "
            "as soon as the broker has noticed."
        )
        return Explanation("replica-gone", cause, _evidence(facts), [logs, cancel])
    where = "" if position.replica is None else f" in replica {position.replica}"
    cause = f"Running for {_span(for_s)}{where} of {position.actor}{usual}."
    limit = stuck_after_s(facts.at.latency.handler)
    if limit is not None and for_s > limit:
        cause = f"Stuck? {cause}"
    return Explanation("running", cause, _evidence(facts), [logs, cancel])


def _paused(facts: Facts) -> Explanation | None:
    if facts.status != "paused":
        return None
    at = f" since {_clock(facts.times.updated_at)}" if facts.times.updated_at else ""
    cause = f"Paused{at}: it waits for somebody to resume it."
    return Explanation("paused", cause, [], [Remedy(f"asya cancel {facts.id}", "gives it up")])


def _mesh(facts: Facts) -> Explanation | None:
    if facts.problem is None:
        return None
    cause = f"The mesh cannot work now: {facts.problem}."
    remedy = [
        Remedy("asya doctor", "says what is wrong with the set-up, and what mends it"),
        Remedy("asya logs x-mesh", "shows what the mesh says of itself"),
    ]
    return Explanation("mesh", cause, _evidence(facts), remedy)


def _delayed(facts: Facts) -> Explanation | None:
    begin = facts.times.not_before
    if facts.status != "pending" or begin is None or begin <= facts.now:
        return None
    left = _span((begin - facts.now).total_seconds())
    cause = f"Delayed: it may begin at {_clock(begin)}, in {left}, as it was asked for."
    cancel = Remedy(f"asya cancel {facts.id}", "gives it up")
    return Explanation("delayed", cause, _deadline(facts), [cancel])


def _unpublished(facts: Facts) -> Explanation | None:
    if facts.published or facts.status != "pending":
        return None
    cause = "Stored, and not yet known to be in its first queue."
    evidence = ["what is stored is published, again if need be, within half a minute"]
    return Explanation(
        "unpublished", cause, evidence, [Remedy(f"asya why {facts.id}", "looks again")]
    )


def _retrying(facts: Facts) -> Explanation | None:
    position = facts.position
    if position is None or position.state != "retrying" or position.retry_at is None:
        return None
    left_s = (position.retry_at - facts.now).total_seconds()
    if left_s <= 0:
        return None
    tries = f"attempt {position.attempt + 1}"
    if position.attempts_max:
        tries += f" of {position.attempts_max}"
    cause = f"Waits for {tries} at {position.actor}, at {_clock(position.retry_at)}, in {_span(left_s)}."
    evidence = [f"attempt {position.attempt} failed: {position.error}"] if position.error else []
    remedy = [
        Remedy(
            f"asya logs {position.actor} --envelope {facts.id}", "shows what the attempts printed"
        ),
        Remedy(f"asya cancel {facts.id}", "gives it up"),
    ]
    return Explanation("retry", cause, [*evidence, *_evidence(facts)], remedy)


# -- it is in a queue ------------------------------------------------------------------------------


def _ending(facts: Facts) -> Explanation | None:
    if facts.position is None or facts.position.actor not in END_ACTORS:
        return None
    cause = f"Its last hop is done for {_for(facts)}; its end is being stored."
    again = Remedy(f"asya why {facts.id}", "looks again")
    return Explanation("ending", cause, [], [again])


def _no_actor(facts: Facts) -> Explanation | None:
    if facts.position is None or facts.at.status is not None:
        return None
    name = facts.position.actor
    close = f"; the nearest is {facts.at.nearest}" if facts.at.nearest else ""
    cause = f"Waits for {name}, which is not part of this mesh{close}."
    evidence = [f"in its queue for {_for(facts)}"]
    remedy = [Remedy("asya ps", "lists the actors that run"), _cancel(facts)]
    return Explanation("no-actor", cause, evidence, remedy)


def _overdue(facts: Facts) -> Explanation | None:
    if facts.times.deadline is None or facts.times.deadline > facts.now:
        return None
    late = _span((facts.now - facts.times.deadline).total_seconds())
    cause = f"Its deadline passed {late} ago: it is about to end as failed."
    return Explanation("deadline", cause, _evidence(facts), [_cancel(facts)])


def _broken(facts: Facts) -> Explanation | None:
    actor = facts.at.status
    if actor is None or actor.load_error is None or _ready(actor):
        return None
    cause = f"Waits for a replica of {actor.name}, which cannot start: {actor.load_error}."
    again = "tried again when a file of its folder changes"
    if actor.start_at is not None:
        again += f", and in {_span((actor.start_at - facts.now).total_seconds())}"
    logs = Remedy(f"asya logs {actor.name}", "shows the whole error; mend the file, nothing else")
    return Explanation("broken", cause, [again, *_evidence(facts)], [logs, _cancel(facts)])


def _starting(facts: Facts) -> Explanation | None:
    actor = facts.at.status
    if actor is None or _ready(actor):
        return None
    if not actor.replicas_max:
        cause = f"{actor.name} may have no replica: its maxReplicaCount is 0."
        remedy = [Remedy("asya validate", "checks the manifests after the change")]
        return Explanation("no-replicas", cause, _evidence(facts), remedy)
    logs = Remedy(f"asya logs {actor.name} -f", "shows what it prints while it loads")
    starting = [each for each in actor.replicas if each.state == "starting"]
    if starting:
        for_s = (facts.now - min(each.since for each in starting)).total_seconds()
        cause = f"Waits for a replica of {actor.name}, which starts for {_span(for_s)}."
        return Explanation("starting", cause, _evidence(facts), [logs])
    if actor.start_at is not None and actor.start_at > facts.now:
        left = _span((actor.start_at - facts.now).total_seconds())
        cause = f"The replicas of {actor.name} died; the next one is started in {left}."
        return Explanation("crashing", cause, _evidence(facts), [logs])
    cause = f"Waits for a replica of {actor.name}, which is about to be started."
    return Explanation("starting", cause, _evidence(facts), [logs])


def _behind(facts: Facts) -> Explanation | None:
    actor, position = facts.at.status, facts.position
    if actor is None or position is None:
        return None
    ready = _ready(actor)
    others = min(facts.at.ahead, actor.queue.ready + actor.queue.in_flight)
    busy = [each for each in ready if each.state == "busy"]
    if len(busy) < len(ready) or not others:
        return None
    working = "its one replica is" if len(ready) == 1 else f"all {len(ready)} replicas are"
    noun = "other" if others == 1 else "others"
    cause = f"Queued behind about {others} {noun} at {actor.name}: {working} busy."
    slow_s = _slow_for_s(facts)
    if slow_s is not None:
        cause += f" What runs there takes longer than usual: {_span(slow_s)} so far."
    elif actor.rate > 0:
        cause += f" At {actor.rate:g} per second that takes about {_span(others / actor.rate)}."
    remedy = []
    if len(ready) >= actor.replicas_max:
        more = "with a larger spec.scaling.maxReplicaCount (or concurrency) it goes faster"
        remedy.append(Remedy("asya top", f"shows the load; {more}"))
    else:
        remedy.append(Remedy("asya top", "shows the load; more replicas start as more waits"))
    return Explanation("queued", cause, _evidence(facts), [*remedy, _cancel(facts)])


def _slow_for_s(facts: Facts) -> float | None:
    """How long the newest call at the actor runs, where that is longer than its p99."""
    p99 = facts.at.latency.handler.p99_s
    if facts.at.newest_start is None or p99 is None:
        return None
    for_s = (facts.now - facts.at.newest_start).total_seconds()
    return for_s if for_s > max(p99, SETTLE_S) else None


def _on_its_way(facts: Facts) -> Explanation:
    """A replica is free, or was a moment ago."""
    position = facts.position
    name = position.actor if position else "its actor"
    since_s = (facts.now - position.since).total_seconds() if position else 0.0
    if since_s < SETTLE_S:
        cause = f"On its way: it came into the queue of {name} a moment ago."
        return Explanation("on-its-way", cause, _evidence(facts), [])
    cause = (
        f"Next at {name}: a replica is free or about to be. If a process died that held it, "
        "the broker gives it out again after the lease."
    )
    again = Remedy(f"asya why {facts.id}", "looks again")
    logs = Remedy("asya logs x-mesh", "shows what the mesh says of itself")
    return Explanation("next", cause, _evidence(facts), [again, logs, _cancel(facts)])


RULES: Final[tuple[Callable[[Facts], Explanation | None], ...]] = (
    _unknown, _ended, _running, _paused, _mesh, _delayed, _unpublished, _retrying, _ending, _no_actor,
    _overdue, _broken, _starting, _behind, _on_its_way,
)  # fmt: skip


# -- words -----------------------------------------------------------------------------------------


def _cancel(facts: Facts) -> Remedy:
    return Remedy(f"asya cancel {facts.id}", "gives it up")


def _ready(actor: ActorStatus) -> list[ReplicaStatus]:
    return [each for each in actor.replicas if each.state in {"busy", "idle"}]


def _evidence(facts: Facts) -> list[str]:
    """What is known of its place, whatever the cause."""
    told = []
    if facts.position is not None and facts.position.state == "queued":
        told.append(f"in the queue of {facts.position.actor} for {_for(facts)}")
    if facts.at.status is not None:
        told += _load(facts.at.status)
    told += _times(facts.at.latency)
    return told + _deadline(facts)


def _load(actor: ActorStatus) -> list[str]:
    queue = actor.queue
    states = Counter(each.state for each in actor.replicas)
    listed = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none"
    depth = f"{queue.ready} ready, {queue.in_flight} in flight, {queue.delayed} delayed"
    told = [
        f"queue of {actor.name}: {depth}",
        f"replicas: {listed} (at most {actor.replicas_max}); {actor.rate:g} done per second",
    ]
    if actor.last_error and actor.last_error != actor.load_error:
        told.append(f"last error of {actor.name}: {_line(actor.last_error)}")
    return told


def _times(pace: ActorLatency) -> list[str]:
    handler, queue = pace.handler, pace.queue
    if handler.p50_s is None or handler.p99_s is None:
        return []
    text = f"handler: p50 {_span(handler.p50_s)}, p99 {_span(handler.p99_s)}"
    if queue.p99_s is not None:
        text += f"; queue: p99 {_span(queue.p99_s)}"
    return [f"{text} (last {counted(handler.samples, 'call')})"]


def _children(facts: Facts) -> list[str]:
    if not facts.children:
        return []
    total = sum(facts.children.values())
    states = ", ".join(f"{count} {status}" for status, count in sorted(facts.children.items()))
    noun = "child" if total == 1 else "children"
    return [f"its fan-out made {total} {noun}: {states} (asya trace {facts.id} --children)"]


def _deadline(facts: Facts) -> list[str]:
    if facts.times.deadline is None:
        return []
    left_s = (facts.times.deadline - facts.now).total_seconds()
    when = f"in {_span(left_s)}" if left_s > 0 else f"{_span(-left_s)} ago"
    return [f"deadline: {_clock(facts.times.deadline)}, {when}"]


def _for(facts: Facts) -> str:
    assert facts.position is not None
    return _span((facts.now - facts.position.since).total_seconds())


def _clock(moment: datetime | None) -> str:
    return "?" if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def _span(seconds: float) -> str:
    """A duration as a person reads it: three digits are enough."""
    seconds = max(0.0, seconds)
    if seconds >= 100:
        return format_duration(float(round(seconds)))
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.3g} s"


def _line(text: str) -> str:
    return text.partition("\n")[0]
