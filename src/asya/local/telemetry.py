"""Metrics, spans and the event log of one mesh.

The list of who listens to the sidecars is here and nowhere else. Made by `composition`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from asya.events import Ledger, Listener, Listeners
from asya.gateway.server import HttpServer, bind
from asya.local.actor import ScaledActor
from asya.local.event_log import EventLog
from asya.local.gauges import Gauges
from asya.local.logs import RotatingLog
from asya.local.notices import MetricsServed, Tell
from asya.telemetry.metrics import Metrics
from asya.telemetry.spans import Spans
from asya.transports.base import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from asya.clock import Clock
    from asya.settings import Settings


class MeshTelemetry:
    """Everything that counts, traces or writes down what one mesh does.

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

    def add_gauges(
        self,
        transport: Transport,
        actors: Mapping[str, ScaledActor],
        *,
        problem: Callable[[], str | None],
        dropped: Callable[[], int],
    ) -> None:
        """What is asked for at a scrape; `dropped` counts events that were not stored."""
        namespace = self._settings.namespace
        self.metrics.add_source(
            Gauges(namespace, transport, actors, problem=problem, dropped=dropped)
        )

    def listener(self, tasks: Listener) -> Listener:
        """Who is told of every hop, in this order: the task service first."""
        spans = (self.spans,) if self.spans.on else ()
        return Listeners(tasks, self.metrics, self._events, *spans)

    def ledger(self, inner: Ledger) -> Ledger:
        """A ledger that counts and writes down the ends and dead letters that it passes on."""
        return self.metrics.ledger(self._events.ledger(inner))

    def cold_start(self, actor: str) -> Callable[[float], None]:
        """Takes the seconds of each cold start of an actor."""
        return lambda took_s: self.metrics.cold_start(actor, took_s)
