"""ASGI middleware: counts requests by route and status, and makes the span of a sent envelope.

The route is the pattern from the table of operations, never the path itself, so that the number of
labels is bounded. `app` puts it into the scope as `ROUTE`; `http/headers.py` takes the trace for the envelope
from there, as `TRACE`.
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asya.telemetry.metrics import Metrics
from asya.telemetry.spans import Spans, traceparent_of
from asya.tracecontext import TRACEPARENT

ROUTE: Final = "asya.route"
"""Key of the scope: the pattern of the route."""

TRACE: Final = "asya.traceparent"
"""Key of the scope: the `traceparent` that the request's envelope gets."""

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

UNMATCHED: Final = "unmatched"
"""The route of a request that no operation serves."""


class RequestTelemetry:
    """Wraps the whole app."""

    def __init__(self, app: ASGIApp, metrics: Metrics, spans: Spans) -> None:
        self._app = app
        self._metrics = metrics
        self._spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        span = None
        if self._spans.on and scope["method"] == "POST":
            span = self._spans.begin_request(Headers(scope=scope).get(TRACEPARENT))
            if span is not None:
                scope[TRACE] = traceparent_of(span)
        status = 500  # of a bug, whose answer is made outside of this middleware

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        finally:
            method = scope["method"] if scope["method"] in METHODS else "other"
            route = scope.get(ROUTE, UNMATCHED)
            self._metrics.request(route, method, status)
            if span is not None and route != UNMATCHED:
                self._spans.end_request(span, method, route, status)
