"""The mesh as a whole: its actors, whether it is well, its metrics, and the way to everything."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

import asya
from asya.gateway.http import openapi, views
from asya.gateway.http.respond import json_response
from asya.gateway.metrics import metrics_response
from asya.tasks.service import TaskService
from asya.telemetry.metrics import Metrics


class Mesh:
    """The handlers.

    Args:
        service: Knows what runs.
        namespace: Of the mesh.
        metrics: For `/metrics`.
    """

    def __init__(self, service: TaskService, namespace: str, metrics: Metrics) -> None:
        self._service = service
        self._namespace = namespace
        self._metrics = metrics
        self._openapi: bytes | None = None

    async def actors(self, request: Request) -> Response:
        """What runs: queues, replicas, rates, last errors."""
        return json_response(views.ActorList(await self._service.actors()))

    async def health(self, request: Request) -> Response:
        """Whether the gateway runs."""
        return json_response(views.Health())

    async def readiness(self, request: Request) -> Response:
        """Whether the mesh and the store take envelopes."""
        await self._service.check()
        return json_response(views.Health())

    async def metrics(self, request: Request) -> Response:
        """Metrics in the text format of Prometheus."""
        return await metrics_response(self._metrics)

    async def openapi(self, request: Request) -> Response:
        """The OpenAPI document."""
        if self._openapi is None:
            self._openapi = openapi.text().encode()
        return Response(self._openapi, media_type="application/json")

    async def index(self, request: Request) -> Response:
        """Where to go from here."""
        links = {
            "actors": "/v1/actors",
            "flows": "/v1/flows",
            "schedules": "/v1/schedules",
            "envelopes": "/v1/envelopes",
            "dead": "/v1/dead",
            "readiness": "/readyz",
            "metrics": "/metrics",
            "openapi": "/openapi.json",
        }
        return json_response(views.Index("asya", asya.__version__, self._namespace, links))
