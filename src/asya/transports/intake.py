"""What a consumer may ask for, shows and keeps back: the same arithmetic for every broker.

`Prefetch` is pure: four counts and what follows from them. `Intake` performs: it calls the
receiver, keeps what does not fit (the overflow), asks for more, and owns the two timers.

Rules: no more than the window is shown, ever. `unsettled + requested + overflow <= window` is what
a consumer tends to; it is broken for a moment when the window shrinks while messages are on their
way. Giving those back at once would raise their delivery counts, so they wait here for a place,
and go back only when none comes free in time.

Called by the consumer of each broker.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, TypeVar

from asya.transports.base import Delivery

OVERFLOW_S: Final = 1.0
"""How long a message that came just after the window shrank waits for a place here."""

D = TypeVar("D", bound=Delivery)


class Refill(Enum):
    """Whether free places are worth a request."""

    NO = "no"
    LATER = "later"
    NOW = "now"


class Prefetch(Generic[D]):
    """The counts of one consumer.

    Attributes:
        window: How many deliveries may be unsettled.
        unsettled: How many were shown and are not settled.
        requested: How many messages the broker may still send without another request.
        overflow: What is here and does not fit, in the order in which it came.
    """

    __slots__ = ("overflow", "requested", "unsettled", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self.unsettled = 0
        self.requested = 0
        self.overflow: deque[D] = deque()

    @property
    def free(self) -> int:
        """Places that nothing is on its way to; negative after the window shrank."""
        return self.window - self.unsettled - self.requested - len(self.overflow)

    @property
    def has_room(self) -> bool:
        """Whether a delivery may be shown now."""
        return self.unsettled < self.window

    def refill(self, batch_max: int) -> Refill:
        """Whether to ask for the free places now, or to gather more for a moment.

        A request costs the broker and us the same for one message as for many. So one waits
        until half of the window is free, or as many places as one request can fill.
        """
        free = self.free
        if free <= 0:
            return Refill.NO
        return Refill.NOW if free * 2 >= self.window or free >= batch_max else Refill.LATER


@dataclass(frozen=True, slots=True)
class Limits:
    """How a consumer of one broker gathers and keeps back.

    Attributes:
        refill_s: How long freed places are gathered before they are asked for, in seconds.
        overflow_s: How long overflow waits for a place before it is given back, in seconds.
        batch_max: The most messages of one request.
    """

    refill_s: float
    overflow_s: float = OVERFLOW_S
    batch_max: int = 1 << 30


class Intake(Generic[D]):
    """Shows deliveries within the window, and asks for more.

    Attributes:
        prefetch: The counts; the consumer changes `requested`.
        paused: Nothing is asked for: the consumer is closed, or has no way to the broker now.
    """

    __slots__ = (
        "_ask",
        "_give_back",
        "_limits",
        "_log",
        "_loop",
        "_on_delivery",
        "_overflow_timer",
        "_queue",
        "_refill_timer",
        "_showing",
        "_warning",
        "paused",
        "prefetch",
    )

    def __init__(
        self,
        queue: str,
        log: logging.Logger,
        *,
        window: int,
        limits: Limits,
        on_delivery: Callable[[Delivery], None],
        give_back: Callable[[D], None],
        ask: Callable[[int], None],
    ) -> None:
        """Prepare, paused.

        Args:
            queue: Its name, for the log.
            log: The transport's logger.
            window: How many deliveries may be unsettled.
            limits: See there.
            on_delivery: The receiver.
            give_back: Returns a message that was never shown to the broker.
            ask: Requests this many messages from the broker; must count them as `requested`.
        """
        self.prefetch: Prefetch[D] = Prefetch(window)
        self.paused = True
        self._queue = queue
        self._log = log
        self._limits = limits
        self._on_delivery = on_delivery
        self._give_back = give_back
        self._ask = ask
        self._loop = asyncio.get_running_loop()
        self._showing = False
        self._overflow_timer: asyncio.TimerHandle | None = None
        self._refill_timer: asyncio.TimerHandle | None = None
        self._warning = ""

    def set_window(self, window: int) -> None:
        """Change the window; a smaller one takes effect at once, for what is on its way too."""
        if window < 0:
            raise ValueError(f"a window must be 0 or more, not {window}")
        self.prefetch.window = window
        self.show_overflow()
        self.refill()

    def receive(self, delivery: D) -> None:
        """A message came: show it, or keep it until there is a place."""
        prefetch = self.prefetch
        if prefetch.unsettled < prefetch.window and not prefetch.overflow:
            self._show(delivery)
            return
        prefetch.overflow.append(delivery)
        if self._overflow_timer is None:
            self._overflow_timer = self._loop.call_later(
                self._limits.overflow_s, self.return_overflow
            )

    def settled(self) -> None:
        """A delivery that was shown is settled: its place is free."""
        prefetch = self.prefetch
        prefetch.unsettled -= 1
        if prefetch.overflow:
            self.show_overflow()
        if not self.paused:
            self.refill()

    def refill(self) -> None:
        """Ask for free places, now or in a moment, unless paused."""
        if self.paused:
            return
        decision = self.prefetch.refill(self._limits.batch_max)
        if decision is Refill.NOW:
            self._ask(self.prefetch.free)
        elif decision is Refill.LATER and self._refill_timer is None:
            self._refill_timer = self._loop.call_later(self._limits.refill_s, self._refill_now)

    def show_overflow(self) -> None:
        """Show what waits here, as far as there are places."""
        prefetch = self.prefetch
        # A receiver may settle at once, and so come here again. The outer loop goes on then:
        # nested calls would be as deep as the overflow is long.
        if self._showing:
            return
        self._showing = True
        while prefetch.overflow and prefetch.has_room:
            self._show(prefetch.overflow.popleft())
        self._showing = False
        if not prefetch.overflow:
            self._stop_overflow_timer()

    def return_overflow(self) -> None:
        """Give everything back that waits here; the broker counts that as a delivery."""
        self._stop_overflow_timer()
        while self.prefetch.overflow:
            self._give_back(self.prefetch.overflow.popleft())
        self.refill()

    def lose(self) -> None:
        """The broker has taken back all that waits here and all that was requested."""
        self._stop_overflow_timer()
        self.prefetch.overflow.clear()
        self.prefetch.requested = 0

    def pause(self) -> None:
        """Ask for nothing until `paused` is cleared."""
        self.paused = True
        if self._refill_timer is not None:
            self._refill_timer.cancel()
            self._refill_timer = None

    def warn(self, text: str) -> None:
        """Log why nothing can be received; the same reason only once in a row."""
        if text != self._warning:
            self._warning = text
            self._log.warning("cannot receive from queue %s: %s; retrying", self._queue, text)

    def recovered(self) -> None:
        """Receiving works; log that if a warning said it did not."""
        if self._warning:
            self._warning = ""
            self._log.warning("receiving from queue %s again", self._queue)

    def _refill_now(self) -> None:
        self._refill_timer = None
        free = self.prefetch.free
        if free > 0 and not self.paused:
            self._ask(free)

    def _show(self, delivery: D) -> None:
        self.prefetch.unsettled += 1
        try:
            self._on_delivery(delivery)
        except Exception:
            self._log.exception(
                "the receiver of queue %s failed; requeued the message", self._queue
            )
            delivery.requeue()

    def _stop_overflow_timer(self) -> None:
        if self._overflow_timer is not None:
            self._overflow_timer.cancel()
            self._overflow_timer = None
