"""`/v1/envelopes`: send one with a route of its own, list, look at and cancel them."""

from __future__ import annotations

import contextlib
import uuid

from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response

from asya.gateway.http import answers, views
from asya.gateway.http.body import Bodies, parse_as
from asya.gateway.http.headers import read_key, trace_headers
from asya.gateway.http.present import summary_view, why_view
from asya.gateway.http.problems import HttpProblem
from asya.gateway.http.query import read, read_value
from asya.gateway.http.requests import (
    PATH_PARAMETERS,
    EnvelopeQuery,
    EnvelopeRequest,
    EnvelopesQuery,
    EventsHeaders,
    PayloadQuery,
)
from asya.gateway.http.respond import json_response
from asya.gateway.http.sse import EventStream
from asya.tasks.admission import begin_time, check_id, seconds
from asya.tasks.mesh import Idempotency
from asya.tasks.refusals import Refusal
from asya.tasks.service import TaskService
from asya.tasks.store.base import Query


class Envelopes:
    """The handlers.

    Args:
        service: Admits envelopes and knows them.
        bodies: Reads bodies.
        streams_max: Event streams that may be open at a time.
    """

    def __init__(self, service: TaskService, bodies: Bodies, streams_max: int) -> None:
        self._service = service
        self._bodies = bodies
        self._streams_max = streams_max
        self._streams = 0

    async def post(self, request: Request) -> Response:
        """Send an envelope with a route of its own."""
        wait_s = read(EnvelopeQuery, request.query_params).wait or 0.0
        with contextlib.ExitStack() as stack:
            async with self._bodies.read(request) as data:
                asked = parse_as(EnvelopeRequest, data)
                check_id(asked.id)
                id_ = asked.id or str(uuid.uuid4())
                timeout_s = None if asked.timeout is None else seconds(asked.timeout, "$.timeout")
                now = self._service.now()
                scope = f"route:{','.join(asked.route)}"
                ending = stack.enter_context(self._service.ending(id_, wanted=wait_s > 0))
                admission = await self._service.admit(
                    asked.route,
                    Raw(asked.payload),
                    id=id_,
                    headers={**trace_headers(request), **(asked.headers or {})},
                    timeout_s=timeout_s,
                    not_before=begin_time(asked.not_before, asked.delay, now, "$."),
                    key=read_key(request.headers, scope, Idempotency()),
                )
            del data, asked  # its bytes are let go before the request begins to wait
            return await answers.admitted(
                self._service, request.receive, admission, id_, ending, wait_s
            )

    async def list(self, request: Request) -> Response:
        """A page of envelopes, newest first."""
        query = read(EnvelopesQuery, request.query_params)
        rows = await self._service.page(
            Query(
                status=query.status,
                flow=query.flow,
                actor=query.actor,
                root=query.root,
                stuck=query.stuck,
                before=query.cursor,
                limit=query.limit + 1,
            )
        )
        page = rows[: query.limit]
        cursor = str(page[-1].key) if len(rows) > query.limit else None
        return json_response(views.EnvelopeList([summary_view(row) for row in page], cursor))

    async def get(self, request: Request) -> Response:
        """One envelope with its hops and its result."""
        detail = await self._service.get(request.path_params["id"])
        return await answers.envelope_response(detail, self._service.blobs)

    async def cancel(self, request: Request) -> Response:
        """Cancel an envelope, and the children of a root."""
        await self._service.cancel(request.path_params["id"])
        return Response(status_code=204)

    async def why(self, request: Request) -> Response:
        """Why an envelope is where it is."""
        return json_response(why_view(await self._service.facts(request.path_params["id"])))

    async def payload(self, request: Request) -> Response:
        """A hop's payload as it was kept."""
        query = read(PayloadQuery, request.query_params)
        n = read_value(PATH_PARAMETERS["n"], "?n", request.path_params["n"])
        found = await self._service.payload(request.path_params["id"], n, query.side, query.attempt)
        media = "application/octet-stream" if found.truncated else "application/json"
        headers = {
            "Asya-Truncated": "true" if found.truncated else "false",
            "Asya-Size": str(found.size),
            "Asya-Attempt": str(found.attempt),
        }
        return Response(found.body, 200, headers, media)

    async def events(self, request: Request) -> Response:
        """Stream events: history, then live ones, until the terminal one."""
        if request.method == "HEAD":
            raise HttpProblem("method-not-allowed", "a stream has no HEAD", allow="GET")
        id_ = request.path_params["id"]
        try:
            after = read(EventsHeaders, request.headers, where="").last_event_id or 0
        except Refusal as error:
            raise HttpProblem("bad-request", error.text) from error
        if self._streams >= self._streams_max:
            text = f"{self._streams_max} event streams are open, which is the bound"
            raise HttpProblem("too-many-streams", text, retry_after_s=5)
        await self._service.check_known(id_)
        self._streams += 1
        return EventStream(self._service, id_, after, self._stream_ended)

    def _stream_ended(self) -> None:
        self._streams -= 1
