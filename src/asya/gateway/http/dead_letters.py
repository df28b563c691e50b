"""The handlers of the operations on dead letters; part of `endpoints.Endpoints`."""

from __future__ import annotations

from datetime import timedelta
from typing import Final, cast

from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response

from asya.clock import to_rfc3339
from asya.envelope import encode, raw_json
from asya.gateway.http import dead_letter_views as letter_views
from asya.gateway.http import views
from asya.gateway.http.body import Bodies, parse_as
from asya.gateway.http.present import hops, summary_view
from asya.gateway.http.respond import json_response
from asya.gateway.http.views import ErrorView, RouteView
from asya.tasks.admission import seconds
from asya.tasks.dead_letters import PURGE_STEP, OpenLetter, case_of
from asya.tasks.redrive import RedriveOptions
from asya.tasks.refusals import Fault, Kind, Refusal
from asya.tasks.service import TaskService
from asya.tasks.store.base import DeadLetterGroup, DeadLetterQuery, DeadLetterRow, DeadLetterStatus

LETTER_STATES: Final = ("dead", "retried", "purged")
GROUPINGS: Final = ("fingerprint", "none")
LETTERS_MAX: Final = 500

_NULL: Final = Raw(b"null")
_EMPTY: Final = Raw(b"{}")


class LetterEndpoints:
    """The handlers. Whoever takes them in has the two attributes."""

    _service: TaskService
    _bodies: Bodies

    async def list_dead(self, request: Request) -> Response:
        """A page of dead letters, or of groups of them."""
        asked = request.query_params
        group = _one_of(asked.get("group", "fingerprint"), "group", GROUPINGS)
        status = _one_of(asked.get("status", "dead"), "status", LETTER_STATES)
        limit = _number(asked.get("limit", "50"), "limit", LETTERS_MAX)
        cursor = asked.get("cursor")
        query = DeadLetterQuery(
            status=cast("DeadLetterStatus", status),
            actor=asked.get("actor"),
            reason=asked.get("reason"),
            fingerprint=asked.get("fingerprint"),
            before=None if cursor is None else _number(cursor, "cursor", 2**62),
            limit=limit + 1,
        )
        letters = self._service.dead_letters
        if group == "none":
            rows = await letters.page(query)
            last = str(rows[limit - 1].key) if len(rows) > limit else None
            found = [_summary(row) for row in rows[:limit]]
            return json_response(letter_views.LetterList(last, letters=found))
        groups = await letters.groups(query)
        last = str(groups[limit - 1].newest.key) if len(groups) > limit else None
        return json_response(
            letter_views.LetterList(last, groups=[_group(each) for each in groups[:limit]])
        )

    async def get_dead(self, request: Request) -> Response:
        """One dead letter."""
        return json_response(_view(await self._service.dead_letters.get(_id(request))))

    async def retry_dead(self, request: Request) -> Response:
        """Send one again."""
        id_ = _id(request)
        await self._service.dead_letters.get_row(id_)
        async with self._bodies.read(request) as data:
            asked = parse_as(letter_views.RetryRequest, data or b"{}")
        row = await self._service.dead_letters.redrive(id_, _options(asked))
        url = f"/v1/envelopes/{row.id}"
        accepted = views.Accepted(row.id, summary_view(row).status, url, f"{url}/events")
        return json_response(accepted, 202, {"Location": url})

    async def retry_many_dead(self, request: Request) -> Response:
        """Send many again."""
        async with self._bodies.read(request) as data:
            asked = parse_as(letter_views.BulkRetryRequest, data)
        query, options = _query(asked, limit=asked.limit), _options(asked)
        done = await self._service.dead_letters.redrive_many(
            query, options, rate=asked.rate, cursor=asked.cursor
        )
        return json_response(
            letter_views.BulkRetried(
                [letter_views.RetriedLetter(*each) for each in done.retried],
                [letter_views.RetriedLetter(*each) for each in done.already],
                [letter_views.RefusedLetter(*each) for each in done.refused],
                done.next_cursor,
            )
        )

    async def purge_dead(self, request: Request) -> Response:
        """Throw one away."""
        await self._service.dead_letters.purge_one(_id(request))
        return Response(status_code=204)

    async def purge_many_dead(self, request: Request) -> Response:
        """Throw many away."""
        async with self._bodies.read(request) as data:
            asked = parse_as(letter_views.PurgeRequest, data)
        older_than = None
        if asked.older_than is not None:
            age = timedelta(seconds=seconds(asked.older_than, "$.older_than"))
            older_than = to_rfc3339(self._service.now() - age)
        query = _query(asked, limit=PURGE_STEP, older_than=older_than)
        return json_response(letter_views.Purged(await self._service.dead_letters.purge(query)))


def _options(asked: letter_views.RetryRequest | letter_views.BulkRetryRequest) -> RedriveOptions:
    return RedriveOptions(
        [(each.path, Raw(each.value)) for each in asked.set],
        asked.route,
        None if asked.timeout is None else seconds(asked.timeout, "$.timeout"),
        asked.force,
    )


def _query(
    asked: letter_views.BulkRetryRequest | letter_views.PurgeRequest,
    *,
    limit: int,
    older_than: str | None = None,
) -> DeadLetterQuery:
    if (asked.ids is not None) + (asked.filter is not None) + asked.all != 1:
        raise Refusal.invalid("give exactly one of ids, filter and all", "$")
    chosen = asked.filter or letter_views.LetterFilter()
    return DeadLetterQuery(
        actor=chosen.actor,
        reason=chosen.reason,
        fingerprint=chosen.fingerprint,
        ids=None if asked.ids is None else tuple(asked.ids),
        older_than=older_than,
        limit=limit,
    )


def _id(request: Request) -> str:
    found: str = request.path_params["id"]
    return found


def _one_of(given: str, name: str, known: tuple[str, ...]) -> str:
    if given not in known:
        raise _bad(name, f"expected one of {', '.join(known)}, got {given!r}")
    return given


def _number(given: str, name: str, most: int) -> int:
    number = int(given) if given.isascii() and given.isdigit() and len(given) < 20 else 0
    if not 1 <= number <= most:
        raise _bad(name, f"expected a whole number from 1 to {most}, got {given!r}")
    return number


def _bad(name: str, detail: str) -> Refusal:
    return Refusal(Kind.INVALID, f"?{name}: {detail}", faults=[Fault(f"?{name}", detail)])


def _summary(row: DeadLetterRow) -> letter_views.LetterSummary:
    return letter_views.LetterSummary(
        row.id,
        row.status,
        row.reason,
        row.actor,
        row.at,
        row.fingerprint,
        row.retried_as,
        _error(row, whole=False),
    )


def _error(row: DeadLetterRow, *, whole: bool) -> ErrorView | None:
    error = row.error
    if error is None:
        return None
    traceback = (error.traceback or None) if whole else None
    return ErrorView(error.type, error.message, traceback, row.reason)


def _group(group: DeadLetterGroup) -> letter_views.LetterGroupView:
    return letter_views.LetterGroupView(
        group.fingerprint,
        group.actor,
        group.reasons,
        group.count,
        group.first_at,
        group.last_at,
        group.newest.id,
        _error(group.newest, whole=False),
    )


def _view(letter: OpenLetter) -> letter_views.LetterView:
    row, sent = letter.row, letter.sent
    gone = sent is None or letter.payload_problem is not None
    return letter_views.LetterView(
        row.id,
        row.status,
        row.reason,
        row.actor,
        row.at,
        row.fingerprint,
        row.retried_as,
        _error(row, whole=True),
        None if sent is None else sent.parent_id,
        RouteView([], row.actor, [])
        if sent is None
        else RouteView(sent.route.prev, sent.route.curr, sent.route.next),
        1 if sent is None else sent.status.attempt,
        _EMPTY if sent is None else raw_json(sent.headers),
        _NULL if sent is None or gone else sent.payload,
        letter.payload_problem,
        _NULL if sent is None else case_of(sent),
        _NULL if letter.envelope is None else Raw(encode(letter.envelope)),
        [] if letter.detail is None else hops(letter.detail.events),
    )
