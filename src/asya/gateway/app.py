"""The ASGI app: routes from the table of operations, problem documents from every error.

`make_app` is called by the local mesh; `server` serves the app.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router

from asya.gateway.guard import LoopbackGuard
from asya.gateway.http.body import Bodies
from asya.gateway.http.dead_letters import DeadLetters
from asya.gateway.http.envelopes import Envelopes
from asya.gateway.http.flows import Flows
from asya.gateway.http.mesh import Mesh
from asya.gateway.http.operations import OPERATIONS
from asya.gateway.http.problems import HttpProblem
from asya.gateway.http.query import names, refuse_unknown
from asya.gateway.http.respond import problem_response
from asya.gateway.http.schedules import Schedules
from asya.gateway.middleware import ROUTE, RequestTelemetry
from asya.gateway.settings import GatewaySettings
from asya.settings import is_loopback
from asya.tasks.mesh import MeshClient
from asya.tasks.refusals import Kind, Refusal
from asya.tasks.service import TaskService
from asya.telemetry.metrics import Metrics
from asya.telemetry.spans import Spans

Handler = Callable[[Request], Awaitable[Response]]

log = logging.getLogger(__name__)


def make_app(
    service: TaskService,
    mesh: MeshClient,
    settings: GatewaySettings,
    metrics: Metrics | None = None,
    spans: Spans | None = None,
) -> Starlette:
    """The HTTP API of a task service.

    The caller starts and closes the service; the app only uses it. Without `metrics` it has its
    own, which know requests only; without `spans` it makes none.
    """
    metrics = Metrics(mesh.namespace) if metrics is None else metrics
    telemetry = Middleware(RequestTelemetry, metrics=metrics, spans=spans or Spans())
    guards = [Middleware(LoopbackGuard)] if is_loopback(settings.host) else []
    by_name = handlers(service, mesh, settings, metrics)
    by_path: dict[str, dict[str, tuple[Handler, frozenset[str] | None]]] = {}
    for each in OPERATIONS:
        known = names(each.query) if each.strict else None
        by_path.setdefault(each.path, {})[each.method] = (by_name[each.name], known)
    app = Starlette(
        routes=[
            Route(path, _endpoint(path, methods, service), methods=list(methods))
            for path, methods in by_path.items()
        ],
        middleware=[telemetry, *guards],
        exception_handlers={
            Refusal: _on_refusal,
            HttpProblem: _on_refusal,
            HTTPException: _on_http,
            ClientDisconnect: _on_disconnect,
            Exception: _on_bug,
        },
    )
    router: Router = app.router
    router.redirect_slashes = False
    return app


def handlers(
    service: TaskService, mesh: MeshClient, settings: GatewaySettings, metrics: Metrics
) -> dict[str, Handler]:
    """The handler of every operation, by the operation's name."""
    bodies = Bodies(settings.body_max_bytes)
    flows = Flows(service, mesh, bodies)
    envelopes = Envelopes(service, bodies, settings.streams_max)
    dead_letters = DeadLetters(service, bodies)
    schedules = Schedules(service.schedules)
    whole = Mesh(service, mesh.namespace, metrics)
    return {
        "post_flow": flows.post,
        "list_flows": flows.list,
        "post_envelope": envelopes.post,
        "list_envelopes": envelopes.list,
        "get_envelope": envelopes.get,
        "cancel_envelope": envelopes.cancel,
        "get_why": envelopes.why,
        "get_payload": envelopes.payload,
        "stream_events": envelopes.events,
        "list_dead": dead_letters.list,
        "get_dead": dead_letters.get,
        "retry_dead": dead_letters.redrive,
        "retry_many_dead": dead_letters.redrive_many,
        "purge_dead": dead_letters.purge,
        "purge_many_dead": dead_letters.purge_many,
        "list_schedules": schedules.list,
        "run_schedule": schedules.run,
        "suspend_schedule": schedules.suspend,
        "resume_schedule": schedules.resume,
        "list_actors": whole.actors,
        "get_health": whole.health,
        "get_readiness": whole.readiness,
        "get_metrics": whole.metrics,
        "get_openapi": whole.openapi,
        "get_index": whole.index,
    }


def _endpoint(
    path: str,
    methods: Mapping[str, tuple[Handler, frozenset[str] | None]],
    service: TaskService,
) -> Handler:
    """Serves one path. An unknown id is tried again as the beginning of an id that is known."""

    async def endpoint(request: Request) -> Response:
        request.scope[ROUTE] = path
        handler, known = methods["GET" if request.method == "HEAD" else request.method]
        if known is not None and request.scope["query_string"]:
            refuse_unknown(request.query_params, known)
        try:
            return await handler(request)
        except Refusal as error:
            given = request.path_params.get("id")
            if error.kind is not Kind.UNKNOWN_ENVELOPE or given is None:
                raise
            whole = await service.whole_id(given)
            if whole is None or whole == given:
                raise
            request.path_params["id"] = whole
        return await handler(request)

    return endpoint


async def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal | HttpProblem)
    return problem_response(error)


async def _on_http(request: Request, error: Exception) -> Response:
    """What the router refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 404:
        text = f"there is nothing at {request.url.path}; see /openapi.json"
        return problem_response(Refusal(Kind.NOT_FOUND, text), headers)
    if error.status_code == 405:
        text = f"{request.url.path} takes {headers.get('Allow', 'other methods')}"
        return problem_response(HttpProblem("method-not-allowed", text), headers)
    return problem_response(HttpProblem("bad-request", error.detail), headers)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return problem_response(HttpProblem("bad-request", "the body was cut off"))


async def _on_bug(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    text = f"{type(error).__name__}; the gateway's log has the whole story"
    return problem_response(Refusal(Kind.INTERNAL, text))
