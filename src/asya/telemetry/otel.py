"""Records spans with the OpenTelemetry SDK, which sends them by OTLP over HTTP.

The SDK is the extra `asya[otel]`, and is imported only when the environment asks for it: by an
endpoint (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`) or by
`OTEL_TRACES_EXPORTER=otlp`. It reads the other standard variables itself. Spans are queued, at
most `OTEL_BSP_MAX_QUEUE_SIZE`, and sent by a thread of the SDK's own: nothing here ever waits, and
a receiver that is gone costs spans, not envelopes. Called by the local mesh.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from asya.codes import Code
from asya.errors import UsageError, how_to_install
from asya.telemetry.spans import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

CLOSE_S: Final = 3.0
"""How long the last spans may take when the mesh stops."""

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def wanted(environ: Mapping[str, str]) -> bool:
    """Whether the environment asks for spans.

    Raises:
        UsageError: It asks for an exporter that this version does not have.
    """
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return False
    if exporter not in {"", "otlp"}:
        raise UsageError(
            f"OTEL_TRACES_EXPORTER: expected otlp or none, got {exporter!r}; spans are sent by OTLP"
        )
    return exporter == "otlp" or any(environ.get(name) for name in ENDPOINTS)


class Recorder:
    """Sends spans. Made in a thread: the imports take a while.

    Args:
        environ: As the entry point got it.
        namespace: Of the mesh, an attribute of the resource.

    Raises:
        UsageError: The SDK is not installed.
    """

    def __init__(self, environ: Mapping[str, str], namespace: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise UsageError(
                f"the OpenTelemetry SDK is not installed ({error}), and the environment asks for "
                f"spans; {how_to_install('otel')}, or set OTEL_TRACES_EXPORTER=none",
                code=Code.EXTRA_MISSING,
            ) from error
        named = "OTEL_SERVICE_NAME" in environ or "service.name=" in environ.get(
            "OTEL_RESOURCE_ATTRIBUTES", ""
        )
        about = {"asya.namespace": namespace} | ({} if named else {"service.name": "asya"})
        # The provider is there for the sampler and the resource, which it makes as the standard
        # variables say; spans have ids of our own, so they are made without a tracer.
        self._provider: TracerProvider = TracerProvider(
            resource=Resource.create(about), shutdown_on_exit=False
        )
        self._exporter = OTLPSpanExporter()
        self._processor = BatchSpanProcessor(self._exporter)

    def sample(self, trace_id: str) -> bool:
        """Whether a trace that begins here is recorded, as `OTEL_TRACES_SAMPLER` says."""
        from opentelemetry.sdk.trace.sampling import Decision

        found = self._provider.sampler.should_sample(None, int(trace_id, 16), "asya")
        return found.decision is Decision.RECORD_AND_SAMPLE

    def record(self, span: Span) -> None:
        """Queue a span; when the queue is full, one is dropped."""
        self._processor.on_end(self._readable(span))

    async def close(self) -> None:
        """Send what is queued, for `CLOSE_S` at most; the rest is lost."""
        loop = asyncio.get_running_loop()
        closed = asyncio.Event()

        def shut_down() -> None:
            self._processor.shutdown()  # type: ignore[no-untyped-call]  # the SDK's own gap
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(closed.set)

        # A thread that the process's end does not wait for: a receiver that never answers holds
        # it for as long as the exporter's own timeout.
        threading.Thread(target=shut_down, name="asya-spans", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await closed.wait()
        if not closed.is_set():
            # it is between two tries: there will be no other
            self._exporter.shutdown()  # type: ignore[no-untyped-call]  # the SDK's own gap

    def _readable(self, span: Span) -> ReadableSpan:
        from opentelemetry.sdk.trace import Event, ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        def context(span_id: str, *, remote: bool) -> SpanContext:
            return SpanContext(
                int(span.trace_id, 16),
                int(span_id, 16),
                is_remote=remote,
                trace_flags=TraceFlags(TraceFlags.SAMPLED),
            )

        kinds = {
            "server": SpanKind.SERVER,
            "consumer": SpanKind.CONSUMER,
            "internal": SpanKind.INTERNAL,
        }
        return ReadableSpan(
            name=span.name,
            context=context(span.span_id, remote=False),
            parent=None if span.parent_id is None else context(span.parent_id, remote=True),
            resource=self._provider.resource,
            attributes=span.attributes,
            events=[
                Event(each.name, dict(each.attributes), each.at_ns) for each in span.happenings
            ],
            kind=kinds[span.kind],
            status=Status(StatusCode.UNSET)
            if span.error is None
            else Status(StatusCode.ERROR, span.error),
            start_time=span.began_ns,
            end_time=span.ended_ns,
            instrumentation_scope=InstrumentationScope("asya"),
        )
