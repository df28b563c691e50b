"""The ids that were canceled, known to every sidecar of this process.

Bounded: the oldest are forgotten first. An envelope that outlives its entry still ends canceled,
since the task store keeps the first terminal state.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

log = logging.getLogger(__name__)

CANCELS_MAX: Final = 100_000


class Cancels:
    """A set of canceled ids, with listeners."""

    def __init__(self, most: int = CANCELS_MAX) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._most = most
        self._listeners: list[Callable[[frozenset[str]], None]] = []

    def add(self, ids: Iterable[str]) -> None:
        """Take note of canceled ids, and tell the listeners."""
        fresh = frozenset(ids)
        for one in fresh:
            self._ids[one] = None
            self._ids.move_to_end(one)
        while len(self._ids) > self._most:
            self._ids.popitem(last=False)
        for listener in self._listeners:
            try:
                listener(fresh)
            except Exception:
                # the others must be told all the same
                log.exception("a sidecar could not be told of canceled envelopes")

    def is_canceled(self, envelope_id: str, root: str) -> bool:
        """Whether the envelope, or the root that it came from, was canceled."""
        return envelope_id in self._ids or root in self._ids

    @property
    def any(self) -> bool:
        """Whether anything was canceled at all."""
        return bool(self._ids)

    def subscribe(self, listener: Callable[[frozenset[str]], None]) -> None:
        """Call `listener` with each new set of canceled ids."""
        self._listeners.append(listener)
