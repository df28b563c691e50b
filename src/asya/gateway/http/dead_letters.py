"""`/v1/dead`: list dead letters, look at them, send them again, throw them away."""

from __future__ import annotations

from datetime import timedelta
from typing import cast

from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response

from asya.clock import to_rfc3339
from asya.gateway.http import answers, views
from asya.gateway.http.body import Bodies, parse_as
from asya.gateway.http.present import (
    dead_letter_group_view,
    dead_letter_summary,
    dead_letter_view,
    redriven_view,
)
from asya.gateway.http.query import read
from asya.gateway.http.requests import (
    BulkRetryRequest,
    DeadLettersQuery,
    LetterFilter,
    PurgeRequest,
    RetryRequest,
)
from asya.gateway.http.respond import json_response
from asya.tasks.admission import seconds
from asya.tasks.dead_letters import PURGE_STEP
from asya.tasks.redrive import RedriveOptions
from asya.tasks.refusals import Refusal
from asya.tasks.service import TaskService
from asya.tasks.store.base import DeadLetterQuery, DeadLetterStatus


class DeadLetters:
    """The handlers.

    Args:
        service: Has the dead letters.
        bodies: Reads bodies.
    """

    def __init__(self, service: TaskService, bodies: Bodies) -> None:
        self._service = service
        self._dead_letters = service.dead_letters
        self._bodies = bodies

    async def list(self, request: Request) -> Response:
        """A page of dead letters, or of groups of them, newest first."""
        asked = read(DeadLettersQuery, request.query_params)
        limit = asked.limit
        query = DeadLetterQuery(
            status=cast("DeadLetterStatus", asked.status),
            actor=asked.actor,
            reason=asked.reason,
            fingerprint=asked.fingerprint,
            before=asked.cursor,
            limit=limit + 1,
        )
        if asked.group == "none":
            rows = await self._dead_letters.page(query)
            last = str(rows[limit - 1].key) if len(rows) > limit else None
            letters = [dead_letter_summary(row) for row in rows[:limit]]
            return json_response(views.LetterList(last, letters=letters))
        groups = await self._dead_letters.groups(query)
        last = str(groups[limit - 1].newest.key) if len(groups) > limit else None
        shown = [dead_letter_group_view(each) for each in groups[:limit]]
        return json_response(views.LetterList(last, groups=shown))

    async def get(self, request: Request) -> Response:
        """One dead letter: error, hops, headers, payload."""
        row = await self._dead_letters.get(request.path_params["id"])
        sent, problem = await self._dead_letters.sent(row)
        detail = await self._service.find(row.id)
        return json_response(dead_letter_view(row, sent, problem, detail))

    async def redrive(self, request: Request) -> Response:
        """Send a dead letter again, as a new envelope."""
        id_ = request.path_params["id"]
        await self._dead_letters.get(id_)  # an unknown id is refused before the body is read
        async with self._bodies.read(request) as data:
            asked = parse_as(RetryRequest, data or b"{}")
        return answers.accepted(await self._dead_letters.redrive(id_, _options(asked)))

    async def redrive_many(self, request: Request) -> Response:
        """Send many dead letters again, the oldest first, for about a second."""
        async with self._bodies.read(request) as data:
            asked = parse_as(BulkRetryRequest, data)
        query = _query(asked, limit=asked.limit)
        done = await self._dead_letters.redrive_many(
            query, _options(asked), rate=asked.rate, cursor=asked.cursor
        )
        return json_response(redriven_view(done))

    async def purge(self, request: Request) -> Response:
        """Throw a dead letter away."""
        await self._dead_letters.purge_one(request.path_params["id"])
        return Response(status_code=204)

    async def purge_many(self, request: Request) -> Response:
        """Throw dead letters away."""
        async with self._bodies.read(request) as data:
            asked = parse_as(PurgeRequest, data)
        older_than = None
        if asked.older_than is not None:
            age = timedelta(seconds=seconds(asked.older_than, "$.older_than"))
            older_than = to_rfc3339(self._service.now() - age)
        query = _query(asked, limit=PURGE_STEP, older_than=older_than)
        return json_response(views.Purged(await self._dead_letters.purge(query)))


def _options(asked: RetryRequest | BulkRetryRequest) -> RedriveOptions:
    return RedriveOptions(
        [(each.path, Raw(each.value)) for each in asked.set],
        asked.route,
        None if asked.timeout is None else seconds(asked.timeout, "$.timeout"),
        asked.force,
    )


def _query(
    asked: BulkRetryRequest | PurgeRequest, *, limit: int, older_than: str | None = None
) -> DeadLetterQuery:
    if (asked.ids is not None) + (asked.filter is not None) + asked.all != 1:
        raise Refusal.invalid("give exactly one of ids, filter and all", "$")
    chosen = asked.filter or LetterFilter()
    return DeadLetterQuery(
        actor=chosen.actor,
        reason=chosen.reason,
        fingerprint=chosen.fingerprint,
        ids=None if asked.ids is None else tuple(asked.ids),
        older_than=older_than,
        limit=limit,
    )
