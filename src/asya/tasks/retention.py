"""Forgets tasks and payloads of hops that have been kept for long enough."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Final

from asya.clock import to_rfc3339
from asya.tasks.store.base import Store

EVERY_S: Final = 60.0
"""Seconds between two runs."""

TASKS_STEP: Final = 200
PAYLOADS_STEP: Final = 1_000
"""Tasks and payloads that one transaction forgets; between two of them others can write."""

PAUSE_S: Final = 0.01
"""Seconds between two transactions."""


class Retention:
    """The chore (see `asya.chores`).

    Args:
        store: Where tasks and payloads are.
        tasks_s: How long a task is kept after its end, in seconds.
        payloads_s: How long a payload is kept, in seconds.
    """

    def __init__(self, store: Store, tasks_s: float, payloads_s: float) -> None:
        self.woken = asyncio.Event()
        self._store = store
        self._tasks_s = tasks_s
        self._payloads_s = payloads_s

    async def run_once(self, now: datetime) -> float:
        """Forget what is too old, in steps; see `asya.chores.Chore`."""
        before = to_rfc3339(now - timedelta(seconds=self._tasks_s))
        while await self._store.tasks.sweep(before, TASKS_STEP) == TASKS_STEP:
            await asyncio.sleep(PAUSE_S)
        before = to_rfc3339(now - timedelta(seconds=self._payloads_s))
        while await self._store.events.forget_payloads(before, PAYLOADS_STEP) == PAYLOADS_STEP:
            await asyncio.sleep(PAUSE_S)
        return EVERY_S
