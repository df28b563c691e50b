"""The mesh on one machine, put together: what is started in which order, and ended in which.

Started: lock, port, broker, transport, task service, crew, sidecars, autoscaler, gateway. A step
that fails takes down what was started before it. Stopped: the gateway refuses new work, nothing is
scaled any more, the sidecars finish what runs within the grace time, replicas end, then the parts
in reverse. Everything that was accepted is in the broker or in the task store at any moment, so
`kill` (and a kill -9) loses nothing either; the next `start` goes on with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asya.blobs.claims import no_claims
from asya.clock import Clock, SystemClock, to_rfc3339
from asya.codes import Code
from asya.crew import EndConsumer, Sink, Sump
from asya.envelope import SINK, SUMP
from asya.errors import TransportError, UsageError
from asya.gateway.server import HttpServer, bind
from asya.local import run_file as announcement
from asya.local.autoscaler import Autoscaler, ScaledActor
from asya.local.blobs import open_claims
from asya.local.capturing import capture_of, capturing
from asya.local.launch import launch_of
from asya.local.leftovers import ChildRecord, end_leftovers
from asya.local.lock import FolderLock
from asya.local.log_lines import Form
from asya.local.logs import LogHandler, RotatingLog
from asya.local.memory import return_big_buffers
from asya.local.mesh_client import LocalPort
from asya.local.notices import (
    FinishingWork,
    LeftoverEnded,
    Notice,
    RunFileFailed,
    RunFileTaken,
    line,
)
from asya.local.observation import Observation
from asya.local.process import Launch
from asya.local.replicas import ReplicaSet
from asya.local.run_file import Announcement
from asya.local.schedules import schedule_specs
from asya.local.spawner import Spawner
from asya.local.template import Template
from asya.local.transports import LocalTransports, check_addresses, transport_of
from asya.scaling import Bounds
from asya.sidecar import Cancels, Sidecar, SidecarConfig
from asya.sidecar.sidecar import EndActor
from asya.tasks.mesh import FlowSpec, Idempotency
from asya.transports.base import Transport

if TYPE_CHECKING:
    from asya.local.reload import Reloading
    from asya.manifest import AsyncActor, Manifests
    from asya.settings import Settings
    from asya.tasks.schedule import ScheduleSpec
    from asya.tasks.service import TaskService
    from asya.tasks.store.sqlite.store import SqliteStore

log = logging.getLogger(__name__)

MESH_LOG: Final = "x-mesh"
"""The log of the mesh itself, beside those of the actors."""

SOCKET_PATH_MAX: Final = 100
"""Bytes of the path of a Unix socket; the kernel's limit is 104 or 108."""

BYE_WAIT_S: Final = 2.0
"""How long a replica may take from its `bye` to its end, when the mesh stops."""


class LocalMesh:
    """One mesh. `start`, then `stop`, which `kill` cuts short; not used again.

    Args:
        manifests: What runs.
        settings: How.
        folder: The project's folder: of `.asya/mesh.json` and of `.env`.
        environ: The environment that replicas inherit.
        say: Tells the user one line.
        clock: The wall clock.
        reloading: Replace replicas whose code changes on the disk, or None.
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
        self._reloading = reloading
        self.url = ""
        self.data = settings.data.absolute()
        self.actors: dict[str, ScaledActor] = {}
        self._manifests = manifests
        self._settings = settings
        self._folder = folder.absolute()
        # shared by all actors, as texts and as a set: each that made its own would hold all names
        self._environ = dict(environ)
        self._neighbours = frozenset(each.name for each in manifests.actors)
        self._say = say
        self._clock = clock or SystemClock()
        self._cancels = Cancels()
        self._token = secrets.token_hex(8)  # tells our replicas from those of a killed run
        self._claims = no_claims()
        self._children = ChildRecord(self.data / "children.jsonl")
        self._log = self._make_log(MESH_LOG, actor="")
        self._observation = Observation(settings, environ, self._log, self._clock)
        self._stack = contextlib.AsyncExitStack()
        self._transports = LocalTransports(
            manifests.actors, settings, self.data, tell=self.tell, clock=self._clock
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._schedules: list[ScheduleSpec] = []
        self._stopping = False
        self._ready = False

    @property
    def logs(self) -> Path:
        """The folder of the logs, `<actor>.log`."""
        return self.data / "logs"

    @property
    def brokers(self) -> list[str]:
        """The brokers in use, for people; empty where there is only the one that is started here."""
        return self._transports.shown()

    @property
    def flows(self) -> dict[str, FlowSpec]:
        """The flows that clients may call."""
        return {
            flow.name: FlowSpec(
                name=flow.name,
                route=tuple(flow.route),
                description=flow.description,
                input_schema=flow.input_schema,
                timeout_s=flow.timeout_s,
                idempotency=Idempotency(flow.spec.idempotency.policy, flow.spec.idempotency.life),
            )
            for flow in self._manifests.flows
            if flow.expose.http
        }

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
        from asya.tasks.store.sqlite.store import SqliteStore

        self._check()
        launches = self._launches()
        lock = FolderLock(self.data)
        lock.acquire()
        self._stack.callback(lock.release)
        return_big_buffers()
        self._stack.callback(self._log.close)
        listening = bind(self._settings.host, self._settings.port)
        self._stack.callback(listening.close)
        await self._observation.start(self._stack, self.tell)
        _make_private(_socket_folder(self.data))
        transports = self._transports
        _, left = await asyncio.gather(
            transports.start(self._stack),
            asyncio.to_thread(end_leftovers, self._children.read()),
        )
        for child in left:
            self.tell(LeftoverEnded(child.name, child.pid))
        self._children.clear()
        self._stack.callback(self._children.clear)
        store = SqliteStore(self.data / "tasks.db", payloads_max=self._settings.capture_count)
        transport = transports.with_delayed_messages(store.delayed)
        await transport.connect()
        self._stack.push_async_callback(transport.close)
        await transports.ensure_queues()
        port = LocalPort(
            self._settings.namespace,
            transport,
            flows=self.flows,
            actors=self.actors,
            cancels=self._cancels,
            problem=self.problem,
        )
        self._claims = await open_claims(
            self._settings,
            self.data,
            self._manifests.actors,
            transports.message_max_bytes,
        )
        self._stack.push_async_callback(self._claims.store.close)
        service = await self._start_service(store, port)
        await transport.start()
        self._stack.push_async_callback(transport.stop)
        web = self._make_web(service, port, listening)
        await self._start_actors(transport, service, launches)
        await self._start_reloading(service, port)
        await web.start()
        self.url = web.url
        self._announce()
        self._ready = True
        self._in_background(transports.look_for_strange_queues(self._known_transports()))

    def _check(self) -> None:
        strange = [
            f"{actor.source.file}:{actor.source.line}: actor {actor.name} is in the namespace "
            f"{actor.namespace}; this mesh runs {self._settings.namespace}, set ASYA_NAMESPACE or "
            "`namespace` in asya.yaml to run the other"
            for actor in self._manifests.actors
            if actor.namespace != self._settings.namespace
        ]
        if strange:
            raise UsageError("\n".join(strange), code=Code.NAMESPACE_FOREIGN)
        check_addresses(self._manifests.actors, self._settings)
        capturing(self._settings)
        self._schedules = schedule_specs(self._manifests, self._settings.namespace)

    def _launches(self) -> dict[str, Launch]:
        problems = []
        launches = {}
        sockets = _socket_folder(self.data)
        for number, actor in enumerate(self._manifests.actors):
            try:
                launches[actor.name] = self._launch(actor, sockets / f"{number}.sock")
            except UsageError as error:
                problems.append(error)
        if problems:
            raise UsageError("\n".join(map(str, problems)), code=problems[0].code)
        return launches

    def _launch(self, actor: AsyncActor, socket_path: Path) -> Launch:
        launch = launch_of(actor, self._environ, self._folder, socket=socket_path)
        launch = replace(launch, environment={**launch.environment, "ASYA_TOKEN": self._token})
        if self._reloading is None:
            return launch
        return replace(launch, environment={**launch.environment, "ASYA_FILES": "1"})

    def _known_transports(self) -> dict[str, str]:
        return {actor.name: transport_of(actor, self._settings) for actor in self._manifests.actors}

    async def _start_service(self, store: SqliteStore, port: LocalPort) -> TaskService:
        from asya.tasks.blob_retention import BlobCare
        from asya.tasks.service import ServiceLimits, TaskService

        settings = self._settings
        limits = ServiceLimits(
            payload_max_bytes=settings.payload_max_bytes,
            queue_max=settings.queue_max,
            retention_s=settings.retention_s,
        )
        service = TaskService(
            store,
            port,
            self._clock,
            limits,
            schedules=self._schedules,
            capturing=capturing(settings),
            claims=self._claims,
        )
        self._stack.push_async_callback(service.close)
        service.schedules.trace_headers = self._observation.spans.schedule
        await service.start()
        care = BlobCare(self._claims.store, store, self._clock, settings.blobs_kept_s)
        self._stack.push_async_callback(care.stop)
        care.start()
        self._cancels.add(await service.canceled_recently())
        return service

    def _make_web(
        self, service: TaskService, port: LocalPort, listening: socket.socket
    ) -> HttpServer:
        from asya.gateway.app import make_app

        web = HttpServer(
            make_app(
                service, port, self._settings, self._observation.metrics, self._observation.spans
            ),
            self._settings.host,
            self._settings.port,
            bound=listening,
            on_stop=service.release,
        )
        self._stack.push_async_callback(web.stop)
        return web

    async def _start_actors(
        self, transport: Transport, service: TaskService, launches: Mapping[str, Launch]
    ) -> None:
        observation = self._observation
        observation.watch(transport, self.actors, service, self.problem)
        listener, ledger = observation.listener(service), observation.ledger(service)
        sump = Sump(ledger)
        ends: dict[str, EndActor] = {SINK: Sink(ledger, sump), SUMP: sump}
        consumed = [(name, transport, end) for name, end in ends.items()]
        # A broker puts what it gives up on into the dead letters' queue of its own.
        consumed += [(SUMP, other, sump) for other in self._transports.others.values()]
        for name, where, end in consumed:
            consumer = EndConsumer(name, self._settings.namespace, where, end, sump, self._clock)
            self._stack.push_async_callback(consumer.close, BYE_WAIT_S)
            await consumer.start()
        for actor in self._manifests.actors:
            log = self._make_log(actor.name, actor=actor.name)
            replicas = self._make_replicas(actor.name, launches[actor.name], log)
            sidecar = Sidecar(
                self._config(actor),
                transport,
                listener=listener,
                ends=ends,
                cancels=self._cancels,
                clock=self._clock,
                kill=replicas.kill,
                claims=self._claims,
            )
            sidecar.on_load_failure = replicas.load_failed
            replicas.drain = sidecar.finish_off
            observation.add_actor(actor.name, sidecar, log)
            self.actors[actor.name] = ScaledActor(sidecar, replicas, self._bounds(actor))
        self._stack.push_async_callback(self._drain)
        sockets = {name: Path(each.environment["ASYA_SOCKET"]) for name, each in launches.items()}
        await asyncio.gather(
            *(each.sidecar.start(sockets[name]) for name, each in self.actors.items())
        )
        autoscaler = Autoscaler(transport, list(self.actors.values()))
        autoscaler.start()
        self._stack.push_async_callback(autoscaler.stop)

    def _config(self, actor: AsyncActor) -> SidecarConfig:
        return SidecarConfig(
            actor.name,
            namespace=self._settings.namespace,
            resiliency=actor.resiliency(),
            concurrency=actor.spec.concurrency,
            payload_max_bytes=self._settings.payload_max_bytes,
            capture=capture_of(actor, self._settings),
            neighbours=self._neighbours,
            token=self._token,
            ahead=0 if self._transports.tells_load(actor.name) else 1,
        )

    async def _start_reloading(self, service: TaskService, port: LocalPort) -> None:
        if self._reloading is None:
            return
        from asya.local.reload import Reloader
        from asya.local.replay import Replay

        asked = self._reloading
        reloader = Reloader(
            self.actors,
            self._manifests,
            read=asked.read,
            refit=self._refit,
            replay=Replay(service, port, self._clock, self.tell) if asked.replay else None,
            ignore=frozenset({self.data}),
            tell=self.tell,
        )
        await reloader.start()
        self._stack.push_async_callback(reloader.stop)

    def _refit(self, actor: AsyncActor) -> None:
        """Let an actor that runs go by a changed manifest, from its next replicas on.

        Raises:
            UsageError: It cannot; nothing has changed.
        """
        scaled = self.actors[actor.name]
        asked = transport_of(actor, self._settings)
        if asked != (runs := self._known_transports()[actor.name]):
            raise UsageError(
                f"{actor.source.file}:{actor.source.line}: actor {actor.name} runs on {runs}; start "
                f"the mesh anew to have it on {asked}",
                code=Code.FIELDS_CONTRADICT,
            )
        socket_path = Path(scaled.replicas.spawner.launch.environment["ASYA_SOCKET"])
        scaled.replicas.spawner.launch = self._launch(actor, socket_path)
        scaled.refit(self._config(actor), self._bounds(actor))

    def _make_replicas(self, name: str, launch: Launch, log: RotatingLog) -> ReplicaSet:
        template = Template(name, log, self._children, self._clock, self._settings.template_idle_s)
        return ReplicaSet(
            name,
            Spawner(name, launch, log, self._children, clock=self._clock, template=template),
            tell=self.tell,
            done=lambda: self.actors[name].sidecar.snapshot().succeeded,
            ignore=frozenset({self.data}),
        )

    def _bounds(self, actor: AsyncActor) -> Bounds:
        scaling = actor.spec.scaling
        if not scaling.enabled:
            return Bounds.fixed(actor.spec.replicas)
        return Bounds(
            minimum=scaling.min_replica_count,
            maximum=scaling.max_replica_count,
            queue_length=scaling.queue_length,
            cooldown_s=min(float(scaling.cooldown_period), self._settings.cooldown_s),
        )

    def _announce(self) -> None:
        here = Announcement(
            pid=os.getpid(),
            url=self.url,
            started_at=to_rfc3339(self._clock.now()),
            data=str(self.data),
            logs=str(self.logs),
            actors=list(self.actors),
        )
        # Commands look into the folder they are called in: most likely the one we were called in.
        for folder in {self.data, self._folder / ".asya", Path.cwd() / ".asya"}:
            path = folder / announcement.FILE
            try:
                if not here.place(path):
                    self.tell(RunFileTaken(path, self.url))
            except OSError as error:
                self.tell(RunFileFailed(error))
            self._stack.callback(here.withdraw, path)

    # -- while it runs ----------------------------------------------------------------------------

    def tell(self, notice: Notice) -> None:
        """Tell the user one line, and write it down in the mesh's own log."""
        self._log.write_lines(
            to_rfc3339(self._clock.now()),
            os.getpid(),
            notice.text.encode("utf-8", "backslashreplace"),
            level="INFO",
            actor=notice.about,
        )
        self._say(line(notice))

    def _make_log(self, name: str, *, actor: str) -> RotatingLog:
        settings = self._settings
        form: Form = "json" if settings.log_format == "json" else "text"
        return RotatingLog(
            self.logs / f"{name}.log", settings.log_max_bytes, form=form, actor=actor
        )

    def log_handler(self) -> logging.Handler:
        """A handler that sends what Python's logging is given to the mesh's own log."""
        return LogHandler(self._log)

    def problem(self) -> str | None:
        """Why no envelope can be taken now, for people, or None when all is well."""
        if self._stopping:
            return "the mesh is stopping"
        if not self._ready:
            return "the mesh is starting"
        return self._transports.problem()

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
        self._stopping = True
        for task in list(self._tasks):
            task.cancel()
        await self._stack.aclose()

    def kill(self) -> None:
        """Let a `stop` under way wait for no handler: what runs goes back to its queue now."""
        for actor in self.actors.values():
            actor.replicas.begin_stop()
            # Through the sidecar, so that no envelope is blamed for the death of its replica.
            self._in_background(actor.sidecar.drain(0.0))

    async def _drain(self) -> None:
        grace_s = self._settings.grace_s
        actors = self.actors.values()
        for each in actors:
            each.replicas.begin_stop()
        busy = sum(each.sidecar.snapshot().in_flight for each in actors)
        if busy:
            self.tell(FinishingWork(busy, grace_s))
        await asyncio.gather(*(each.sidecar.drain(grace_s) for each in actors))
        await asyncio.gather(*(each.replicas.stop(BYE_WAIT_S) for each in actors))


def _socket_folder(data: Path) -> Path:
    """The folder of the sockets: in the data folder, or where that path is too long, elsewhere."""
    folder = data / "run"
    if len(os.fsencode(folder / "99999.sock")) > SOCKET_PATH_MAX:
        digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
        folder = Path(tempfile.gettempdir()) / f"asya-{os.getuid()}-{digest}"
    return folder


def _make_private(folder: Path) -> None:
    """Make a folder that only we can enter; one that is there must be ours.

    Raises:
        UsageError: It cannot be made, or belongs to another user.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if not folder.is_dir() or folder.is_symlink() or status.st_uid != os.getuid():
            raise UsageError(
                f"{folder} belongs to another user; give another folder with --data",
                code=Code.DATA_UNUSABLE,
            )
        folder.chmod(0o700)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be used for sockets: {error.strerror}", code=Code.DATA_UNUSABLE
        ) from error
