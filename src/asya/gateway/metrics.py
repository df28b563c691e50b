"""`/metrics`: the answer, and an app that serves it on a port of its own."""

from __future__ import annotations

import asyncio

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from asya.gateway.guard import LoopbackGuard
from asya.settings import is_loopback
from asya.telemetry.exposition import MEDIA_TYPE, exposition
from asya.telemetry.metrics import Metrics


async def metrics_response(metrics: Metrics) -> Response:
    """All metrics as text, made in a thread: with a thousand actors it takes a while."""
    gathered = await metrics.gather()
    text = await asyncio.to_thread(exposition, gathered, metrics.namespace)
    return Response(text, media_type=MEDIA_TYPE)


def make_metrics_app(metrics: Metrics, host: str) -> Starlette:
    """Serves `/metrics` and nothing else."""

    async def endpoint(request: Request) -> Response:
        return await metrics_response(metrics)

    return Starlette(
        routes=[Route("/metrics", endpoint)],
        middleware=[Middleware(LoopbackGuard)] if is_loopback(host) else [],
    )
