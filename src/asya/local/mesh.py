"""The mesh on one machine: what is started in which order, and stopped in which.

Started: lock, port, broker, transport, task service, crew, sidecars, autoscaler, gateway. A step
that fails takes down what was started before it. Stopped: the gateway refuses new work, nothing is
scaled any more, the sidecars finish what runs within the grace time, replicas end, then the parts
in reverse. Everything that was accepted is in the broker or in the task store at any moment. So
`kill`, and a kill -9, lose nothing either, and the next `start` goes on with it.

`mesh_plan` decides what runs, and `composition` makes the parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from asya.blobs.claims import Claims
from asya.clock import Clock, SystemClock, to_rfc3339
from asya.errors import TransportError
from asya.gateway.server import bind
from asya.local import run_file
from asya.local.actor import ScaledActor
from asya.local.autoscaler import Autoscaler
from asya.local.blobs import open_claims
from asya.local.composition import Composition, Site, open_log
from asya.local.leftovers import end_leftovers
from asya.local.lock import FolderLock
from asya.local.logs import LogHandler
from asya.local.memory import return_big_buffers
from asya.local.mesh_plan import plan_mesh
from asya.local.notices import (
    FinishingWork,
    LeftoverEnded,
    Notice,
    RunFileFailed,
    RunFileTaken,
    line,
)
from asya.local.process import Launch
from asya.local.run_file import RunFile
from asya.local.sockets import make_private, socket_folder
from asya.transports.base import Transport
from asya.transports.delayed import DelayingTransport

if TYPE_CHECKING:
    from asya.local.reload import Reloading
    from asya.manifest import Manifests
    from asya.settings import Settings
    from asya.tasks.mesh import FlowSpec
    from asya.tasks.service import TaskService
    from asya.tasks.store.sqlite.store import SqliteStore

log = logging.getLogger(__name__)

MESH_LOG: Final = "x-mesh"
"""The log of the mesh itself, beside those of the actors."""

BYE_WAIT_S: Final = 2.0
"""How long a replica may take from its `bye` to its end, when the mesh stops."""


class LocalMesh:
    """One mesh. `start`, then `stop`, which `kill` cuts short; not used again.

    Args:
        manifests: What runs.
        settings: How.
        folder: The project's folder: of `.asya/mesh.json` and of `.env`.
        environ: The environment that replicas inherit.
        say: Shows the user one line.
        clock: The wall clock.
        reloading: Replace replicas whose code changes on the disk, or None.

    Attributes:
        url: Where the gateway is; empty before `start`.

    Raises:
        UsageError: The manifests or the settings cannot be used.
    """

    def __init__(
        self,
        manifests: Manifests,
        settings: Settings,
        *,
        folder: Path,
        environ: Mapping[str, str],
        say: Callable[[str], None],
        clock: Clock | None = None,
        reloading: Reloading | None = None,
    ) -> None:
        data = settings.data.absolute()
        self.url = ""
        self._say = say
        self._manifests = manifests
        self._reloading = reloading
        self._plan = plan_mesh(manifests, settings)
        self._site = Site(
            settings,
            folder.absolute(),
            data,
            dict(environ),
            clock or SystemClock(),
            open_log(settings, data, MESH_LOG, actor=""),
            self.tell,
            tells_files=reloading is not None,
        )
        self._parts = Composition(self._site, self._plan, manifests)
        self._stack = contextlib.AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()
        self._phase: Literal["starting", "ready", "stopping"] = "starting"

    @property
    def data(self) -> Path:
        """The data folder."""
        return self._site.data

    @property
    def actors(self) -> Mapping[str, ScaledActor]:
        """The actors that run, by name; filled while the mesh starts."""
        return self._parts.actors

    @property
    def brokers(self) -> list[str]:
        """The brokers in use, for people; empty if there is only the one that is started here."""
        return self._parts.transports.shown()

    @property
    def flows(self) -> Mapping[str, FlowSpec]:
        """The flows that clients may call."""
        return self._plan.flows

    # -- start ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bring everything up; returns when the gateway takes envelopes and every queue stands.

        Raises:
            UsageError: The folder, the port, a secret or a limit cannot be used; nothing runs.
            TransportUnavailable: The broker does not come up, or does not answer.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        parts, settings = self._parts, self._site.settings
        launches = parts.launches()
        listening = await self._claim_machine()
        await self._start_broker()
        transports = parts.transports
        store, transport = await self._connect()
        mesh = parts.make_client(transport, self.problem)
        claims = await open_claims(
            settings, self.data, self._manifests.actors, transports.message_max_bytes
        )
        self._stack.push_async_callback(claims.store.close)
        service = parts.make_service(store, mesh, claims)
        self._stack.push_async_callback(service.close)
        await service.start()
        await parts.recall_cancels(service)
        await transport.start()
        self._stack.push_async_callback(transport.stop)
        gateway = parts.make_gateway(service, mesh, listening)
        self._stack.push_async_callback(gateway.stop)
        await self._start_actors(transport, service, launches, claims)
        if self._reloading is not None:
            reloader = parts.make_reloader(self._reloading, service, mesh)
            await reloader.start()
            self._stack.push_async_callback(reloader.stop)
        await gateway.start()
        self.url = gateway.url
        self._write_run_files()
        self._phase = "ready"
        self._in_background(transports.inspect_foreign_queues(self._plan.transports))

    async def _claim_machine(self) -> socket.socket:
        """Lock the data folder and bind the port, before anything else can be in somebody's way."""
        settings = self._site.settings
        lock = FolderLock(self.data)
        lock.acquire()
        self._stack.callback(lock.release)
        return_big_buffers()
        self._stack.callback(self._site.log.close)
        listening = bind(settings.host, settings.port)
        self._stack.callback(listening.close)
        await self._parts.telemetry.start(self._stack, self.tell)
        make_private(socket_folder(self.data))
        return listening

    async def _start_broker(self) -> None:
        """Start the broker while replicas that a killed mesh left behind are ended."""
        children = self._parts.children
        _, left = await asyncio.gather(
            self._parts.transports.start(self._stack),
            asyncio.to_thread(end_leftovers, children.read()),
        )
        for child in left:
            self.tell(LeftoverEnded(child.name, child.pid))
        children.clear()
        self._stack.callback(children.clear)

    async def _connect(self) -> tuple[SqliteStore, DelayingTransport]:
        from asya.tasks.store.sqlite.store import SqliteStore

        store = SqliteStore(self.data / "tasks.db", payloads_max=self._site.settings.capture_count)
        transport = self._parts.transports.with_delayed_messages(store.delayed)
        await transport.connect()
        self._stack.push_async_callback(transport.close)
        await self._parts.transports.ensure_queues()
        return store, transport

    async def _start_actors(
        self,
        transport: Transport,
        service: TaskService,
        launches: Mapping[str, Launch],
        claims: Claims,
    ) -> None:
        parts = self._parts
        parts.telemetry.add_gauges(
            transport,
            self.actors,
            problem=self.problem,
            dropped=lambda: service.events_dropped,
        )
        ends = parts.make_ends(service.ledger)
        for consumer in parts.make_end_consumers(transport, ends):
            self._stack.push_async_callback(consumer.close, BYE_WAIT_S)
            await consumer.start()
        for name, plan in self._plan.actors.items():
            parts.make_actor(plan, launches[name], transport, service, ends=ends, claims=claims)
        self._stack.push_async_callback(self._drain)
        sockets = {name: Path(each.environment["ASYA_SOCKET"]) for name, each in launches.items()}
        await asyncio.gather(
            *(each.sidecar.start(sockets[name]) for name, each in self.actors.items())
        )
        autoscaler = Autoscaler(transport, list(self.actors.values()))
        autoscaler.start()
        self._stack.push_async_callback(autoscaler.stop)

    def _write_run_files(self) -> None:
        here = RunFile(
            pid=os.getpid(),
            url=self.url,
            started_at=to_rfc3339(self._site.clock.now()),
            data=str(self.data),
            logs=str(self._site.logs),
            actors=list(self.actors),
        )
        # Commands look into the folder they are called in: most likely the one we were called in.
        for folder in {self.data, self._site.folder / ".asya", Path.cwd() / ".asya"}:
            path = folder / run_file.FILE
            try:
                if not here.place(path):
                    self.tell(RunFileTaken(path, self.url))
            except OSError as error:
                self.tell(RunFileFailed(error))
            self._stack.callback(here.remove, path)

    # -- while it runs ----------------------------------------------------------------------------

    def tell(self, notice: Notice) -> None:
        """Show the user one line, and write it into the mesh's own log."""
        self._site.log.write_lines(
            to_rfc3339(self._site.clock.now()),
            os.getpid(),
            notice.text.encode("utf-8", "backslashreplace"),
            level="INFO",
            actor=notice.about,
        )
        self._say(line(notice))

    def log_handler(self) -> logging.Handler:
        """A handler that sends what Python's logging is given to the mesh's own log."""
        return LogHandler(self._site.log)

    def problem(self) -> str | None:
        """Why no envelope can be taken now, for people, or None when all is well."""
        if self._phase == "stopping":
            return "the mesh is stopping"
        if self._phase == "starting":
            return "the mesh is starting"
        return self._parts.transports.problem()

    def _in_background(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._background_ended)

    def _background_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(task.exception(), TransportError):
            log.warning("%s", task.exception())

    # -- stop -------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Stop in order. Takes the grace time and a few seconds at most; nothing is left running."""
        self._phase = "stopping"
        for task in list(self._tasks):
            task.cancel()
        await self._stack.aclose()

    def kill(self) -> None:
        """Let a `stop` under way wait for no handler: what runs goes back to its queue now."""
        for actor in self.actors.values():
            actor.replicas.begin_stop()
            # Through the sidecar: a replica that was simply killed would count as a crash, for
            # which its envelope is suspected.
            self._in_background(actor.sidecar.drain(0.0))

    async def _drain(self) -> None:
        grace_s = self._site.settings.grace_s
        actors = self.actors.values()
        # First of all: a replica that ends from here on must not be replaced.
        for each in actors:
            each.replicas.begin_stop()
        busy = sum(each.sidecar.snapshot().in_flight for each in actors)
        if busy:
            self.tell(FinishingWork(busy, grace_s))
        await asyncio.gather(*(each.sidecar.drain(grace_s) for each in actors))
        await asyncio.gather(*(each.replicas.stop(BYE_WAIT_S) for each in actors))
