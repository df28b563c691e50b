"""Dead letters: sent again once, in pages, at a rate; thrown away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from tests.support.task_service import ListMesh, StandingClock

from asya.blobs.claims import Claims
from asya.blobs.memory import MemoryBlobs
from asya.clock import to_rfc3339
from asya.crew import Sink, Sump
from asya.envelope import BLOB_HEADER, Envelope, ErrorInfo, new_envelope
from asya.errors import MessageTooLarge, QueueMissing, TransportError, TransportUnavailable
from asya.resiliency import Resiliency
from asya.sidecar.decide import decide, reject
from asya.sidecar.outcome import Raised, unparsable
from asya.tasks import dead_letters as letters_module
from asya.tasks.redrive import RedriveOptions
from asya.tasks.refusals import Kind, Refusal
from asya.tasks.service import TaskService
from asya.tasks.store.base import DeadLetterQuery, Query
from asya.tasks.store.sqlite.store import SqliteStore

START = datetime(2026, 1, 1, tzinfo=UTC)
ONCE = RedriveOptions()


@pytest.fixture
def kill(service: TaskService) -> Callable[..., Any]:
    """Let envelopes die at the first actor of their route; gives the sump's envelope."""
    return lambda *args, **more: die(service, *args, **more)


async def die(
    service: TaskService,
    id: str,
    *route: Any,
    payload: bytes = b'{"row":1}',
    message: str = "row 1 is bad",
    claims: Claims | None = None,
) -> Envelope:
    envelope = new_envelope(list(route or ("a", "b")), Raw(payload), now=START, id=id)
    if claims is not None:
        await claims.check_in(envelope)
    raised = Raised(ErrorInfo("ValueError", message))
    (send,) = decide(envelope, raised, Resiliency(), START, max)
    dead = send.envelope
    await Sump(service).accept(dead)
    return dead


def reason(refused: Any) -> str:
    return str(refused.value.kind)


async def test_a_letter_is_sent_again_once(
    service: TaskService, mesh: ListMesh, kill: Callable[..., Any]
) -> None:
    await kill("t")
    row = await service.dead_letters.redrive("t", ONCE)
    (sent,) = mesh.published
    assert (sent.id, sent.parent_id, sent.route.curr, sent.route.next) == (row.id, "t", "a", ["b"])
    assert bytes(sent.payload) == b'{"row":1}'
    detail = await service.get(row.id)
    assert (detail.row.status, detail.row.parent_id) == ("pending", "t")
    with pytest.raises(Refusal, match=f"was retried as {row.id}") as refused:
        await service.dead_letters.redrive("t", ONCE)
    assert (reason(refused), refused.value.retried_as) == ("not-dead", row.id)
    again = await service.dead_letters.redrive("t", RedriveOptions(force=True))
    assert [each.id for each in mesh.published] == [row.id, again.id]
    found = (await service.facts("t")).failure.letter
    assert found is not None
    assert (found.status, found.retried_as) == ("retried", again.id)


async def test_a_double_click_sends_once(
    service: TaskService, mesh: ListMesh, kill: Callable[..., Any]
) -> None:
    await kill("t")
    clicks = (service.dead_letters.redrive("t", ONCE) for _ in range(5))
    answers = await asyncio.gather(*clicks, return_exceptions=True)
    assert sum(not isinstance(each, Refusal) for each in answers) == 1
    assert len(mesh.published) == 1


async def test_what_is_not_dead_is_not_sent(service: TaskService, kill: Callable[..., Any]) -> None:
    await kill("t")
    await service.admit(["a"], Raw(b"1"), id="open-one-17")
    with pytest.raises(Refusal, match="it is pending") as refused:
        await service.dead_letters.redrive("open-one-17", ONCE)
    assert reason(refused) == "not-dead"
    with pytest.raises(Refusal, match="did you mean open-one-17") as refused:
        await service.dead_letters.redrive("open-one-71", ONCE)
    assert reason(refused) == "unknown-envelope"
    late = new_envelope(["a"], Raw(b"1"), now=START, id="late")
    raised = Raised(ErrorInfo("TimeoutError"), late=True)
    (send,) = decide(late, raised, Resiliency(), START, max)
    late = send.envelope
    await Sink(service, Sump(service)).accept(late)
    with pytest.raises(Refusal, match=r"it is failed \(DeadlineExceeded\)"):
        await service.dead_letters.redrive("late", ONCE)
    await service.dead_letters.purge_one("t")
    with pytest.raises(Refusal, match="was purged"):
        await service.dead_letters.redrive("t", RedriveOptions(force=True))


async def test_a_route_that_cannot_be_taken_leaves_the_letter_dead(
    service: TaskService, mesh: ListMesh, kill: Callable[..., Any]
) -> None:
    await kill("t", "embeder")
    with pytest.raises(Refusal, match="did you mean 'embedder'"):
        await service.dead_letters.redrive("t", ONCE)
    mesh.failure = MessageTooLarge("too large")
    with pytest.raises(Refusal, match="too large"):
        await service.dead_letters.redrive("t", RedriveOptions(route=["a"]))
    assert (await service.dead_letters.get("t")).status == "dead"
    assert [row.id for row in await service.page(Query())] == ["t"]
    mesh.failure = None
    await service.dead_letters.redrive("t", RedriveOptions(route=["a"], timeout_s=30))
    assert mesh.published[0].deadline is not None


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (MessageTooLarge("9 MB"), Kind.TOO_LARGE),
        (QueueMissing("gone"), Kind.UNKNOWN_ACTOR),
        (TransportError("no permission"), Kind.UNAVAILABLE),
    ],
)
async def test_what_the_broker_refuses_is_told_of_the_letter(
    service: TaskService, mesh: Any, kill: Any, failure: TransportError, kind: Kind
) -> None:
    await kill("t")
    mesh.failure = failure
    with pytest.raises(Refusal) as caught:
        await service.dead_letters.redrive("t", ONCE)
    assert (caught.value.kind, caught.value.id) == (kind, "t")
    assert (await service.dead_letters.get("t")).status == "dead"


async def test_a_broker_that_does_not_answer_delays_a_retry(
    service: TaskService, mesh: ListMesh, kill: Callable[..., Any], make_service: Callable[..., Any]
) -> None:
    await kill("t")
    mesh.failure = TransportUnavailable("no answer")
    row = await service.dead_letters.redrive("t", ONCE)
    mesh.failure = None
    await service.close()
    heir = make_service()
    await heir.start()
    await asyncio.wait_for(mesh.arrived.wait(), 30)
    while not mesh.published:
        await asyncio.sleep(0)
    assert [each.id for each in mesh.published] == [row.id]
    await heir.close()


async def test_a_run_goes_page_by_page_and_stops_where_it_began(
    service: TaskService, mesh: ListMesh, kill: Callable[..., Any]
) -> None:
    for number in range(5):
        await kill(f"t{number}")
    await kill("other", "b", message="no such page")
    first = await service.dead_letters.redrive_many(DeadLetterQuery(actor="a", limit=2), ONCE)
    assert [id_ for id_, _ in first.retried] == ["t0", "t1"]
    await kill("late")
    cursor, ids = first.next_cursor, []
    while cursor is not None:
        step = await service.dead_letters.redrive_many(
            DeadLetterQuery(actor="a", limit=2), ONCE, cursor=cursor
        )
        ids += [id_ for id_, _ in step.retried]
        cursor = step.next_cursor
    assert ids == ["t2", "t3", "t4"]
    assert [row.id for row in await service.dead_letters.page(DeadLetterQuery())] == [
        "late",
        "other",
    ]
    assert len(mesh.published) == 5


async def test_a_page_asked_for_twice_sends_nothing_twice(
    service: TaskService, mesh: ListMesh, kill: Callable[..., Any]
) -> None:
    for number in range(4):
        await kill(f"t{number}")
    ids = ("t0", "t1", "t2", "t3", "none")
    one = await service.dead_letters.redrive_many(DeadLetterQuery(ids=ids, limit=3), ONCE)
    two = await service.dead_letters.redrive_many(DeadLetterQuery(ids=ids, limit=3), ONCE)
    assert two.already == one.retried
    assert (two.retried, two.next_cursor) == ([], "3")
    rest = await service.dead_letters.redrive_many(DeadLetterQuery(ids=ids), ONCE, cursor="3")
    assert [id_ for id_, _ in rest.retried] == ["t3"]
    assert [id_ for id_, _ in rest.refused] == ["none"]
    assert rest.next_cursor is None
    assert len(mesh.published) == 4


async def test_a_rate_is_kept(service: TaskService, kill: Callable[..., Any]) -> None:
    for number in range(6):
        await kill(f"t{number}")
    loop = asyncio.get_running_loop()
    began = loop.time()
    done = await service.dead_letters.redrive_many(DeadLetterQuery(), ONCE, rate=50)
    assert len(done.retried) == 6
    assert loop.time() - began >= 6 / 50


async def test_a_request_ends_after_a_while(
    service: TaskService, kill: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters_module, "BATCH_S", 0.0)
    for number in range(3):
        await kill(f"t{number}")
    done = await service.dead_letters.redrive_many(DeadLetterQuery(), ONCE)
    assert len(done.retried) == 1
    assert done.next_cursor is not None


async def test_a_full_queue_ends_a_page_early(
    service: TaskService, mesh: ListMesh, kill: Callable[..., Any]
) -> None:
    await kill("t0", "a")
    await kill("t1", "b")
    await kill("t2", "a")
    mesh.depths = {"b": 10}
    done = await service.dead_letters.redrive_many(DeadLetterQuery(), ONCE)
    assert [id_ for id_, _ in done.retried] == ["t0"]
    with pytest.raises(Refusal) as refused:
        await service.dead_letters.redrive_many(DeadLetterQuery(), ONCE, cursor=done.next_cursor)
    assert reason(refused) == "queue-full"


async def test_what_cannot_be_mended_is_named_and_passed_over(
    service: TaskService, kill: Callable[..., Any]
) -> None:
    await kill("t0")
    await Sump(service).accept(reject(unparsable("a", "not JSON", b"oops"), START).envelope)
    await kill("t1", payload=b"[]")
    options = RedriveOptions([(".payload.row", Raw(b"2"))])
    done = await service.dead_letters.redrive_many(DeadLetterQuery(), options)
    assert [id_ for id_, _ in done.retried] == ["t0"]
    assert ["it has no route" in done.refused[0][1], done.refused[1][1]] == [
        True,
        ".payload is not an object, so it has no 'row'",
    ]


@pytest.mark.parametrize(
    ("query", "cursor"),
    [(DeadLetterQuery(), "x"), (DeadLetterQuery(), "1"), (DeadLetterQuery(ids=("t",)), "-1")],
)
async def test_a_cursor_of_another_list_is_refused(
    service: TaskService, query: DeadLetterQuery, cursor: str
) -> None:
    with pytest.raises(Refusal) as refused:
        await service.dead_letters.redrive_many(query, ONCE, cursor=cursor)
    assert refused.value.kind is Kind.INVALID
    assert [fault.path for fault in refused.value.faults] == ["$.cursor"]


async def test_letters_are_purged_by_age_and_filter(
    service: TaskService, clock: StandingClock, kill: Callable[..., Any]
) -> None:
    await kill("t0")
    await kill("t1", "b")
    clock.move(3600)
    two_hours_ago, then = (to_rfc3339(clock.now() - timedelta(hours=each)) for each in (2, 0.5))
    assert await service.dead_letters.purge(DeadLetterQuery(older_than=two_hours_ago)) == 0
    assert await service.dead_letters.purge(DeadLetterQuery(actor="b", older_than=then)) == 1
    assert await service.dead_letters.purge(DeadLetterQuery(ids=("t0", "t1"))) == 1
    row = await service.dead_letters.get("t0")
    assert (row.status, row.changed_at) == ("purged", to_rfc3339(clock.now()))
    assert await service.dead_letters.sent(row) == (None, "it was purged")


@pytest.fixture
async def claiming(tmp_path: Path, mesh: ListMesh, clock: StandingClock) -> AsyncIterator[Any]:
    """A service whose payloads over 4 KiB go to a blob store."""
    claims = Claims(MemoryBlobs(), 4096)
    service = TaskService(SqliteStore(tmp_path / "big.db"), mesh, clock, claims=claims)
    await service.start()
    yield service, claims
    await service.close()


BIG = b'{"text":"' + b"x" * 5000 + b'","row":1}'


async def test_a_big_payload_stays_where_it_is(claiming: tuple[Any, ...], mesh: ListMesh) -> None:
    service, claims = claiming
    await die(service, "t", payload=BIG, claims=claims)
    sent, problem = await service.dead_letters.sent(await service.dead_letters.get("t"))
    assert (bytes(sent.payload), problem) == (BIG, None)
    await service.dead_letters.redrive("t", ONCE)
    assert BLOB_HEADER in mesh.published[0].headers
    assert bytes((await claims.restore(mesh.published[0])).payload) == BIG


async def test_a_part_of_a_big_payload_is_set(claiming: tuple[Any, ...], mesh: ListMesh) -> None:
    service, claims = claiming
    await die(service, "t", payload=BIG, claims=claims)
    await service.dead_letters.redrive("t", RedriveOptions([(".payload.row", Raw(b"2"))]))
    whole = await claims.restore(mesh.published[0])
    assert bytes(whole.payload) == BIG.replace(b'"row":1', b'"row":2')
    await service.dead_letters.redrive("t", RedriveOptions([(".payload", Raw(b"3"))], force=True))
    assert BLOB_HEADER not in mesh.published[1].headers
    assert bytes(mesh.published[1].payload) == b"3"


async def test_a_big_payload_that_is_gone_is_said_to_be(claiming: tuple[Any, ...]) -> None:
    service, _ = claiming
    await die(service, "t", payload=BIG, claims=Claims(MemoryBlobs(), 4096))
    _, problem = await service.dead_letters.sent(await service.dead_letters.get("t"))
    assert "blob" in problem
    with pytest.raises(Refusal) as refused:
        await service.dead_letters.redrive("t", RedriveOptions([(".payload.row", Raw(b"2"))]))
    assert reason(refused) == "invalid"
