"""Makes the parts of a mesh on one machine, and tells each what it needs of the others.

This is the laptop's composition root: no other module here knows which class a sidecar, an end
consumer, the task service or the gateway is. It starts nothing; `LocalMesh` has the order in which
parts start and stop.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from asya.blobs.claims import Claims
from asya.clock import Clock
from asya.crew import EndConsumer, Sink, Sump
from asya.envelope import SINK, SUMP
from asya.errors import UsageError
from asya.events import Ledger
from asya.gateway.server import HttpServer
from asya.local.actor import ScaledActor
from asya.local.launch import launch_of
from asya.local.leftovers import ChildRecord
from asya.local.log_lines import Form
from asya.local.logs import RotatingLog
from asya.local.mesh_client import LocalMeshClient
from asya.local.mesh_plan import ActorPlan, MeshPlan, refit_actor
from asya.local.notices import Tell
from asya.local.process import Launch
from asya.local.replicas import ReplicaSet
from asya.local.sockets import socket_folder
from asya.local.spawner import Spawner
from asya.local.telemetry import MeshTelemetry
from asya.local.template import Template
from asya.local.transports import LocalTransports
from asya.sidecar import Cancels, EndActor, Sidecar, SidecarConfig
from asya.transports.base import Transport

if TYPE_CHECKING:
    from asya.local.reload import Reloader, Reloading
    from asya.manifest import AsyncActor, Manifests
    from asya.settings import Settings
    from asya.tasks.mesh import MeshClient
    from asya.tasks.service import TaskService
    from asya.tasks.store.sqlite.store import SqliteStore


@dataclass(frozen=True)
class Site:
    """Where and how one mesh runs; shared by all of its parts.

    Attributes:
        settings: The mesh's settings.
        folder: The project's folder.
        data: The data folder, absolute.
        environ: The environment that replicas inherit. One mapping for all actors: a copy for each
            of a thousand would hold all names a thousand times.
        clock: The wall clock.
        log: The mesh's own log.
        tell: Tells the user.
        tells_files: Replicas tell which source files they have imported, for `--reload`.
        token: Tells this mesh's replicas from those that a killed one left behind.
    """

    settings: Settings
    folder: Path
    data: Path
    environ: Mapping[str, str]
    clock: Clock
    log: RotatingLog
    tell: Tell
    tells_files: bool = False
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def logs(self) -> Path:
        """The folder of the logs, `<actor>.log`."""
        return self.data / "logs"


def open_log(settings: Settings, data: Path, name: str, *, actor: str) -> RotatingLog:
    """The log of an actor, or with an empty `actor` the mesh's own."""
    form: Form = "json" if settings.log_format == "json" else "text"
    return RotatingLog(
        data / "logs" / f"{name}.log", settings.log_max_bytes, form=form, actor=actor
    )


class Composition:
    """The parts of one mesh.

    Attributes:
        actors: Filled by `make_actor`.
        children: The record of processes, for the next mesh.
        telemetry: Metrics, spans and the event log.
        transports: The brokers.
    """

    def __init__(self, site: Site, plan: MeshPlan, manifests: Manifests) -> None:
        self.actors: dict[str, ScaledActor] = {}
        self.children = ChildRecord(site.data / "children.jsonl")
        self.telemetry = MeshTelemetry(site.settings, site.environ, site.log, site.clock)
        self.transports = LocalTransports(
            manifests.actors, site.settings, site.data, tell=site.tell, clock=site.clock
        )
        self._site = site
        self._plan = plan
        self._manifests = manifests
        self._cancels = Cancels()
        self._sidecars: dict[str, Sidecar] = {}
        # One set for all sidecars, for the reason that `environ` is one.
        self._neighbours = frozenset(plan.actors)

    # -- the task service and the gateway ---------------------------------------------------------

    def make_client(self, transport: Transport, problem: Callable[[], str | None]) -> MeshClient:
        """The mesh as the task service sees it."""
        return LocalMeshClient(
            self._site.settings.namespace,
            transport,
            flows=self._plan.flows,
            actors=self.actors,
            cancel=self._cancels.add,
            problem=problem,
        )

    def make_service(self, store: SqliteStore, mesh: MeshClient, claims: Claims) -> TaskService:
        """The task service; not started."""
        from asya.tasks.blob_retention import BlobRetention, DeadLetterBlobs
        from asya.tasks.service import ServiceLimits, TaskService

        settings = self._site.settings
        service = TaskService(
            store,
            mesh,
            self._site.clock,
            ServiceLimits(
                payload_max_bytes=settings.payload_max_bytes,
                queue_max=settings.queue_max,
                retention_s=settings.retention_s,
            ),
            schedules=self._plan.schedules,
            capturing=self._plan.capturing,
            claims=claims,
            ledger=self.telemetry.ledger,
        )
        service.schedules.trace_headers = self.telemetry.spans.schedule
        kept_s = settings.blobs_kept_s
        service.chores.add(BlobRetention(claims.store, self._site.clock, kept_s), "blob-retention")
        service.chores.add(
            DeadLetterBlobs(claims.store, store.dead_letters, kept_s), "dead-letter-blobs"
        )
        return service

    async def recall_cancels(self, service: TaskService) -> None:
        """Let sidecars know what was canceled before this mesh started."""
        self._cancels.add(await service.canceled_recently())

    def make_gateway(
        self, service: TaskService, mesh: MeshClient, listening: socket.socket
    ) -> HttpServer:
        """The HTTP server on a port that is bound already."""
        from asya.gateway.app import make_app

        settings, telemetry = self._site.settings, self.telemetry
        return HttpServer(
            make_app(service, mesh, settings, telemetry.metrics, telemetry.spans),
            settings.host,
            settings.port,
            bound=listening,
            on_stop=service.release,
        )

    # -- the ends ---------------------------------------------------------------------------------

    def make_ends(self, ledger: Ledger) -> dict[str, EndActor]:
        """`x-sink` and `x-sump`, by name."""
        sump = Sump(ledger)
        return {SINK: Sink(ledger, sump), SUMP: sump}

    def make_end_consumers(
        self, transport: Transport, ends: Mapping[str, EndActor]
    ) -> Iterator[EndConsumer]:
        """The consumers of the queues of the ends."""
        sump = ends[SUMP]
        assert isinstance(sump, Sump)
        consumed = [(name, transport, end) for name, end in ends.items()]
        # A broker puts what it gives up on into the dead letters' queue of its own.
        consumed += [(SUMP, other, sump) for other in self.transports.others.values()]
        for name, where, end in consumed:
            namespace = self._site.settings.namespace
            yield EndConsumer(name, namespace, where, end, sump, self._site.clock)

    # -- the actors -------------------------------------------------------------------------------

    def launches(self) -> dict[str, Launch]:
        """How replicas are started, by actor. Reads `.env` files.

        Raises:
            UsageError: With every secret that is missing, and every file and limit that cannot be
                read.
        """
        problems: list[UsageError] = []
        launches = {}
        sockets = socket_folder(self._site.data)
        for number, actor in enumerate(self._manifests.actors):
            try:
                launches[actor.name] = self._launch(actor, sockets / f"{number}.sock")
            except UsageError as error:
                problems.append(error)
        if problems:
            raise UsageError("\n".join(map(str, problems)), code=problems[0].code)
        return launches

    def _launch(self, actor: AsyncActor, socket_path: Path) -> Launch:
        site = self._site
        launch = launch_of(actor, site.environ, site.folder, socket=socket_path)
        own = {"ASYA_TOKEN": site.token} | ({"ASYA_FILES": "1"} if site.tells_files else {})
        return replace(launch, environment={**launch.environment, **own})

    def make_actor(
        self,
        plan: ActorPlan,
        launch: Launch,
        transport: Transport,
        service: TaskService,
        *,
        ends: Mapping[str, EndActor],
        claims: Claims,
    ) -> ScaledActor:
        """An actor: its sidecar and its replicas, each told of the other."""
        site = self._site
        log = open_log(site.settings, site.data, plan.name, actor=plan.name)
        template = Template(
            plan.name, log, self.children, site.clock, site.settings.template_idle_s
        )
        replicas = ReplicaSet(
            plan.name,
            Spawner(plan.name, launch, log, self.children, clock=site.clock, template=template),
            tell=site.tell,
            done=lambda: sidecar.snapshot().succeeded,
            ignore=frozenset({site.data}),
        )
        sidecar = self._sidecars[plan.name] = Sidecar(
            self._sidecar_config(plan),
            transport,
            listener=self.telemetry.listener(service),
            ends=ends,
            cancels=self._cancels,
            clock=site.clock,
            kill=replicas.kill,
            claims=claims,
        )
        sidecar.on_load_failure = replicas.load_failed
        sidecar.on_cold_start = self.telemetry.cold_start(plan.name)
        replicas.drain = sidecar.finish_off
        log.whose = sidecar.working_on
        actor = self.actors[plan.name] = ScaledActor(plan, sidecar, replicas)
        return actor

    def _sidecar_config(self, plan: ActorPlan) -> SidecarConfig:
        settings = self._site.settings
        return SidecarConfig(
            plan.name,
            namespace=settings.namespace,
            resiliency=plan.resiliency,
            concurrency=plan.concurrency,
            payload_max_bytes=settings.payload_max_bytes,
            capture=plan.capture,
            neighbours=self._neighbours,
            token=self._site.token,
            ahead=0 if self.transports.tells_load(plan.name) else 1,
        )

    # -- code and manifests that change -----------------------------------------------------------

    def make_reloader(
        self, reloading: Reloading, service: TaskService, mesh: MeshClient
    ) -> Reloader:
        """Replaces replicas when code or manifests change."""
        from asya.local.reload import Reloader
        from asya.local.replay import Replay

        site = self._site
        replay = Replay(service, mesh, site.clock, site.tell) if reloading.replay else None
        return Reloader(
            self.actors,
            self._manifests,
            read=reloading.read,
            refit=self.refit,
            replay=replay,
            ignore=frozenset({site.data}),
            tell=site.tell,
        )

    def refit(self, manifest: AsyncActor) -> None:
        """Let a running actor go by a changed manifest, from its next replicas on.

        Raises:
            UsageError: The change needs a restart of the mesh; nothing has changed.
        """
        actor = self.actors[manifest.name]
        plan = refit_actor(actor.plan, manifest, self._site.settings)
        spawner = actor.replicas.spawner
        spawner.launch = self._launch(manifest, Path(spawner.launch.environment["ASYA_SOCKET"]))
        self._sidecars[manifest.name].config = self._sidecar_config(plan)
        actor.refit(plan)
