"""`/v1/schedules`: list the schedules, fire one now, suspend and resume them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from asya.gateway.http import answers, views
from asya.gateway.http.present import schedule_view
from asya.gateway.http.query import read
from asya.gateway.http.requests import RunQuery
from asya.gateway.http.respond import json_response
from asya.tasks.scheduler import Scheduler


class Schedules:
    """The handlers.

    Args:
        scheduler: Fires the schedules.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    async def list(self, request: Request) -> Response:
        """The schedules: when each one runs next, and what it did last."""
        states = await self._scheduler.states()
        return json_response(views.ScheduleList([schedule_view(state) for state in states]))

    async def run(self, request: Request) -> Response:
        """Fire a schedule now, suspended or not."""
        query = read(RunQuery, request.query_params)
        return answers.accepted(await self._scheduler.run(request.path_params["name"], query.id))

    async def suspend(self, request: Request) -> Response:
        """Make no more runs."""
        state = await self._scheduler.suspend(request.path_params["name"], suspended=True)
        return json_response(schedule_view(state))

    async def resume(self, request: Request) -> Response:
        """Make runs again."""
        state = await self._scheduler.suspend(request.path_params["name"], suspended=False)
        return json_response(schedule_view(state))
