"""The handlers of the operations in `operations`, one method each.

They read the request, ask the task service, and answer; what is refused is raised as a
`Refusal` or an `HttpProblem`. A payload's bytes are let go before a request begins to wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import Any, Final, cast

from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

import asya
from asya.clock import to_rfc3339
from asya.errors import TransportError, nearest
from asya.gateway.http import openapi, views
from asya.gateway.http.body import Bodies, parse, parse_as
from asya.gateway.http.dead_letters import LetterEndpoints
from asya.gateway.http.operations import LIST_MAX, STATUSES
from asya.gateway.http.present import summary_view
from asya.gateway.http.problems import HttpProblem
from asya.gateway.http.respond import json_response
from asya.gateway.http.results import envelope_response
from asya.gateway.http.schedules import ScheduleEndpoints
from asya.gateway.http.sse import EventStream
from asya.gateway.metrics import metrics_response
from asya.gateway.middleware import TRACE
from asya.gateway.settings import GatewaySettings
from asya.tasks.admission import Admission, check_id, seconds
from asya.tasks.diagnosis.why import why
from asya.tasks.idempotency import REPLAYED_HEADER, begin_time, read_key
from asya.tasks.input_schema import Schemas
from asya.tasks.mesh import FlowSpec, Idempotency, MeshClient
from asya.tasks.refusals import Fault, Kind, Refusal
from asya.tasks.rules import TaskRow
from asya.tasks.service import Ending, TaskService
from asya.tasks.store.base import Query
from asya.tasks.store.payloads import SIDES
from asya.telemetry.metrics import Metrics
from asya.tracecontext import TRACEPARENT

TRACE_HEADERS: Final = (TRACEPARENT, "tracestate")
"""HTTP headers (W3C Trace Context) that become headers of the envelope."""

SCHEMA_INLINE_MAX_BYTES: Final = 64 * 1024
"""Larger payloads are checked against their schema in a thread: it takes milliseconds."""

_NUMBER_MAX: Final = 2**62


class Endpoints(ScheduleEndpoints, LetterEndpoints):
    """All handlers.

    Args:
        service: The task service.
        mesh: For what runs, and for flows.
        settings: Bounds of bodies and streams.
        metrics: For `/metrics`.
    """

    def __init__(
        self, service: TaskService, mesh: MeshClient, settings: GatewaySettings, metrics: Metrics
    ) -> None:
        super().__init__(service)
        self._mesh = mesh
        self._metrics = metrics
        self._streams_max = settings.streams_max
        self._bodies = Bodies(settings.body_max_bytes)
        self._schemas = Schemas()
        self._streams = 0
        self._openapi: bytes | None = None

    async def post_flow(self, request: Request) -> Response:
        """Send a payload into a flow."""
        flow = self._flow(request.path_params["flow"])
        query = request.query_params
        check_id(query.get("id"))
        id_ = query.get("id") or str(uuid.uuid4())
        wait_s = _wait(request)
        timeout = query.get("timeout")
        timeout_s = flow.timeout_s if timeout is None else seconds(timeout, "?timeout")
        key = read_key(request.headers, f"flow:{flow.name}", flow.idempotency)
        now = self._service.now()
        not_before = begin_time(query.get("not_before"), query.get("delay"), now, "?")
        with self._service.ending(id_, wanted=wait_s > 0) as ending:
            async with self._bodies.read(request) as data:
                value, payload = parse(data, values=flow.input_schema is not None)
                await self._check_schema(flow, value, len(data))
                del value
                taken = await self._service.admit(
                    flow.route,
                    payload,
                    id=id_,
                    headers=_trace(request),
                    timeout_s=timeout_s,
                    flow=flow.name,
                    not_before=not_before,
                    key=key,
                )
            del data, payload
            return await self._answer(request.receive, taken, id_, ending, wait_s)

    async def post_envelope(self, request: Request) -> Response:
        """Send an envelope with a route of its own."""
        wait_s = _wait(request)
        with contextlib.ExitStack() as stack:
            async with self._bodies.read(request) as data:
                asked = parse_as(views.EnvelopeRequest, data)
                check_id(asked.id)
                id_ = asked.id or str(uuid.uuid4())
                ending = stack.enter_context(self._service.ending(id_, wanted=wait_s > 0))
                now = self._service.now()
                scope = f"route:{','.join(asked.route)}"
                taken = await self._service.admit(
                    asked.route,
                    Raw(asked.payload),
                    id=id_,
                    headers={**_trace(request), **(asked.headers or {})},
                    timeout_s=None
                    if asked.timeout is None
                    else seconds(asked.timeout, "$.timeout"),
                    not_before=begin_time(asked.not_before, asked.delay, now, "$."),
                    key=read_key(request.headers, scope, Idempotency()),
                )
            del data, asked
            return await self._answer(request.receive, taken, id_, ending, wait_s)

    async def _check_schema(self, flow: FlowSpec, value: Any, size: int) -> None:
        if flow.input_schema is None:
            return
        if size > SCHEMA_INLINE_MAX_BYTES:
            faults = await asyncio.to_thread(self._schemas.faults, flow, value)
        else:
            faults = self._schemas.faults(flow, value)
        if faults:
            paths = ", ".join(dict.fromkeys(fault.path for fault in faults))
            raise Refusal(
                Kind.INVALID_PAYLOAD,
                f"the payload does not fit the input schema of the flow {flow.name}: {paths}",
                faults=faults,
            )

    async def _answer(
        self, receive: Receive, taken: Admission, id_: str, ending: Ending, wait_s: float
    ) -> Response:
        """The outcome; that of another task where that holds the key."""
        row = taken.row
        headers = {REPLAYED_HEADER: "true"} if taken.replayed else {}
        if row.id == id_ or wait_s <= 0:
            return await self._outcome(receive, row, ending, wait_s, headers)
        with self._service.ending(row.id) as other:
            row = (await self._service.get(row.id)).row
            return await self._outcome(receive, row, other, wait_s, headers)

    async def _outcome(
        self,
        receive: Receive,
        row: TaskRow,
        ending: Ending,
        wait_s: float,
        headers: dict[str, str],
    ) -> Response:
        if not row.ended and wait_s > 0:
            gone = asyncio.create_task(_give_up_when_gone(receive, ending))
            try:
                await ending.within(wait_s)
            finally:
                gone.cancel()
        if row.ended or wait_s > 0:
            detail = await self._service.get(row.id)
            if detail.row.ended:
                return await envelope_response(detail, self._service.blobs, headers)
            row = detail.row
        url = f"/v1/envelopes/{row.id}"
        view = summary_view(row)
        accepted = views.Accepted(row.id, view.status, url, f"{url}/events")
        return json_response(accepted, 202, {"Location": url, **headers})

    async def list_envelopes(self, request: Request) -> Response:
        """A page of envelopes."""
        query = request.query_params
        status = query.get("status")
        if status is not None and status not in STATUSES:
            raise _bad_query("status", f"expected one of {', '.join(STATUSES)}, got {status!r}")
        limit = _whole(query.get("limit", "50"), "limit", 1, LIST_MAX)
        cursor = query.get("cursor")
        rows = await self._service.list(
            Query(
                status=status,
                flow=query.get("flow"),
                actor=query.get("actor"),
                root=query.get("root"),
                stuck=_yes_or_no(query.get("stuck"), "stuck"),
                before=None if cursor is None else _whole(cursor, "cursor", 1, _NUMBER_MAX),
                limit=limit + 1,
            )
        )
        more = len(rows) > limit
        page = rows[:limit]
        cursor = str(page[-1].key) if more else None
        return json_response(views.EnvelopeList([summary_view(row) for row in page], cursor))

    async def get_envelope(self, request: Request) -> Response:
        """One envelope."""
        detail = await self._service.get(request.path_params["id"])
        return await envelope_response(detail, self._service.blobs)

    async def get_why(self, request: Request) -> Response:
        """Why it is where it is."""
        facts = await self._service.facts(request.path_params["id"])
        found = why(facts)
        remedies = [views.RemedyView(each.command, each.does) for each in found.remedy]
        status = cast("views.TaskStatus | None", facts.status)
        at = to_rfc3339(facts.now)
        return json_response(
            views.WhyView(
                facts.id, status, found.kind, found.cause, found.evidence, remedies, at,
                facts.nearest,
            )
        )  # fmt: skip

    async def get_payload(self, request: Request) -> Response:
        """What was kept of a hop's payload."""
        query = request.query_params
        side, tried = query.get("side", "in"), query.get("attempt")
        if side not in SIDES:
            raise _bad_query("side", f"expected in or out, got {side!r}")
        attempt = None if tried is None else _whole(tried, "attempt", 1, _NUMBER_MAX)
        n = _whole(request.path_params["n"], "n", 0, _NUMBER_MAX)
        found = await self._service.payload(request.path_params["id"], n, side, attempt)
        media = "application/octet-stream" if found.truncated else "application/json"
        headers = {
            "Asya-Truncated": "true" if found.truncated else "false",
            "Asya-Size": str(found.size),
            "Asya-Attempt": str(found.attempt),
        }
        return Response(found.body, 200, headers, media)

    async def cancel_envelope(self, request: Request) -> Response:
        """Cancel a task."""
        await self._service.cancel(request.path_params["id"])
        return Response(status_code=204)

    async def stream_events(self, request: Request) -> Response:
        """Stream events."""
        if request.method == "HEAD":
            raise HttpProblem("method-not-allowed", "a stream has no HEAD", allow="GET")
        id_ = request.path_params["id"]
        seen = request.headers.get("last-event-id", "0")
        if not (seen.isascii() and seen.isdigit() and len(seen) < 19):
            raise HttpProblem("bad-request", f"Last-Event-ID is a number, not {seen!r}")
        if self._streams >= self._streams_max:
            raise HttpProblem(
                "too-many-streams",
                f"{self._streams_max} event streams are open, which is the bound",
                retry_after_s=5,
            )
        if await self._service.events(id_, after=_NUMBER_MAX, limit=1) is None:
            raise await self._service.unknown(id_)
        self._streams += 1
        return EventStream(self._service, id_, int(seen), self._stream_ended)

    def _stream_ended(self) -> None:
        self._streams -= 1

    async def list_actors(self, request: Request) -> Response:
        """What runs."""
        try:
            actors = await self._mesh.actor_status()
        except TransportError as error:
            raise Refusal(Kind.UNAVAILABLE, str(error), retry_after_s=1) from error
        paced = [self._service.insight.with_pace(each) for each in actors]
        return json_response(views.ActorList(paced))

    async def list_flows(self, request: Request) -> Response:
        """The flows."""
        flows = [
            views.FlowView(
                flow.name,
                list(flow.route),
                flow.description,
                None if flow.input_schema is None else dict(flow.input_schema),
                flow.timeout_s,
                f"/v1/flows/{flow.name}",
            )
            for _, flow in sorted(self._mesh.flows().items())
        ]
        return json_response(views.FlowList(flows))

    async def get_health(self, request: Request) -> Response:
        """Alive."""
        return json_response(views.Health())

    async def get_readiness(self, request: Request) -> Response:
        """Ready: the mesh and the store take envelopes."""
        await self._service.check()
        return json_response(views.Health())

    async def get_metrics(self, request: Request) -> Response:
        """What Prometheus reads."""
        return await metrics_response(self._metrics)

    async def get_openapi(self, request: Request) -> Response:
        """The OpenAPI document."""
        if self._openapi is None:
            self._openapi = openapi.text().encode()
        return Response(self._openapi, media_type="application/json")

    async def get_index(self, request: Request) -> Response:
        """Links."""
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
        index = views.Index("asya", asya.__version__, self._mesh.namespace, links)
        return json_response(index)

    def _flow(self, name: str) -> FlowSpec:
        flows = self._mesh.flows()
        flow = flows.get(name)
        if flow is None:
            close = nearest(name, flows)
            hint = f"; did you mean {close!r}?" if close else ""
            raise Refusal(Kind.UNKNOWN_FLOW, f"there is no flow {name!r}{hint}", nearest=close)
        return flow


async def _give_up_when_gone(receive: Receive, ending: Ending) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    ending.give_up()


def _trace(request: Request) -> dict[str, Any]:
    found = {name: request.headers.get(name) for name in TRACE_HEADERS}
    found[TRACEPARENT] = request.scope.get(TRACE, found[TRACEPARENT])
    return {name: value for name, value in found.items() if value}


def _wait(request: Request) -> float:
    given = request.query_params.get("wait")
    return 0.0 if given is None else seconds(given, "?wait")


def _whole(given: str, name: str, least: int, most: int) -> int:
    number = int(given) if given.isascii() and given.isdigit() and len(given) < 20 else -1
    if not least <= number <= most:
        raise _bad_query(name, f"expected a whole number from {least} to {most}, got {given!r}")
    return number


def _yes_or_no(given: str | None, name: str) -> bool | None:
    if given not in {None, "true", "false"}:
        raise _bad_query(name, f"expected true or false, got {given!r}")
    return None if given is None else given == "true"


def _bad_query(name: str, detail: str) -> Refusal:
    return Refusal(Kind.INVALID, f"?{name}: {detail}", faults=[Fault(f"?{name}", detail)])
