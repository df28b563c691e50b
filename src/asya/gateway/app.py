"""The ASGI app: routes from the table of operations, problems from every error.

`make_app` is called by the local mesh, and later by the gateway's own process; `server` serves it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router

from asya.errors import nearest
from asya.gateway.guard import LoopbackGuard
from asya.gateway.http.envelopes import Endpoints
from asya.gateway.http.operations import OPERATIONS, Operation
from asya.gateway.http.problems import HttpProblem
from asya.gateway.http.respond import problem_response
from asya.gateway.middleware import ROUTE, Observed
from asya.gateway.settings import GatewaySettings
from asya.settings import is_loopback
from asya.tasks.mesh import MeshClient
from asya.tasks.refusals import Fault, Kind, Refusal
from asya.tasks.service import TaskService
from asya.telemetry.metrics import Metrics
from asya.telemetry.spans import Spans

Handler = Callable[[Request], Awaitable[Response]]

_log = logging.getLogger(__name__)


def make_app(
    service: TaskService,
    mesh: MeshClient,
    settings: GatewaySettings,
    metrics: Metrics | None = None,
    spans: Spans | None = None,
) -> Starlette:
    """The HTTP face of a task service.

    The caller starts and closes the service; the app only uses it. Without `metrics` it has its
    own, which know requests only; without `spans` it makes none.
    """
    metrics = Metrics(mesh.namespace) if metrics is None else metrics
    observed = Middleware(Observed, metrics=metrics, spans=spans or Spans())
    guards = [Middleware(LoopbackGuard)] if is_loopback(settings.host) else []
    endpoints = Endpoints(service, mesh, settings, metrics)
    by_path: dict[str, dict[str, Handler]] = {}
    for operation in OPERATIONS:
        handler: Handler = getattr(endpoints, operation.name)
        handler = _strict(handler, operation) if operation.strict else handler
        by_path.setdefault(operation.path, {})[operation.method] = handler
    app = Starlette(
        routes=[
            Route(path, _dispatch(path, handlers, service), methods=list(handlers))
            for path, handlers in by_path.items()
        ],
        middleware=[observed, *guards],
        exception_handlers={
            Refusal: _on_problem,
            HttpProblem: _on_problem,
            HTTPException: _on_http,
            ClientDisconnect: _on_disconnect,
            Exception: _on_bug,
        },
    )
    router: Router = app.router
    router.redirect_slashes = False
    return app


def _strict(handler: Handler, operation: Operation) -> Handler:
    """The handler, for requests whose query has known parameters only."""
    known = {each.name for each in operation.parameters if each.place == "query"}

    async def checked(request: Request) -> Response:
        faults = [
            Fault(f"?{name}", _unknown_parameter(name, known))
            for name in request.query_params
            if name not in known
        ]
        if faults:
            text = "; ".join(f"{fault.path}: {fault.message}" for fault in faults)
            close = nearest(faults[0].path[1:], known)
            raise Refusal(Kind.INVALID, text, faults=faults, nearest=close)
        return await handler(request)

    return checked


def _unknown_parameter(name: str, known: set[str]) -> str:
    close = nearest(name, known)
    if close:
        return f"is no parameter here; did you mean {close}?"
    return f"is no parameter here; there are {', '.join(sorted(known)) or 'none'}"


def _dispatch(path: str, handlers: dict[str, Handler], service: TaskService) -> Handler:
    async def endpoint(request: Request) -> Response:
        request.scope[ROUTE] = path
        handler = handlers["GET" if request.method == "HEAD" else request.method]
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


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal | HttpProblem)
    return problem_response(error)


async def _on_http(request: Request, error: Exception) -> Response:
    """What the router refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 404:
        detail = f"there is nothing at {request.url.path}; see /openapi.json"
        return problem_response(Refusal(Kind.NOT_FOUND, detail), headers)
    if error.status_code == 405:
        detail = f"{request.url.path} takes {headers.get('Allow', 'other methods')}"
        return problem_response(HttpProblem("method-not-allowed", detail), headers)
    return problem_response(HttpProblem("bad-request", error.detail), headers)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return problem_response(HttpProblem("bad-request", "the body was cut off"))


async def _on_bug(request: Request, error: Exception) -> Response:
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    detail = f"{type(error).__name__}; the gateway's log has the whole story"
    return problem_response(Refusal(Kind.INTERNAL, detail))
