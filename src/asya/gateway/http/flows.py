"""`/v1/flows`: list the flows, and send a payload into one."""

from __future__ import annotations

import uuid

from starlette.requests import Request
from starlette.responses import Response

from asya.gateway.http import answers, views
from asya.gateway.http.body import Bodies, parse
from asya.gateway.http.headers import read_key, trace_headers
from asya.gateway.http.present import flow_view
from asya.gateway.http.query import read
from asya.gateway.http.requests import FlowQuery
from asya.gateway.http.respond import json_response
from asya.tasks.admission import begin_time, check_id, find_flow
from asya.tasks.input_schema import Schemas
from asya.tasks.mesh import MeshClient
from asya.tasks.service import TaskService


class Flows:
    """The handlers.

    Args:
        service: Admits envelopes.
        mesh: Knows the flows.
        bodies: Reads payloads.
    """

    def __init__(self, service: TaskService, mesh: MeshClient, bodies: Bodies) -> None:
        self._service = service
        self._mesh = mesh
        self._bodies = bodies
        self._schemas = Schemas()

    async def list(self, request: Request) -> Response:
        """The flows of this mesh, by name."""
        flows = [flow_view(flow) for _, flow in sorted(self._mesh.flows().items())]
        return json_response(views.FlowList(flows))

    async def post(self, request: Request) -> Response:
        """Send a payload into a flow, and answer when it is in its first queue, or has ended."""
        flow = find_flow(self._mesh.flows(), request.path_params["flow"])
        query = read(FlowQuery, request.query_params)
        check_id(query.id)
        id_ = query.id or str(uuid.uuid4())
        wait_s = query.wait or 0.0
        key = read_key(request.headers, f"flow:{flow.name}", flow.idempotency)
        not_before = begin_time(query.not_before, query.delay, self._service.now(), "?")
        with self._service.ending(id_, wanted=wait_s > 0) as ending:
            async with self._bodies.read(request) as data:
                has_schema = flow.input_schema is not None
                value, payload = parse(data, values=has_schema)
                if has_schema:
                    await self._schemas.check(flow, value, len(data))
                del value
                admission = await self._service.admit(
                    flow.route,
                    payload,
                    id=id_,
                    headers=trace_headers(request),
                    timeout_s=flow.timeout_s if query.timeout is None else query.timeout,
                    flow=flow.name,
                    not_before=not_before,
                    key=key,
                )
            del data, payload  # its bytes are let go before the request begins to wait
            return await answers.admitted(
                self._service, request.receive, admission, id_, ending, wait_s
            )
