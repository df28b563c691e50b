"""The handlers of the operations on schedules; part of `endpoints.Endpoints`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from asya.gateway.http import views
from asya.gateway.http.present import summary_view
from asya.gateway.http.respond import json_response
from asya.tasks.rules import TaskRow
from asya.tasks.scheduler import ScheduleState
from asya.tasks.service import TaskService


class ScheduleEndpoints:
    """The handlers.

    Args:
        service: The task service.
    """

    def __init__(self, service: TaskService) -> None:
        self._service = service

    async def list_schedules(self, request: Request) -> Response:
        """The schedules."""
        states = await self._service.schedules.states()
        return json_response(views.ScheduleList([_view(state) for state in states]))

    async def run_schedule(self, request: Request) -> Response:
        """Fire one now."""
        name, id_ = request.path_params["name"], request.query_params.get("id")
        row: TaskRow = await self._service.schedules.run(name, id_)
        url = f"/v1/envelopes/{row.id}"
        accepted = views.Accepted(row.id, summary_view(row).status, url, f"{url}/events")
        return json_response(accepted, 202, {"Location": url})

    async def suspend_schedule(self, request: Request) -> Response:
        """Make no more runs."""
        return await self._set_suspended(request, suspended=True)

    async def resume_schedule(self, request: Request) -> Response:
        """Make runs again."""
        return await self._set_suspended(request, suspended=False)

    async def _set_suspended(self, request: Request, *, suspended: bool) -> Response:
        name = request.path_params["name"]
        state = await self._service.schedules.suspend(name, suspended=suspended)
        return json_response(_view(state))


def _view(state: ScheduleState) -> views.ScheduleView:
    spec = state.spec
    return views.ScheduleView(
        spec.name,
        spec.flow,
        list(spec.route),
        spec.text,
        spec.timezone,
        spec.missed_runs,
        spec.concurrency_policy,
        state.suspended,
        state.next_at,
        state.last_at,
        state.last_id,
        state.last_error,
    )
