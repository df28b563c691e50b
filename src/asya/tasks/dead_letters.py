"""Dead letters: looked at, sent again, thrown away. Part of the task service.

A retry stores the new task, its envelope and the mark of the letter in one transaction, then
publishes; an envelope that is stored and not published is published by the service's chore. So the
death of any process leaves each letter either dead or retried once. A run over many letters keeps
nothing in memory: every request deals with a page, and its cursor says where the next one begins.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import msgspec
from msgspec import Raw

from asya.blobs.claims import Claims
from asya.clock import Clock, to_rfc3339
from asya.envelope import BLOB_HEADER, FLOW_HEADER, Envelope, decode, encode, raw_json
from asya.errors import (
    BlobError,
    BlobUnavailable,
    MessageTooLarge,
    TransportError,
    TransportUnavailable,
)
from asya.gateway.http.dead_letter_views import (
    BulkRetried,
    BulkRetryRequest,
    LetterFilter,
    PurgeRequest,
    RefusedLetter,
    RetriedLetter,
    RetryRequest,
)
from asya.gateway.http.problems import ProblemError
from asya.gateway.http.views import Fault
from asya.tasks import redrive as mending
from asya.tasks.admission import RETRY_AFTER_S, check_payload, check_route, seconds
from asya.tasks.mesh import MeshPort
from asya.tasks.rules import Failure, TaskRow
from asya.tasks.store.base import Detail, TaskStore
from asya.tasks.store.sqlite.dead_letters import LetterGroup, LetterQuery, LetterRow

BATCH_S: Final = 1.0
"""How long a request about many letters works before it answers, in seconds."""

PURGE_STEP: Final = 500
"""Letters that one transaction throws away."""

_BUSY: Final = 429
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenLetter:
    """A letter with all that is known of it.

    Attributes:
        row: As stored.
        envelope: As it lies in the dead letters; None of one that was purged.
        sent: What the failing actor got, its payload restored; None of one that was purged.
        payload_problem: Why the payload is not to be had, or None.
        detail: The task, as long as it is kept.
    """

    row: LetterRow
    envelope: Envelope | None
    sent: Envelope | None
    payload_problem: str | None
    detail: Detail | None


class Letters:
    """The dead letters of a mesh.

    Args:
        store: Where they are.
        mesh: Where new envelopes go.
        clock: The time of day.
        claims: Where big payloads are.
        payload_max_bytes: The largest payload that is sent again.
        check: Refuses a route that cannot be taken now.
        published: Told of a new envelope that is in its queue.
        unknown: Makes the refusal of an id that nothing is known of.
    """

    def __init__(
        self,
        store: TaskStore,
        mesh: MeshPort,
        clock: Clock,
        claims: Claims,
        *,
        payload_max_bytes: int,
        check: Callable[[Sequence[str]], Awaitable[None]],
        published: Callable[[Envelope], None],
        unknown: Callable[[str], Awaitable[ProblemError]],
    ) -> None:
        self._store = store
        self._mesh = mesh
        self._clock = clock
        self._claims = claims
        self._payload_max_bytes = payload_max_bytes
        self._check = check
        self._published = published
        self._unknown = unknown

    # All methods raise `StoreError` when the store cannot be used.

    async def page(self, query: LetterQuery) -> list[LetterRow]:
        """Letters, without their bytes."""
        return await self._store.letters(query)

    async def groups(self, query: LetterQuery) -> list[LetterGroup]:
        """Letters by actor and error."""
        return await self._store.letter_groups(query)

    async def get(self, id: str) -> OpenLetter:
        """One letter.

        Raises:
            ProblemError: The envelope is not dead, or not known.
        """
        row = await self.get_row(id)
        detail = await self._store.get(id)
        if not row.body:
            return OpenLetter(row, None, None, "it was purged", detail)
        envelope = decode(row.body)
        sent, problem = mending.as_sent(envelope), None
        try:
            sent = await self._whole(sent)
        except BlobError as error:
            problem = str(error)
        return OpenLetter(row, envelope, sent, problem, detail)

    async def get_row(self, id: str) -> LetterRow:
        """One letter as it is stored.

        Raises:
            ProblemError: The envelope is not dead, or not known.
        """
        letter = await self._store.letter(id)
        if letter is not None:
            return letter
        detail = await self._store.get(id)
        if detail is None:
            raise await self._unknown(id)
        raise ProblemError(
            "not-dead", f"the envelope {id} is no dead letter: it is {_state(detail.row)}", id=id
        )

    async def retry(self, id: str, asked: RetryRequest) -> TaskRow:
        """Send a letter again; when this returns the new envelope is stored.

        Raises:
            ProblemError: Refused, the letter stays as it is.
        """
        letter = await self.get_row(id)
        if letter.status == "purged" or (letter.status == "retried" and not asked.force):
            raise _settled(letter)
        envelope = await self._new_try(letter, asked)
        row = TaskRow(
            id=envelope.id,
            root=envelope.id,
            route=envelope.route,
            created_at=envelope.status.created_at,
            updated_at=envelope.status.updated_at,
            parent_id=envelope.parent_id,
            flow=envelope.header_text(FLOW_HEADER),
            headers=bytes(raw_json(envelope.headers)),
            deadline_at=envelope.status.deadline_at,
        )
        settled = await self._store.retry_letter(letter, row, encode(envelope), force=asked.force)
        if settled is not None:
            raise _settled(settled)
        await self._publish(letter, envelope)
        return row

    async def retry_some(self, asked: BulkRetryRequest) -> BulkRetried:
        """Send letters again, one by one, for about a second.

        Raises:
            ProblemError: The request does not fit, or nothing could be done now.
        """
        how = RetryRequest(asked.set, asked.route, asked.timeout, asked.force)
        ids, cursors = await self._chosen(asked)
        done = BulkRetried([], [], [], None)
        started = time.monotonic()
        for count, (id_, before) in enumerate(zip(ids, cursors, strict=False), start=1):
            try:
                row = await self.retry(id_, how)
            except ProblemError as error:
                document = error.document
                if document.status == _BUSY or document.status >= 500:
                    if count == 1:
                        raise
                    done.next_cursor = before
                    break
                if document.retried_as is not None:
                    done.already.append(RetriedLetter(id_, document.retried_as))
                else:
                    done.refused.append(RefusedLetter(id_, document.detail))
            else:
                done.retried.append(RetriedLetter(id_, row.id))
                if asked.rate is not None:
                    slot = started + len(done.retried) / asked.rate
                    await asyncio.sleep(max(0.0, slot - time.monotonic()))
            done.next_cursor = cursors[count]
            if time.monotonic() - started >= BATCH_S:
                break
        return done

    async def purge(self, asked: PurgeRequest) -> int:
        """Throw letters away; gives how many.

        Raises:
            ProblemError: The request does not fit.
        """
        now = self._clock.now()
        _check_choice(asked)
        older_than = None
        if asked.older_than is not None:
            age_s = seconds(asked.older_than, "$.older_than")
            older_than = to_rfc3339(now - timedelta(seconds=age_s))
        chosen = asked.filter or LetterFilter()
        query = LetterQuery(
            actor=chosen.actor,
            reason=chosen.reason,
            fingerprint=chosen.fingerprint,
            ids=None if asked.ids is None else tuple(asked.ids),
            older_than=older_than,
            limit=PURGE_STEP,
        )
        purged = 0
        while step := await self._store.purge_letters(query, to_rfc3339(now)):
            purged += step
        return purged

    async def purge_one(self, id: str) -> None:
        """Throw one letter away, also one that was retried; idempotent.

        Raises:
            ProblemError: The envelope is not dead, or not known.
        """
        letter = await self.get_row(id)
        query = LetterQuery(status=None, ids=(letter.id,), limit=PURGE_STEP)
        await self._store.purge_letters(query, to_rfc3339(self._clock.now()))

    async def _whole(self, sent: Envelope) -> Envelope:
        """The envelope with its payload, which may be in the blob store.

        Raises:
            BlobError: It is gone, or not to be had now.
        """
        return await self._claims.restore(sent)

    async def _new_try(self, letter: LetterRow, asked: RetryRequest) -> Envelope:
        buried = decode(letter.body)
        sent = mending.as_sent(buried)
        now = self._clock.now()
        actors = mending.retry_route(buried, sent, asked.route)
        check_route(actors)
        timeout_s = None if asked.timeout is None else seconds(asked.timeout, "$.timeout")
        try:
            if mending.needs_payload(asked.set):
                sent = await self._whole(sent)
            made = mending.new_try(
                _named(sent, letter.id),
                actors,
                asked.set,
                id=str(uuid.uuid4()),
                now=now,
                deadline=None if timeout_s is None else now + timedelta(seconds=timeout_s),
            )
            if BLOB_HEADER not in made.headers:
                check_payload(made.payload, self._payload_max_bytes)
            await self._check(actors)
            await self._claims.check_in(made)
        except BlobUnavailable as error:
            raise ProblemError(
                "blobs-unavailable", str(error), id=letter.id, retry_after_s=RETRY_AFTER_S
            ) from error
        except BlobError as error:
            faults = [Fault("$.set", str(error))]
            raise ProblemError("invalid", str(error), id=letter.id, errors=faults) from error
        return made

    async def _publish(self, letter: LetterRow, envelope: Envelope) -> None:
        try:
            await self._mesh.publish(envelope, dedup_id=f"{envelope.id}:0")
        except TransportUnavailable as error:  # it is stored: the chore publishes it
            _log.warning("it is not published yet: %s", error, extra={"envelope": envelope.id})
        except TransportError as error:
            await self._store.unretry_letter(letter, envelope.id)
            name = "too-large" if isinstance(error, MessageTooLarge) else "unknown-actor"
            raise ProblemError(name, str(error), id=letter.id) from error
        else:
            self._published(envelope)

    async def _chosen(self, asked: BulkRetryRequest) -> tuple[list[str], list[str | None]]:
        """Ids of a page, and cursors: that before each one, and after the last."""
        _check_choice(asked)
        if asked.ids is not None:
            start = _numbers(asked.cursor or "0", 1)[0]
            ids = asked.ids[start : start + asked.limit]
            cursors: list[str | None] = [str(start + number) for number in range(len(ids) + 1)]
            if start + len(ids) >= len(asked.ids):
                cursors[-1] = None
            return ids, cursors
        chosen = asked.filter or LetterFilter()
        query = LetterQuery(
            actor=chosen.actor,
            reason=chosen.reason,
            fingerprint=chosen.fingerprint,
            newest_first=False,
            limit=asked.limit + 1,
        )
        if asked.cursor is None:
            # what dies again while the run goes on is no part of it
            newest = await self._store.letters(LetterQuery(status=None, limit=1))
            after, until = 0, newest[0].key if newest else 0
        else:
            after, until = _numbers(asked.cursor, 2)
        found = await self._store.letters(
            msgspec.structs.replace(query, after=after, before=until + 1)
        )
        rows, more = found[: asked.limit], len(found) > asked.limit
        places: list[str | None] = [f"{key}-{until}" for key in (after, *(row.key for row in rows))]
        if not more:
            places[-1] = None
        return [row.id for row in rows], places


def _named(sent: Envelope, id: str) -> Envelope:
    """The envelope under the id of its letter, which becomes the parent's."""
    named = sent.copy()
    named.id = id
    return named


def case_of(sent: Envelope) -> Raw:
    """An envelope as JSON without its payload."""
    bare = sent.copy()
    bare.payload = Raw(b"null")
    bare.headers.pop(BLOB_HEADER, None)
    return Raw(encode(bare))


def _state(row: TaskRow) -> str:
    """`succeeded`, or `failed (DeadlineExceeded)`: not every failure leaves a letter."""
    failure = None if row.error is None else msgspec.json.decode(row.error, type=Failure)
    return f"{row.status} ({failure.reason})" if failure and failure.reason else row.status


def _settled(letter: LetterRow) -> ProblemError:
    text = f"the letter {letter.id} was {letter.status}"
    if letter.status == "retried":
        text += f" as {letter.retried_as}; with `force` it is sent once more"
    retried_as = letter.retried_as if letter.status == "retried" else None
    return ProblemError("not-dead", text, id=letter.id, retried_as=retried_as)


def _check_choice(asked: BulkRetryRequest | PurgeRequest) -> None:
    given = (asked.ids is not None) + (asked.filter is not None) + asked.all
    if given != 1:
        detail = "give exactly one of ids, filter and all"
        raise ProblemError("invalid", detail, errors=[Fault("$", detail)])


def _numbers(cursor: str, count: int) -> list[int]:
    parts = cursor.split("-")
    if len(parts) != count or not all(
        part.isascii() and part.isdigit() and len(part) < 19 for part in parts
    ):
        detail = f"{cursor!r} is no cursor of this list"
        raise ProblemError("invalid", detail, errors=[Fault("$.cursor", detail)])
    return [int(part) for part in parts]
