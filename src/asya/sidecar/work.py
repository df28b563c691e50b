"""One message in a sidecar: from its delivery to its ack.

Collects what the handler emits (all or nothing, up to a bound), keeps the time, and turns the end
of the call into an outcome. The rules are in `decide`; sending is the sidecar's.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

from msgspec import Raw

from asya.blobs.base import BlobRef
from asya.blobs.claims import reference
from asya.clock import seconds_until, to_rfc3339
from asya.envelope import BLOB_HEADER, DEATHS_HEADER, FLOW_HEADER, Envelope, ErrorInfo, Route
from asya.errors import BlobMissing
from asya.events import Content, Flown, HopEnded, HopSent, HopStarted
from asya.sidecar import decide as rules
from asya.sidecar.outcome import (
    Canceled,
    Changes,
    Emitted,
    Frame,
    Lost,
    Outcome,
    Raised,
    Returned,
    error_info,
    timed_out,
    too_large,
)
from asya.tracecontext import TRACEPARENT

if TYPE_CHECKING:
    from asya.sidecar.replica import Replica
    from asya.sidecar.sidecar import Sidecar
    from asya.transports.base import Delivery

FRAMES_MAX: Final = 256
"""Frames kept back until the handler has ended; past this they flow as they come."""

BYTES_MAX: Final = 8 * 1024 * 1024
"""The same bound in bytes."""

FLOWING_MAX: Final = 64
"""Publishes under way for one call past the bound, or as many as have `BYTES_MAX` together; then
its runtime has to wait."""

YIELD_S: Final = 1.0
"""How long an async handler may take to give way before its process is killed."""


class Work:
    """A message that this sidecar holds. Implements `replica.CallEvents`.

    Attributes:
        envelope: The message, decoded.
        delivery: The broker's handle on it.
        alone: A replica died of it, or twice with it: it runs without neighbours.
        canceled: Its end is not wanted any more.
        held_since: Loop time of the last lease.
        restored_bytes: Of its payload, where that was checked in and is in memory now.
        restore_delay_s: The last back-off while its payload could not be read, in seconds.
    """

    __slots__ = (
        "_buffered", "_by_deadline", "_extra", "_flowing", "_flowing_bytes", "_fly_seq", "_frames",
        "_index",
        "_limit_s", "_paused", "_refused", "_stopping", "_timer", "alone", "began", "canceled", "delivery",
        "envelope",
        "held_since", "number", "replica", "restore_delay_s", "restored_bytes", "sidecar",
        "started_s",
    )  # fmt: skip

    def __init__(self, sidecar: Sidecar, delivery: Delivery, envelope: Envelope) -> None:
        self.sidecar = sidecar
        self.delivery = delivery
        self.envelope = envelope
        self.alone = self.deaths > 1 or sidecar.is_suspected(envelope.id)
        self.held_since = sidecar.loop_time()
        self.canceled = False
        self.replica: Replica | None = None
        self.number = 0
        self.restored_bytes = 0
        self.restore_delay_s = 0.0
        self._reset()

    def _reset(self) -> None:
        self.started_s: float | None = None
        self.began: datetime | None = None
        self._frames: list[Frame] = []
        self._buffered = 0
        self._index = 0
        self._flowing: set[asyncio.Task[None]] = set()
        self._flowing_bytes = 0
        self._paused: Replica | None = None
        self._extra = False
        self._refused: Raised | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._limit_s = 0.0
        self._by_deadline = False
        self._stopping: Outcome | None = None
        self._fly_seq = 0

    @property
    def deaths(self) -> int:
        """Processes that died with this message so far."""
        return deaths_before(self.envelope) + self.delivery.delivery_count - 1

    @property
    def blob(self) -> BlobRef | None:
        """Where its payload is; None where it came along, or nobody can tell."""
        try:
            return reference(self.envelope)
        except BlobMissing:
            return None

    @property
    def running(self) -> bool:
        """Whether a runtime has begun to work on it."""
        return self.started_s is not None

    def wait(self) -> None:
        """It stands in line: where its deadline passes there, it ends there."""
        deadline = self.envelope.deadline
        if deadline is not None:
            left_s = max(0.0, seconds_until(deadline, self.sidecar.now()))
            self._timer = self.sidecar.call_later(left_s, lambda: self.sidecar.expire(self))

    def begin(self, replica: Replica) -> None:
        """Give it to a replica."""
        self._clear_timer()
        self._reset()
        self.replica = replica
        status = self.envelope.status
        status.actor = self.sidecar.config.actor
        if status.phase != "failed":
            status.phase = "processing"
        if status.attempt == 1:
            status.max_attempts = self.sidecar.config.resiliency.default.max_attempts
        if BLOB_HEADER in self.envelope.headers:
            self.sidecar.restoring.begin(self, replica)
        else:
            self.number = replica.call(self.envelope, self)

    def call(self, replica: Replica, whole: Envelope) -> None:
        """Begin for real: `whole` is the envelope with the payload that was checked in."""
        self.number = replica.call(whole, self)

    # -- the call's events ------------------------------------------------------------------------

    def on_running(self) -> None:
        """The time begins to count."""
        sidecar = self.sidecar
        self.started_s = sidecar.loop_time()
        self.began = now = sidecar.now()
        limit = sidecar.config.resiliency.actor_timeout_s
        deadline = self.envelope.deadline
        if deadline is not None:
            left = seconds_until(deadline, now)
            self._by_deadline = left < limit
            limit = max(0.0, min(limit, left))
        self._limit_s = limit
        self._timer = sidecar.call_later(limit, self._overrun)
        sidecar.emit(self._started(now))
        if self.canceled:
            self._stop(Canceled())

    def on_frame(self, frame: Frame) -> None:
        """Keep a frame back, or send it on where the bound is passed."""
        if self._refused is not None or self._stopping is not None:
            return
        size = len(memoryview(frame.payload))
        limit = self.sidecar.config.payload_max_bytes
        if size > limit:
            self._refused = too_large(self.sidecar.config.actor, size, limit)
            self._frames.clear()
            return
        self._index += 1
        if self._extra:
            self._flow(frame, self._index - 1)
            return
        self._frames.append(frame)
        self._buffered += size
        if len(self._frames) > FRAMES_MAX or self._buffered > BYTES_MAX:
            self._open_the_flow()

    def _open_the_flow(self) -> None:
        """Past the bound, send on what was kept back, all but frame 0.

        That one keeps the envelope's id, and while the handler runs (and may yet fail) there must
        be one place only where that envelope is.
        """
        self._extra = True
        kept, self._frames = self._frames, self._frames[:1]
        for index, frame in enumerate(kept[1:], start=1):
            self._flow(frame, index)

    def _flow(self, frame: Frame, index: int) -> None:
        sidecar, replica = self.sidecar, self.replica
        assert replica is not None
        (send,) = sidecar.decide(self.envelope, Emitted(frame, index))
        task = asyncio.ensure_future(sidecar.perform_child(send, self.envelope))
        self._flowing.add(task)
        size = len(frame.payload)
        self._flowing_bytes += size
        if self._paused is None and self._flows_full():
            self._paused = replica
            replica.hold()
        task.add_done_callback(lambda done: self._flowed(done, size))

    def _flows_full(self) -> bool:
        return len(self._flowing) >= FLOWING_MAX or self._flowing_bytes > BYTES_MAX

    def _flowed(self, task: asyncio.Task[None], size: int) -> None:
        self._flowing.discard(task)
        self._flowing_bytes -= size
        paused = self._paused
        if paused is not None and not self._flows_full():
            # the call may have ended meanwhile, and the replica be at the next one
            self._paused = None
            paused.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._refused = self._refused or Raised(error_info(error))

    def on_fly(self, data: Raw) -> None:
        """Pass it on at once."""
        self._fly_seq += 1
        self.sidecar.emit(
            Flown(
                self.envelope.id,
                self.envelope.root,
                self.sidecar.config.actor,
                self._fly_seq,
                to_rfc3339(self.sidecar.now()),
                data,
            )
        )

    def on_done(self, changes: Changes) -> None:
        """The handler ended well."""
        if self._refused is not None:
            self._end(self._refused)
        else:
            frames = self._frames
            self._end(Returned(frames, self._extra or len(frames) > 1, changes))

    def on_error(self, error: ErrorInfo) -> None:
        """The handler raised."""
        self._end(self._refused or Raised(error))

    def on_canceled(self) -> None:
        """An async handler gave way, after a cancel or after its time was over."""
        self._end(self._stopping or Canceled())

    def on_lost(self, suspects: int) -> None:
        """The runtime is gone."""
        if self._stopping is not None:
            self._end(self._stopping)
        elif suspects:
            if suspects == 1:
                self.sidecar.suspect(self.envelope.id)
            replica = self.replica
            pid = replica.pid if replica else 0
            self._end(Lost(self.deaths + 1, f"the runtime (pid {pid}) died while it worked on it"))
        else:
            self._clear_timer()
            self.replica = None
            self.sidecar.put_back(self)

    def _end(self, outcome: Outcome) -> None:
        self._clear_timer()
        if self.canceled:
            outcome = Canceled()
        elif self._stopping is not None and not isinstance(outcome, Lost):
            outcome = self._stopping
        if isinstance(outcome, Raised):
            outcome = replace(outcome, began=self.began)
        self.sidecar.finish(self, outcome, set(self._flowing))

    # -- time and cancel --------------------------------------------------------------------------

    def _overrun(self) -> None:
        actor = self.sidecar.config.actor
        self._stop(timed_out(actor, self._limit_s, self._by_deadline))

    def cancel(self) -> None:
        """Somebody canceled it: a running handler is stopped, the message ends."""
        if self.canceled:
            return
        self.canceled = True
        if self._stopping is not None:
            # its timer is the one that kills a handler which does not give way
            return
        self._clear_timer()
        if self.running and self.replica is not None:
            self._stop(Canceled())

    def _stop(self, outcome: Outcome) -> None:
        """Stop the handler for sure: ask an async one, kill the process of any other."""
        if self._stopping is not None:
            return
        self._stopping = outcome
        replica = self.replica
        assert replica is not None
        self._clear_timer()
        if replica.cooperative:
            replica.cancel(self.number)
            self._timer = self.sidecar.call_later(YIELD_S, self._kill)
        else:
            self._kill()

    def _kill(self) -> None:
        assert self.replica is not None
        self.sidecar.kill_replica(self.replica)

    def _clear_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- events -----------------------------------------------------------------------------------

    def _started(self, now: datetime) -> HopStarted:
        envelope = self.envelope
        return HopStarted(
            envelope.id,
            envelope.hop,
            self.sidecar.config.actor,
            envelope.status.attempt,
            to_rfc3339(now),
            envelope.root,
            envelope.route,
            envelope.status.updated_at,
            self.replica.pid if self.replica else None,
            envelope.parent_id,
            envelope.header_text(FLOW_HEADER) if FLOW_HEADER in envelope.headers else None,
            content(envelope),
            envelope.header_text(TRACEPARENT),
            self.sidecar.config.capture.before(envelope),
        )

    def ended(self, outcome: Outcome, sends: list[rules.Send], now: datetime) -> HopEnded:
        """The event that closes this hop."""
        first = sends[0] if sends else None
        route = first.envelope.route if first else self.envelope.route
        state, error, retry_at = self._state(outcome, first, now)
        capture = self.sidecar.config.capture
        made = first.envelope if isinstance(outcome, Returned) and first else None
        tries = first.envelope.status.max_attempts if error is not None and first else None
        return HopEnded(
            self.envelope.id,
            self.envelope.hop,
            self.sidecar.config.actor,
            self.envelope.status.attempt,
            to_rfc3339(now),
            state,
            route,
            error,
            retry_at,
            None if made is None else content(made),
            tries,
            None if made is None else capture.after(self.envelope, made),
            None if error is None else capture.after_error(self.envelope),
        )

    def sent(self, route: Route, now: datetime) -> HopSent:
        """The event that tells that what follows is in the next queue."""
        return HopSent(
            self.envelope.id,
            self.envelope.hop,
            self.sidecar.config.actor,
            self.envelope.status.attempt,
            to_rfc3339(now),
            route,
        )

    def _state(
        self, outcome: Outcome, first: rules.Send | None, now: datetime
    ) -> tuple[str, ErrorInfo | None, str | None]:
        if isinstance(outcome, Returned):
            return "succeeded", None, None
        if isinstance(outcome, Canceled):
            return "canceled", None, None
        if first is None:
            return "lost", None, None
        sent = first.envelope
        if sent.route.curr == self.envelope.route.curr:
            return "retrying", sent.status.error, to_rfc3339(first.not_before or now)
        return "failed", sent.status.error, None


def deaths_before(envelope: Envelope) -> int:
    """Deaths counted before the message was last published, from its header."""
    value = envelope.header(DEATHS_HEADER, 0) if DEATHS_HEADER in envelope.headers else 0
    return value if isinstance(value, int) else 0


def content(envelope: Envelope) -> Content:
    """Size and SHA-256 of a payload, wherever it is."""
    if BLOB_HEADER in envelope.headers:
        with contextlib.suppress(BlobMissing):
            ref = reference(envelope)
            assert ref is not None
            return Content(ref.size, ref.sha256)
    view = memoryview(envelope.payload)
    return Content(len(view), hashlib.sha256(view).hexdigest())
