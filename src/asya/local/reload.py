"""`asya up --reload`: replaces replicas when their code or their manifest changes on the disk.

A change concerns an actor if its replicas have imported the file from the manifest's folder, or if it
is the manifest. Replicas tell which files they have imported. As long as an actor has not told, or if
its last change could not be loaded, every Python file of its folder concerns it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from asya.errors import AsyaError
from asya.local.actor import ScaledActor
from asya.local.mesh_plan import changes
from asya.local.notices import (
    FilesChanged,
    ManifestChanged,
    ManifestsUnusable,
    Notice,
    RestartNeeded,
    Tell,
)
from asya.local.replay import Replay
from asya.local.source_watch import SourceWatch, drop_bytecode

if TYPE_CHECKING:
    from asya.manifest import AsyncActor, Manifests

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reloading:
    """How a mesh reloads.

    Attributes:
        read: Reads the manifests again.
        replay: Run the actor's last envelope again.
    """

    read: Callable[[], Manifests]
    replay: bool = False


class Reloader:
    """The task that watches files.

    Args:
        actors: What runs, by name.
        manifests: By which it runs.
        read: Reads the manifests again.
        refit: Lets the replicas that start from now on be as a changed manifest has it; raises
            UsageError where that cannot be.
        replay: Replays envelopes, or None.
        ignore: Folders that are not watched.
        tell: Tells the user.
    """

    def __init__(
        self,
        actors: Mapping[str, ScaledActor],
        manifests: Manifests,
        *,
        read: Callable[[], Manifests],
        refit: Callable[[AsyncActor], None],
        replay: Replay | None,
        ignore: frozenset[Path],
        tell: Tell,
    ) -> None:
        self._actors = actors
        self._running = manifests
        self._taken_over: dict[str, AsyncActor] = {}
        self._read = read
        self._refit = refit
        self._replay = replay
        self._tell = tell
        self._folders = {each.name: each.folder for each in manifests.actors}
        self._imported: dict[str, set[str]] = {}
        self._warning: Notice | None = None
        self._watch = SourceWatch([*self._folders.values()], ignore)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Watch from now on."""
        for name, actor in self._actors.items():
            actor.sidecar.on_files = partial(self._told, name)
            if self._replay is not None:
                actor.sidecar.on_body = self._replay.keeper(name)
                actor.replicas.on_renewed = partial(self._replay.run, name)
        await self._watch.begin()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._replay is not None:
            await self._replay.stop()

    def _told(self, name: str, files: list[str]) -> None:
        self._imported.setdefault(name, set()).update(files)

    async def _run(self) -> None:
        while True:
            changed = await self._watch.changes()
            try:
                await asyncio.to_thread(drop_bytecode, changed)
                refitted = set()
                if any(not path.endswith(".py") for path in changed):
                    refitted = await self._read_manifests()
                for name in self._actors:
                    self._renew(name, self._touching(name, changed), refitted)
            except Exception:
                log.exception("reload")

    def _touching(self, name: str, changed: set[str]) -> list[str]:
        """The changed files that matter to an actor."""
        below = f"{self._folders[name]}/"
        near = [path for path in changed if path.endswith(".py") and path.startswith(below)]
        replicas = self._actors[name].replicas
        if replicas.plan.new_code_problem is not None or (
            name not in self._imported and replicas.plan.alive
        ):
            return near
        return [path for path in near if path in self._imported.get(name, ())]

    def _renew(self, name: str, files: list[str], refitted: set[str]) -> None:
        if not files and name not in refitted:
            return
        replicas = self._actors[name].replicas
        if files:
            folder = self._folders[name]
            named = [str(Path(path).relative_to(folder)) for path in files]
            self._tell(FilesChanged(name, named))
        ready = replicas.plan.pids("ready")
        replicas.renew()
        if not ready and self._replay is not None and name in self._imported:
            # No replica runs that could be replaced. The replay starts one, with the new code.
            self._replay.run(name)

    async def _read_manifests(self) -> set[str]:
        """Take over what changed in the manifests; gives the actors that are to be replaced."""
        try:
            found = await asyncio.to_thread(self._read)
        except AsyaError as error:
            self._warn(ManifestsUnusable(str(error)))
            return set()
        changed = changes(self._running, found, self._taken_over)
        refitted = set()
        for actor in changed.actors:
            try:
                self._refit(actor)
            except AsyaError as error:
                self._warn(ManifestsUnusable(str(error), whole=False))
                continue
            self._taken_over[actor.name] = actor
            self._tell(ManifestChanged(actor.name))
            refitted.add(actor.name)
        self._warn(RestartNeeded(changed.restart) if changed.restart else None)
        return refitted

    def _warn(self, warning: Notice | None) -> None:
        """Tell what cannot be done; the same is told once."""
        if warning is not None and warning != self._warning:
            self._tell(warning)
        self._warning = warning
