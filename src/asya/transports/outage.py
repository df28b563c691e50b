"""Whether a broker can be reached, with two log lines per outage: lost, and connected again.

Called by the connections. They find out themselves; this keeps the state, the time and the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable


def nothing() -> None:
    """What a callback does that nobody has set."""


class Outage:
    """The state of one connection.

    Attributes:
        broker: The broker and its address, without credentials, such as `NATS at localhost:4222`.
        up: Whether the broker can be reached, as far as is known.
        reason: Why it was lost; empty while it is up.
        lost_at: When it was lost last, on the loop's clock.
        on_down: Called when it is lost.
        on_up: Called when it is back, never for the first connection.
    """

    __slots__ = (
        "_is_up",
        "_log",
        "_told",
        "broker",
        "lost_at",
        "on_down",
        "on_up",
        "reason",
        "up",
    )

    def __init__(self, broker: str, log: logging.Logger) -> None:
        """Prepare; the broker counts as down until `established`."""
        self.broker = broker
        self._log = log
        self.on_down: Callable[[], None] = nothing
        self.on_up: Callable[[], None] = nothing
        self.up = False
        self.reason = ""
        self.lost_at = float("-inf")
        self._told = False
        self._is_up = asyncio.Event()

    def established(self) -> None:
        """The first connection stands. Logs nothing."""
        self.up = True
        self._is_up.set()

    def lost(self, reason: str, *, tell: bool = True) -> bool:
        """The connection is gone; False if that was known.

        Args:
            reason: Why, for people.
            tell: Log it now. Without, `tell` logs it once more is known.
        """
        if not self.up:
            return False
        self.up = False
        self._is_up.clear()
        self.reason = reason
        self.lost_at = asyncio.get_running_loop().time()
        self._told = False
        if tell:
            self.tell(reason)
        self.on_down()
        return True

    def tell(self, reason: str) -> None:
        """Log the outage, once, and remember the newest reason."""
        self.reason = reason
        if not self._told:
            self._told = True
            self._log.warning(
                "lost the connection to %s (%s); reconnecting until it is back", self.broker, reason
            )

    def over(self) -> None:
        """The connection stands again. Logs how long the outage took."""
        if self.up:
            return
        self.established()
        self.reason = ""
        duration_s = asyncio.get_running_loop().time() - self.lost_at
        self._log.warning("connected to %s again after %.1f s", self.broker, duration_s)
        self.on_up()

    async def wait(self, timeout_s: float) -> bool:
        """Wait until the broker can be reached; False when the time ran out before."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._is_up.wait()
        return self.up
