"""Metrics, spans and the log of events of one mesh, put together.

Here, and nowhere else, is the list of who listens to the sidecars. Called by `mesh`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from asya.events import Ledger, Listener, Listeners
from asya.gateway.server import HttpServer, bind
from asya.local.autoscaler import ScaledActor
from asya.local.event_log import EventLog
from asya.local.gauges import Gauges
from asya.local.logs import RotatingLog
from asya.local.notices import MetricsServed, Tell
from asya.sidecar import Sidecar
from asya.telemetry.metrics import Metrics
from asya.telemetry.spans import Spans
from asya.transports.base import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from asya.clock import Clock
    from asya.settings import Settings


class Tasks(Listener, Ledger, Protocol):
    """The task service, as it is told of hops and ends."""

    late_ends: Ledger
    """Who is told of the ends that the service makes at deadlines; the service itself at first."""

    @property
    def events_dropped(self) -> int:
        """Events that it did not store."""
        ...


class Observation:
    """All that watches one mesh.

    Attributes:
        metrics: The numbers.
        spans: The makers of spans; off unless the environment asks for them.
    """

    def __init__(
        self, settings: Settings, environ: Mapping[str, str], log: RotatingLog, clock: Clock
    ) -> None:
        self.metrics = Metrics(settings.namespace)
        self.spans = Spans()
        self._settings = settings
        self._environ = environ
        self._events = EventLog(log, clock)

    async def start(self, stack: contextlib.AsyncExitStack, tell: Tell) -> None:
        """Begin to record spans and to serve the metrics' own port, where they are asked for.

        Raises:
            SettingsError: The port cannot be bound.
            UsageError: Spans are asked for, and the SDK is not installed.
        """
        await self._start_spans(stack)
        port = self._settings.metrics_port
        if port is not None:
            from asya.gateway.metrics import make_metrics_app

            bound = bind(self._settings.host, port, flag="--metrics-port")
            app = make_metrics_app(self.metrics, self._settings.host)
            server = HttpServer(app, self._settings.host, port, bound=bound)
            stack.push_async_callback(server.stop)
            await server.start()
            tell(MetricsServed(server.url))

    async def _start_spans(self, stack: contextlib.AsyncExitStack) -> None:
        from asya.telemetry import otel

        if otel.wanted(self._environ):
            namespace = self._settings.namespace
            recorder = await asyncio.to_thread(otel.Recorder, self._environ, namespace)
            stack.push_async_callback(recorder.close)
            self.spans = Spans(recorder.record, sample=recorder.sample)

    def watch(
        self,
        transport: Transport,
        actors: Mapping[str, ScaledActor],
        tasks: Tasks,
        problem: Callable[[], str | None],
    ) -> None:
        """What is asked for at a scrape."""
        gauges = Gauges(
            self._settings.namespace,
            transport,
            actors,
            problem=problem,
            dropped=lambda: tasks.events_dropped,
        )
        self.metrics.add_source(gauges)

    def listener(self, tasks: Tasks) -> Listener:
        """Who is told of every hop, in this order."""
        spans = (self.spans,) if self.spans.on else ()
        return Listeners(tasks, self.metrics, self._events, *spans)

    def ledger(self, tasks: Tasks) -> Ledger:
        """The task service; ends and dead letters are counted and written down."""
        ledger = self.metrics.ledger(self._events.ledger(tasks))
        tasks.late_ends = ledger
        return ledger

    def add_actor(self, name: str, sidecar: Sidecar, log: RotatingLog) -> None:
        """Watch an actor, too; its log asks the sidecar whose a line is."""
        sidecar.on_cold_start = lambda took_s: self.metrics.cold_start(name, took_s)
        log.whose = sidecar.working_on
