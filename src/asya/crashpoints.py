"""Named places at which a test can make a process die, as a kill -9 would.

Off unless `arm` is called: `asya.testing` does, and the mesh's process does where
`ASYA_TEST_CRASH=NAME[:N]` is set (the N-th time the place is reached). A place is one dictionary
look-up when nothing is armed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

POINTS: Final = ("before-publish", "after-publish", "before-ack", "after-store", "before-unshelve")

_armed: dict[str, Callable[[], None]] = {}


def crash(point: str) -> None:
    """Pass the place `point`."""
    if _armed and point in _armed:
        _armed[point]()


def arm(point: str, action: Callable[[], None], *, after: int = 1) -> None:
    """Call `action` when `point` is passed for the `after`-th time.

    Raises:
        ValueError: There is no such point.
    """
    if point not in POINTS:
        raise ValueError(f"no crash point {point!r}; there are {', '.join(POINTS)}")
    left = after

    def pass_by() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            action()

    _armed[point] = pass_by


def disarm() -> None:
    """Make all points harmless again."""
    _armed.clear()


def arm_from(setting: str) -> None:
    """Arm a point from a text `NAME[:N]`: the process gets SIGKILL there."""
    import os
    import signal

    name, _, count = setting.partition(":")
    arm(name, lambda: os.kill(os.getpid(), signal.SIGKILL), after=int(count or 1))
