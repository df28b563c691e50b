"""Makes the processes of one actor's replicas, and keeps the books about them.

Every process is written into the record of children before anything else happens to it, so that the
next mesh finds it if this one is killed. `ReplicaSet` decides when to call this.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from asya.clock import Clock
from asya.local.leftovers import ChildRecord
from asya.local.logs import RotatingLog
from asya.local.process import Child, Launch, ReplicaProcess
from asya.local.template import Template

READ_REST_S: Final = 1.0
"""How long the last output of a replica is waited for when the mesh stops."""


class Spawner:
    """The way to a new replica of one actor.

    Args:
        actor: The actor's name.
        launch: How a replica is started.
        log: Where replicas print.
        record: Where children are written down.
        clock: For the times of log lines.
        template: Forks replicas where it can, or None.

    Attributes:
        launch: May be replaced; holds for processes that start from then on.
    """

    def __init__(
        self,
        actor: str,
        launch: Launch,
        log: RotatingLog,
        record: ChildRecord,
        *,
        clock: Clock,
        template: Template | None = None,
    ) -> None:
        self.launch = launch
        self._actor = actor
        self._log = log
        self._record = record
        self._clock = clock
        self._template = template
        self._unread: set[Child] = set()

    async def spawn(self, on_end: Callable[[Child], None], *, fork: bool) -> Child:
        """Start a replica; from the template where `fork` allows it and there is one.

        Raises:
            OSError: The program cannot be started.
        """
        child: Child | None = None
        if fork and self._template is not None:
            child = await self._template.fork(on_end)
        if child is None:
            child = await ReplicaProcess.spawn(self.launch, self._log, self._clock, on_end)
        self._record.add(child.pid, self._actor)
        return child

    def ended(self, child: Child) -> None:
        """A replica has ended; its last output may still be on the way."""
        self._record.remove(child.pid)
        self._unread = {each for each in self._unread if not each.closed.is_set()}
        if not child.closed.is_set():
            self._unread.add(child)

    def warm_template(self) -> None:
        """Have a template ready soon."""
        if self._template is not None:
            self._template.want(self.launch)

    def forget_template(self) -> None:
        """The code has changed: no more replicas of the template that runs."""
        if self._template is not None:
            self._template.forget()

    async def close(self) -> None:
        """End the template, read what replicas still print, close the log."""
        if self._template is not None:
            await self._template.stop()
        for child in self._unread:
            child.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(child.closed.wait(), READ_REST_S)
        self._log.close()
