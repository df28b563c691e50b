"""Keeps the embedded broker running, and says why it cannot take messages when it cannot.

A broker that ends by itself is restarted at once. If it keeps ending, restarts are further and
further apart. After a full disk the server stores nothing until it is restarted, so it is restarted
as soon as there is room again. The user gets one line when it is gone and one when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path
from typing import Final

from asya.codes import Code
from asya.errors import AsyaError
from asya.local.broker import RESERVE_BYTES, NatsServer
from asya.local.notices import (
    BrokerBack,
    BrokerGone,
    BrokerStartFailed,
    DiskFull,
    DiskHasRoom,
    Tell,
)

RESTART_FIRST_S: Final = 0.2
RESTART_MOST_S: Final = 5.0
"""Back-off between starts of a broker that does not stay up."""

STEADY_S: Final = 10.0
"""A broker that ran this long is restarted without a back-off the next time."""

DISK_EVERY_S: Final = 1.0
DISK_PROBLEM_EVERY_S: Final = 0.5
"""Time between two checks of the disk, and while something is wrong with it."""


class BrokerWatch:
    """The watch over one server, from `start` to `stop`."""

    def __init__(self, server: NatsServer, folder: Path, tell: Tell) -> None:
        self._server = server
        self._folder = folder
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._disk_task: asyncio.Task[None] | None = None
        self._restart_task: asyncio.Task[None] | None = None
        self._disk_problem: str | None = None
        self._up_since_s = self._loop.time()
        self._delay_s = 0.0

    def start(self) -> None:
        """Begin to watch a server that runs."""
        self._up_since_s = self._loop.time()
        self._server.on_exit = self._on_exit
        self._disk_task = self._loop.create_task(self._watch_disk())

    async def stop(self) -> None:
        """Stop watching; the server is left as it is."""
        self._server.on_exit = None
        for task in (self._disk_task, self._restart_task):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def problem(self) -> str | None:
        """Why the broker takes no messages now, or None."""
        if self._restart_task is not None:
            return f"the broker is gone and is being started again  [{Code.BROKER_GONE}]"
        return self._disk_problem

    def _on_exit(self, code: int) -> None:
        self._tell(BrokerGone(code))
        if self._restart_task is None:
            self._restart_task = self._loop.create_task(self._restart())

    async def _restart(self) -> None:
        gone_s = self._loop.time()
        if gone_s - self._up_since_s > STEADY_S:
            self._delay_s = 0.0
        told = False
        while True:
            await asyncio.sleep(self._delay_s)
            self._delay_s = min(RESTART_MOST_S, max(RESTART_FIRST_S, self._delay_s * 2))
            try:
                await self._server.start()
                break
            except (AsyaError, OSError) as error:
                if not told:
                    self._tell(BrokerStartFailed(error))
                told = True
        self._up_since_s = self._loop.time()
        self._restart_task = None
        self._tell(BrokerBack(self._loop.time() - gone_s))

    async def _watch_disk(self) -> None:
        while True:
            problem = self._server.disk_problem()
            if problem is not None and self._disk_problem is None:
                self._tell(DiskFull(problem))
            if problem is None and self._disk_problem is not None:
                self._tell(DiskHasRoom())
            self._disk_problem = problem
            if problem is not None and self._restart_task is None and self._has_room():
                await self._restart_after_full_disk()
                continue
            await asyncio.sleep(DISK_EVERY_S if problem is None else DISK_PROBLEM_EVERY_S)

    def _has_room(self) -> bool:
        try:
            return shutil.disk_usage(self._folder).free >= RESERVE_BYTES
        except OSError:
            return False

    async def _restart_after_full_disk(self) -> None:
        try:
            await self._server.restart()
        except (AsyaError, OSError) as error:
            self._tell(BrokerStartFailed(error, disk_was_full=True))
            await asyncio.sleep(RESTART_MOST_S)
