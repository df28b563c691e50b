"""Dead letters: look at them, send them again, throw them away. Part of the task service.

A redrive stores the new task, its envelope and the mark of the letter in one transaction, and then
publishes the envelope. If the process dies in between, the outbox publishes it. So each letter is
either dead, or was retried once. A run over many letters keeps nothing in memory: every request
deals with one page, and its cursor says where the next page begins.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import msgspec

from asya.blobs.claims import Claims
from asya.clock import Clock, to_rfc3339
from asya.envelope import BLOB_HEADER, Envelope, decode, encode
from asya.errors import (
    BlobError,
    BlobUnavailable,
    TransportError,
    TransportUnavailable,
)
from asya.tasks.admission import check_payload, check_route, new_row
from asya.tasks.mesh import MeshClient
from asya.tasks.outbox import publish_refusal
from asya.tasks.redrive import RedriveOptions, as_sent, needs_payload, new_try, retry_route
from asya.tasks.refusals import RETRY_AFTER_S, Kind, Refusal, refuses_store_errors
from asya.tasks.rules import Failure, TaskRow
from asya.tasks.store.base import DeadLetterGroup, DeadLetterQuery, DeadLetterRow, Store

BATCH_S: Final = 1.0
"""Seconds that a request about many letters works before it answers."""

PURGE_STEP: Final = 500
"""Letters that one transaction throws away."""

log = logging.getLogger(__name__)


@dataclass
class Redriven:
    """What one step of a run over many letters did.

    Attributes:
        retried: Pairs of a letter's id and the id of the envelope that was made of it.
        already: The same for letters that were retried before.
        refused: Pairs of an id and the text that says why its letter stays as it is.
        next_cursor: Where the next step begins, or None when the run is over.
    """

    retried: list[tuple[str, str]] = field(default_factory=list)
    already: list[tuple[str, str]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    next_cursor: str | None = None


class DeadLetters:
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
        store: Store,
        mesh: MeshClient,
        clock: Clock,
        claims: Claims,
        *,
        payload_max_bytes: int,
        check: Callable[[Sequence[str]], Awaitable[None]],
        published: Callable[[Envelope], None],
        unknown: Callable[[str], Awaitable[Refusal]],
    ) -> None:
        self._store = store
        self._mesh = mesh
        self._clock = clock
        self._claims = claims
        self._payload_max_bytes = payload_max_bytes
        self._check = check
        self._published = published
        self._unknown = unknown

    @refuses_store_errors
    async def page(self, query: DeadLetterQuery) -> list[DeadLetterRow]:
        """Letters, without their bytes."""
        return await self._store.dead_letters.page(query)

    @refuses_store_errors
    async def groups(self, query: DeadLetterQuery) -> list[DeadLetterGroup]:
        """Letters by actor and error."""
        return await self._store.dead_letters.groups(query)

    @refuses_store_errors
    async def get(self, id: str) -> DeadLetterRow:
        """One letter as it is stored, with its bytes.

        Raises:
            Refusal: The envelope is not dead, or not known.
        """
        letter = await self._store.dead_letters.get(id)
        if letter is not None:
            return letter
        detail = await self._store.tasks.get(id)
        if detail is None:
            raise await self._unknown(id)
        raise Refusal(
            Kind.NOT_DEAD,
            f"the envelope {id} is not a dead letter: it is {_state(detail.row)}",
            id=id,
        )

    async def sent(self, letter: DeadLetterRow) -> tuple[Envelope | None, str | None]:
        """What the failing actor got, with its payload, and why that is missing, or None."""
        if not letter.body:
            return None, "it was purged"
        sent = as_sent(decode(letter.body))
        try:
            return await self._claims.restore(sent), None
        except BlobError as error:
            return sent, str(error)

    @refuses_store_errors
    async def redrive(self, id: str, options: RedriveOptions) -> TaskRow:
        """Send a letter again; when this returns the new envelope is stored.

        Raises:
            Refusal: The letter stays as it is.
        """
        letter = await self.get(id)
        if letter.status == "purged" or (letter.status == "retried" and not options.force):
            raise _settled(letter)
        envelope = await self._new_try(letter, options)
        row = new_row(envelope)
        settled = await self._store.dead_letters.redrive(
            letter, row, encode(envelope), force=options.force
        )
        if settled is not None:
            raise _settled(settled)
        await self._publish(letter, envelope)
        return row

    @refuses_store_errors
    async def redrive_many(
        self,
        query: DeadLetterQuery,
        options: RedriveOptions,
        *,
        rate: float | None = None,
        cursor: str | None = None,
    ) -> Redriven:
        """Send letters again, the oldest first and one by one, for about a second.

        Args:
            query: Which letters: `ids`, or all that match; `limit` is the size of a step.
            options: How each one is sent.
            rate: Letters per second at most, or None.
            cursor: `next_cursor` of the step before, or None for the first step.

        Raises:
            Refusal: The cursor cannot be read, or nothing could be done now.
        """
        ids, cursors = await self._chosen(query, cursor)
        done = Redriven()
        started = time.monotonic()
        for count, (id_, before) in enumerate(zip(ids, cursors, strict=False), start=1):
            try:
                row = await self.redrive(id_, options)
            except Refusal as error:
                if error.transient:
                    if count == 1:
                        raise
                    done.next_cursor = before
                    break
                if error.retried_as is not None:
                    done.already.append((id_, error.retried_as))
                else:
                    done.refused.append((id_, error.text))
            else:
                done.retried.append((id_, row.id))
                if rate is not None:
                    slot = started + len(done.retried) / rate
                    await asyncio.sleep(max(0.0, slot - time.monotonic()))
            done.next_cursor = cursors[count]
            if time.monotonic() - started >= BATCH_S:
                break
        return done

    @refuses_store_errors
    async def purge(self, query: DeadLetterQuery) -> int:
        """Throw away all letters that match, in steps of `query.limit`; gives how many."""
        now = self._clock.now()
        purged = 0
        while step := await self._store.dead_letters.purge(query, to_rfc3339(now)):
            purged += step
        return purged

    @refuses_store_errors
    async def purge_one(self, id: str) -> None:
        """Throw one letter away, also one that was retried; idempotent.

        Raises:
            Refusal: The envelope is not dead, or not known.
        """
        letter = await self.get(id)
        query = DeadLetterQuery(status=None, ids=(letter.id,), limit=PURGE_STEP)
        await self._store.dead_letters.purge(query, to_rfc3339(self._clock.now()))

    async def _new_try(self, letter: DeadLetterRow, options: RedriveOptions) -> Envelope:
        stored = decode(letter.body)
        sent = as_sent(stored)
        now = self._clock.now()
        actors = retry_route(stored, sent, options.route)
        check_route(actors)
        timeout_s = options.timeout_s
        try:
            if needs_payload(options.assignments):
                sent = await self._claims.restore(sent)
            made = new_try(
                _named(sent, letter.id),
                actors,
                options.assignments,
                id=str(uuid.uuid4()),
                now=now,
                deadline=None if timeout_s is None else now + timedelta(seconds=timeout_s),
            )
            if BLOB_HEADER not in made.headers:
                check_payload(made.payload, self._payload_max_bytes)
            await self._check(actors)
            await self._claims.check_in(made)
        except BlobUnavailable as error:
            raise Refusal(
                Kind.BLOBS_UNAVAILABLE, str(error), id=letter.id, retry_after_s=RETRY_AFTER_S
            ) from error
        except BlobError as error:
            raise Refusal.invalid(str(error), "$.set", id=letter.id) from error
        return made

    async def _publish(self, letter: DeadLetterRow, envelope: Envelope) -> None:
        try:
            await self._mesh.publish(envelope, dedup_id=f"{envelope.id}:0")
        except TransportUnavailable as error:  # it is stored, so the outbox publishes it
            log.warning("not published yet: %s", error, extra={"envelope": envelope.id})
        except TransportError as error:
            await self._store.dead_letters.undo_redrive(letter, envelope.id)
            raise publish_refusal(envelope, error, id=letter.id) from error
        else:
            self._published(envelope)

    async def _chosen(
        self, query: DeadLetterQuery, cursor: str | None
    ) -> tuple[list[str], list[str | None]]:
        """Ids of a page, and cursors: that before each one, and after the last."""
        if query.ids is not None:
            start = _numbers(cursor or "0", 1)[0]
            ids = list(query.ids[start : start + query.limit])
            cursors: list[str | None] = [str(start + number) for number in range(len(ids) + 1)]
            if start + len(ids) >= len(query.ids):
                cursors[-1] = None
            return ids, cursors
        if cursor is None:
            # An envelope that dies again while the run goes on is not part of the run.
            newest = await self._store.dead_letters.page(DeadLetterQuery(status=None, limit=1))
            after, until = 0, newest[0].key if newest else 0
        else:
            after, until = _numbers(cursor, 2)
        found = await self._store.dead_letters.page(
            msgspec.structs.replace(
                query, after=after, before=until + 1, newest_first=False, limit=query.limit + 1
            )
        )
        rows, more = found[: query.limit], len(found) > query.limit
        places: list[str | None] = [f"{key}-{until}" for key in (after, *(row.key for row in rows))]
        if not more:
            places[-1] = None
        return [row.id for row in rows], places


def _named(sent: Envelope, id: str) -> Envelope:
    """The envelope under the id of its letter, which becomes the parent id of the new one."""
    named = sent.copy()
    named.id = id
    return named


def _state(row: TaskRow) -> str:
    """`succeeded`, or `failed (DeadlineExceeded)`: not every failure leaves a letter."""
    failure = None if row.error is None else msgspec.json.decode(row.error, type=Failure)
    return f"{row.status} ({failure.reason})" if failure and failure.reason else row.status


def _settled(letter: DeadLetterRow) -> Refusal:
    text = f"the letter {letter.id} was {letter.status}"
    if letter.status == "retried":
        text += f" as {letter.retried_as}; with `force` it is sent once more"
    retried_as = letter.retried_as if letter.status == "retried" else None
    return Refusal(Kind.NOT_DEAD, text, id=letter.id, retried_as=retried_as)


def _numbers(cursor: str, count: int) -> list[int]:
    parts = cursor.split("-")
    if len(parts) != count or not all(
        part.isascii() and part.isdigit() and len(part) < 19 for part in parts
    ):
        detail = f"{cursor!r} is not a cursor of this list"
        raise Refusal.invalid(detail, "$.cursor")
    return [int(part) for part in parts]
