"""The contract kit of task stores: what every `Store` must do.

A test class derives from `StoreContract` and gives a fixture `store`, an open and empty store::

    class TestMyStore(StoreContract):
        @pytest.fixture
        async def store(self, tmp_path):
            store = MyStore(tmp_path / "tasks.db")
            await store.open()
            yield store
            await store.close()

The tests are coroutines; run them with pytest-asyncio in its auto mode.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from msgspec import Raw

from asya.clock import to_rfc3339
from asya.envelope import ErrorInfo, Route
from asya.events import DeadLetter, Finished, Forked, HopEnded, HopSent, HopStarted
from asya.tasks.key_reservation import KeyPolicy, KeyReservation
from asya.tasks.rules import Recorded, StuckData, TaskRow
from asya.tasks.store.base import (
    DeadLetterQuery,
    DeadLetterRow,
    Detail,
    Query,
    ScheduleRow,
    Store,
)
from asya.tasks.store.payloads import Keeping, Seen

_START: Final = datetime(2026, 1, 1, tzinfo=UTC)


def at(second: float) -> str:
    """A moment of the tests' own time, in seconds from its start."""
    return to_rfc3339(_START + timedelta(seconds=second))


def new_task(id: str, *, route: tuple[str, ...] = ("a", "b"), flow: str | None = None) -> TaskRow:
    """A task as it is admitted."""
    return TaskRow(
        id=id,
        root=id,
        route=Route([], route[0], list(route[1:])),
        created_at=at(0),
        updated_at=at(0),
        flow=flow,
        digest=b"digest",
        headers=b'{"priority": 3}',
    )


def reservation(
    *,
    scope: str = "flow:search",
    key: str = "order-17",
    policy: KeyPolicy = "return-existing",
    digest: bytes = b"payload",
    now: str = "2026-01-01T00:00:00.000Z",
    expires_at: str | None = "2027-01-01T00:00:00.000Z",
) -> KeyReservation:
    """A key as a request claims it."""
    return KeyReservation(scope, key, policy, digest, now, expires_at)


def started(id: str, n: int = 0, *, attempt: int = 1, root: str | None = None) -> Recorded:
    """A replica took the envelope: hop 0 is at `a`, hop 1 at `b`."""
    prev, curr, after = _place(n)
    event = HopStarted(
        id, n, curr, attempt, at(n + 1), root or id, Route(prev, curr, after), at(n), 4711
    )
    return Recorded(event)


def ended(id: str, n: int = 0, *, attempt: int = 1, state: str = "succeeded") -> Recorded:
    """The handler of a hop is done."""
    _, actor, _ = _place(n)
    prev, curr, after = _place(n + 1) if state == "succeeded" else _place(n)
    return Recorded(HopEnded(id, n, actor, attempt, at(n + 1.5), state, Route(prev, curr, after)))


def sent(id: str, n: int = 0) -> Recorded:
    """What follows from a hop is in the next queue."""
    prev, curr, after = _place(n + 1)
    return Recorded(HopSent(id, n, _place(n)[1], 1, at(n + 1.6), Route(prev, curr, after)))


def seen(attempt: int, side: str, payload: bytes) -> Seen:
    """A payload at hop 0, of which five bytes are kept."""
    return Seen(0, attempt, side, at(1), Raw(payload), Keeping(max_bytes=5))


def forked(id: str, root: str) -> Recorded:
    """A fan-out made a child."""
    return Recorded(Forked(id, root, root, Route(["a"], "b", []), at(1)))


def finished(id: str, phase: str = "succeeded", **fields: object) -> Finished:
    """The envelope's end."""
    known = {"result": Raw(b'{"answer":42}')} if phase == "succeeded" else {}
    base = Finished(id, phase, at(9), 2, id, Route(["a", "b"], "x-sink", []), at(0))
    return msgspec.structs.replace(base, **(known | fields))


def _place(n: int) -> tuple[list[str], str, list[str]]:
    names = ["a", "b", "x-sink"]
    return names[:n], names[n], names[n + 1 : 2]


class StoreContract:
    """Tests of one store."""

    async def test_a_new_task_is_kept_until_it_is_published(self, store: Store) -> None:
        """Given a task, when it is inserted, then it waits in the outbox until it is marked."""
        insertion = await store.tasks.insert(new_task("t"), b"envelope")
        assert insertion.created
        assert insertion.outgoing is not None
        assert [(out.id, out.body) for out in await store.tasks.outbox()] == [("t", b"envelope")]
        await store.tasks.mark_published(["t", "unknown"])
        assert await store.tasks.outbox() == []
        assert _statuses(await _get(store, "t")) == ["pending"]

    async def test_the_same_id_again_gives_the_task_that_is_there(self, store: Store) -> None:
        """Given a task, when its id is inserted again, then nothing is changed."""
        await store.tasks.insert(new_task("t"), b"first")
        again = await store.tasks.insert(new_task("t", route=("b",)), b"second")
        assert not again.created
        assert again.row.route.curr == "a"
        assert again.outgoing is not None
        assert again.outgoing.body == b"first"
        await store.tasks.mark_published(["t"])
        assert (await store.tasks.insert(new_task("t"), b"third")).outgoing is None

    async def test_what_was_not_published_can_be_taken_back(self, store: Store) -> None:
        """Given tasks, when they are discarded, then only the untouched one goes."""
        await store.tasks.insert(new_task("untouched"), b"")
        await store.tasks.insert(new_task("begun"), b"")
        await store.tasks.insert(new_task("published"), b"")
        await store.events.record([started("begun")])
        await store.tasks.mark_published(["published"])
        gone = [await store.tasks.discard(id_) for id_ in ("untouched", "begun", "published", "no")]
        assert gone == [True, False, False, False]
        assert await store.tasks.get("untouched") is None
        assert await store.tasks.get("begun") is not None

    async def test_many_at_a_time_lose_nothing(self, store: Store) -> None:
        """Given a burst of inserts, then every one is there, in the order of the calls."""
        ids = [f"t{number}" for number in range(300)]
        await asyncio.gather(*(store.tasks.insert(new_task(id_), id_.encode()) for id_ in ids))
        rows = await store.tasks.page(Query(limit=1000))
        assert [row.id for row in reversed(rows)] == ids

    async def test_a_task_runs_forward_only(self, store: Store) -> None:
        """Given events out of order, then status, progress and route never go back."""
        await store.tasks.insert(new_task("t"), b"")
        seen = []
        for note in (started("t"), ended("t"), started("t", 1), ended("t", 0), started("t", 0)):
            assert await store.events.record([note]) == ["t"]
            row = (await _get(store, "t")).row
            seen.append((row.status, row.progress, row.route.curr, row.n))
        assert [status for status, *_ in seen] == ["running"] * 5
        assert [progress for _, progress, *_ in seen] == [0, 50, 50, 50, 50]
        assert [actor for *_, actor, _ in seen] == ["a", "b", "b", "b", "b"]

    async def test_events_are_numbered_without_gaps(self, store: Store) -> None:
        """Given batches, then each task's events have numbers 1, 2, 3 … and can be paged."""
        await store.tasks.insert(new_task("t"), b"")
        await store.tasks.insert(new_task("u"), b"")
        await store.events.record([started("t"), started("u"), ended("t"), started("t", 1)])
        await store.events.complete(finished("t"), [ended("t", 1)])
        page = await store.events.page("t", after=0, limit=100)
        assert page is not None
        assert page.ended
        assert [event.seq for event in page.events] == [1, 2, 3, 4, 5, 6, 7]
        kinds = [event.kind for event in page.events]
        assert kinds == ["status", "status", "started", "ended", "started", "ended", "status"]
        rest = await store.events.page("t", after=5, limit=1)
        assert rest is not None
        assert [event.seq for event in rest.events] == [6]
        other = await store.events.page("u", after=0, limit=100)
        assert other is not None
        assert not other.ended
        assert await store.events.page("unknown", after=0, limit=1) is None

    async def test_the_result_comes_back_as_it_was(self, store: Store) -> None:
        """Given odd but valid JSON, then its bytes are kept."""
        body = b'{ "n": 1.50, "n": 2,\n "s": "\\u00e9\xc3\xa9" }'
        await store.tasks.insert(new_task("t"), b"")
        assert await store.events.complete(
            finished("t", result=Raw(body), headers={"h": Raw(b" 1.0")})
        )
        detail = await _get(store, "t")
        assert detail.result == body
        assert detail.row.headers == b'{"h": 1.0}'
        assert (detail.row.status, detail.row.progress) == ("succeeded", 100)

    async def test_the_first_end_is_kept(self, store: Store) -> None:
        """Given an end, when others come, then they say False and change nothing."""
        await store.tasks.insert(new_task("t"), b"")
        failure = ErrorInfo("ValueError", "no", traceback="Traceback")
        assert await store.events.complete(
            finished("t", "failed", error=failure, reason="PolicyExhausted")
        )
        before = await _get(store, "t")
        assert not await store.events.complete(finished("t"))
        assert not await store.events.complete(finished("t", "canceled"))
        assert await _get(store, "t") == before
        assert before.row.error is not None
        error = msgspec.json.decode(before.row.error)
        assert (error["type"], error["reason"]) == ("ValueError", "PolicyExhausted")

    async def test_late_events_do_not_wake_the_dead(self, store: Store) -> None:
        """Given an end, when events of the envelope come later, then it stays ended."""
        await store.events.complete(finished("t"))
        await store.events.record([forked("t", "root"), started("t", 1), ended("t", 1)])
        detail = await _get(store, "t")
        assert (detail.row.status, detail.row.progress) == ("succeeded", 100)
        assert detail.row.route.curr == "x-sink"
        assert _statuses(detail) == ["pending", "succeeded"] or _statuses(detail) == ["succeeded"]

    async def test_unknown_ids_are_stored_too(self, store: Store) -> None:
        """Given ids that nobody admitted, then a start and an end make their tasks."""
        await store.events.record([ended("only-ended"), started("begun", 1, root="elsewhere")])
        assert await store.tasks.get("only-ended") is None
        begun = (await _get(store, "begun")).row
        assert (begun.status, begun.root) == ("running", "elsewhere")
        assert await store.events.complete(finished("done", parent_id="p", root="r", flow="f"))
        done = (await _get(store, "done")).row
        assert (done.parent_id, done.root, done.flow) == ("p", "r", "f")

    async def test_a_cancel_takes_the_whole_family(self, store: Store) -> None:
        """Given a root with children, when it is canceled, then whoever runs ends, once."""
        await store.tasks.insert(new_task("root"), b"")
        await store.events.record([started("root"), *(forked(f"c{n}", "root") for n in range(5))])
        await store.events.complete(finished("c0", root="root", parent_id="root"))
        assert await store.tasks.cancel("unknown", at(5), limit=100) is None
        first = await store.tasks.cancel("root", at(5), limit=100)
        assert first is not None
        assert sorted(first) == ["c1", "c2", "c3", "c4", "root"]
        assert await store.tasks.cancel("root", at(6), limit=100) == []
        assert not await store.events.complete(finished("c1"))
        assert (await _get(store, "c0")).row.status == "succeeded"
        assert (await _get(store, "c1")).row.status == "canceled"
        assert await store.tasks.canceled(at(4), 10) == ["root"]
        assert await store.tasks.canceled(at(6), 10) == []

    async def test_a_cancel_goes_in_steps(self, store: Store) -> None:
        """Given more children than a step may take, then calling again takes the rest."""
        await store.tasks.insert(new_task("root"), b"")
        await store.events.record([forked(f"c{number}", "root") for number in range(10)])
        taken = []
        while step := await store.tasks.cancel("root", at(5), limit=4):
            assert len(step) <= 4
            taken += step
        assert len(taken) == len(set(taken)) == 11

    async def test_a_child_of_a_canceled_root_is_born_canceled(self, store: Store) -> None:
        """Given a cancel, when a fork is told late, then the child never runs."""
        await store.tasks.insert(new_task("root"), b"")
        await store.tasks.cancel("root", at(5), limit=100)
        await store.events.record([forked("late", "root"), started("late", 1, root="root")])
        assert (await _get(store, "late")).row.status == "canceled"

    async def test_lists_are_filtered_and_paged_newest_first(self, store: Store) -> None:
        """Given tasks of all kinds, then each filter finds its own."""
        await store.tasks.insert(new_task("one", flow="search"), b"")
        await store.tasks.insert(new_task("two", route=("curr", "c")), b"")
        await store.tasks.insert(new_task("three", flow="search"), b"")
        await store.events.record([started("one"), forked("child", "one")])
        await store.events.complete(finished("two"))

        async def ids(query: Query) -> list[str]:
            return [row.id for row in await store.tasks.page(query)]

        assert await ids(Query()) == ["child", "three", "two", "one"]
        assert await ids(Query(status="running")) == ["one"]
        assert await ids(Query(flow="search")) == ["three", "one"]
        assert await ids(Query(flow="search", status="pending")) == ["three"]
        assert await ids(Query(actor="b", status="pending")) == ["child", "three"]
        assert await ids(Query(actor="curr")) == []
        assert await ids(Query(root="one", actor="b")) == ["child", "one"]
        first = await store.tasks.page(Query(limit=3))
        assert await ids(Query(before=first[-1].key)) == ["one"]

    async def test_where_open_tasks_stand_is_told_by_their_newest_event(self, store: Store) -> None:
        """Given tasks in all states, then those that have not ended come with where they are."""
        for name in ("waits", "runs", "sent", "over"):
            await store.tasks.insert(new_task(name), b"")
        await store.events.record([started("runs"), started("sent"), ended("sent"), sent("sent")])
        await store.events.complete(finished("over"))
        found = await store.events.open_tasks(after=0, limit=10)
        assert [(each.row.id, each.event and each.event.kind) for each in found] == [
            ("waits", "status"),
            ("runs", "started"),
            ("sent", "ended"),
        ]
        first, second, third = (each.row.key for each in found)
        page = await store.events.open_tasks(after=first, limit=1)
        assert [each.row.key for each in page] == [second]
        assert await store.events.open_tasks(after=third, limit=1) == []

    async def test_a_mark_stays_until_the_task_moves(self, store: Store) -> None:
        """Given a mark, then it is made once, shown, and gone with the next event."""
        await store.tasks.insert(new_task("t"), b"")
        await store.events.record([started("t")])
        seq = (await _get(store, "t")).row.seq
        why = StuckData(at(50), "a", "running", at(1), 0.5)
        assert await store.events.mark_stuck([("t", seq - 1, why), ("none", 1, why)]) == []
        assert await store.events.mark_stuck([("t", seq, why)]) == ["t"]
        assert await store.events.mark_stuck([("t", seq + 1, why)]) == []
        assert (await _get(store, "t")).row.stuck_at == at(50)
        assert [row.id for row in await store.tasks.page(Query(stuck=True))] == ["t"]
        assert await store.tasks.page(Query(stuck=False)) == []
        assert (await _get(store, "t")).events[-1].kind == "stuck"
        await store.events.record([ended("t")])
        assert (await _get(store, "t")).row.stuck_at is None
        assert await store.tasks.page(Query(stuck=True)) == []

    async def test_clues_tell_of_the_queue_and_of_letters(self, store: Store) -> None:
        """Given tasks at an actor, then those that came first are counted."""
        for name in ("one", "two", "three"):
            await store.tasks.insert(new_task(name), b"")
        await store.tasks.mark_published(["one", "two"])
        await dead_letter(store, "two")
        second = await store.tasks.queue_facts("two", "a", at(0))
        assert second is not None
        assert (second.published, second.ahead, second.dead_at is None) == (True, 1, False)
        third = await store.tasks.queue_facts("three", "a", at(0))
        assert third is not None
        assert (third.published, third.ahead, third.dead_at) == (False, 2, None)
        elsewhere = await store.tasks.queue_facts("three", "b", at(0))
        assert elsewhere is not None
        assert elsewhere.ahead == 0
        assert await store.tasks.queue_facts("none", "a", at(0)) is None

    async def test_the_beginning_of_an_id_finds_it(self, store: Store) -> None:
        """Given two ids, then a beginning that only one has finds that one, else all are told."""
        await store.tasks.insert(new_task("abc-1"), b"")
        await store.tasks.insert(new_task("xyz-1"), b"")
        assert await store.tasks.similar_ids("abc") == ["abc-1"]
        assert set(await store.tasks.similar_ids("q")) == {"abc-1", "xyz-1"}

    async def test_payloads_come_back_as_they_were_kept(self, store: Store) -> None:
        """Given payloads of two attempts, then each can be read, and goes with its task."""
        await store.tasks.insert(new_task("t"), b"")
        first, again = started("t"), started("t", attempt=2)
        first.seen = [seen(1, "in", b'{"a": 1}')]
        again.seen = [seen(2, "in", b"123456"), seen(2, "out", b"7")]
        await store.events.record([first, again])
        newest = await store.events.payload("t", 0, "in")
        assert newest is not None
        assert (newest.attempt, newest.size, newest.truncated) == (2, 6, True)
        assert newest.body == b"12345"
        before = await store.events.payload("t", 0, "in", 1)
        assert before is not None
        assert (before.body, before.size, before.truncated) == (b'{"a":', 8, True)
        after = await store.events.payload("t", 0, "out")
        assert after is not None
        assert (after.body, after.truncated, after.at) == (b"7", False, at(1))
        assert await store.events.payload("t", 1, "in") is None
        assert await store.events.payload("none", 0, "in") is None
        assert await store.events.forget_payloads(at(1), 10) == 0
        assert await store.events.forget_payloads(at(2), 2) == 2
        await store.events.complete(finished("t"))
        assert await store.tasks.sweep(at(10), 10) == 1
        await store.tasks.insert(new_task("t"), b"")
        assert await store.events.payload("t", 0, "out") is None

    async def test_dead_letters_are_kept_once(self, store: Store) -> None:
        """Given a letter, when it is added twice, then it is kept once, bytes and all."""
        letter = DeadLetter("t", at(1), "ParseError", "a", b"\xff\x00{", ErrorInfo("E", "m"))
        await store.dead_letters.add(letter)
        await store.dead_letters.add(letter)
        await store.dead_letters.add(DeadLetter("t", at(2), "PoisonMessage", "a", b"2"))
        found = await store.dead_letters.page(DeadLetterQuery())
        assert [row.reason for row in found] == ["PoisonMessage", "ParseError"]
        assert found[1].error == ErrorInfo("E", "m")
        assert await store.dead_letters.page(DeadLetterQuery(before=found[1].key)) == []
        assert await store.dead_letters.page(DeadLetterQuery(after=found[1].key)) == found[:1]
        newest = await store.dead_letters.get("t")
        assert newest is not None
        assert (newest.reason, newest.body, newest.status) == ("PoisonMessage", b"2", "dead")
        assert await store.dead_letters.get("other") is None

    async def test_letters_are_grouped_by_actor_and_error(self, store: Store) -> None:
        """Given errors that differ in a number, then they are one group per actor."""
        for second, actor in enumerate(("a", "a", "b", "a")):
            await dead_letter(store, f"t{second}", actor=actor, message=f"row {second} is bad")
        await dead_letter(store, "other", message="no such page")
        found = await store.dead_letters.groups(DeadLetterQuery())
        counts = [(group.actor, group.count, group.newest.id) for group in found]
        assert counts == [("a", 1, "other"), ("a", 3, "t3"), ("b", 1, "t2")]
        assert found[1].fingerprint == found[2].fingerprint != found[0].fingerprint
        assert (found[1].first_at, found[1].last_at) == (at(0), at(3))
        assert found[1].reasons == ["PolicyExhausted"]
        only = await store.dead_letters.groups(
            DeadLetterQuery(actor="b", fingerprint=found[2].fingerprint)
        )
        assert only == found[2:]
        rest = await store.dead_letters.groups(DeadLetterQuery(before=found[0].newest.key))
        assert rest == found[1:]
        oldest = await store.dead_letters.page(
            DeadLetterQuery(actor="a", newest_first=False, limit=2)
        )
        assert [row.id for row in oldest] == ["t0", "t1"]
        named = await store.dead_letters.page(
            DeadLetterQuery(ids=("t1", "t2", "none"), older_than=at(2))
        )
        assert [row.id for row in named] == ["t1"]

    async def test_a_letter_is_retried_once(self, store: Store) -> None:
        """Given a dead letter, when it is retried twice, then one task is made, unless forced."""
        letter = await dead_letter(store, "t")
        assert (
            await store.dead_letters.redrive(letter, new_task("new"), b"new", force=False) is None
        )
        again = await store.dead_letters.redrive(letter, new_task("newer"), b"", force=False)
        assert again is not None
        assert (again.status, again.retried_as) == ("retried", "new")
        assert await store.tasks.get("newer") is None
        assert [waiting.body for waiting in await store.tasks.outbox()] == [b"new"]
        assert await store.dead_letters.page(DeadLetterQuery()) == []
        assert await store.dead_letters.redrive(letter, new_task("newest"), b"", force=True) is None
        await dead_letter(store, "t")
        (row,) = await store.dead_letters.page(DeadLetterQuery(status=None))
        assert (row.status, row.retried_as) == ("retried", "newest")

    async def test_a_retry_that_could_not_be_published_is_undone(self, store: Store) -> None:
        """Given a retry, when its task is forgotten, then the letter is dead again."""
        letter = await dead_letter(store, "t")
        await store.dead_letters.redrive(letter, new_task("new"), b"", force=False)
        assert await store.dead_letters.undo_redrive(letter, "new")
        assert not await store.dead_letters.undo_redrive(letter, "new")
        assert await store.tasks.get("new") is None
        assert await store.dead_letters.get("t") == letter

    async def test_purged_letters_do_not_come_back(self, store: Store) -> None:
        """Given a purged letter, then its bytes are gone, and it cannot be retried or added again."""
        letter = await dead_letter(store, "t")
        await dead_letter(store, "other", actor="b")
        assert await store.dead_letters.purge(DeadLetterQuery(actor="a"), at(9)) == 1
        assert await store.dead_letters.purge(DeadLetterQuery(status=None, actor="a"), at(9)) == 0
        await dead_letter(store, "t")
        gone = await store.dead_letters.get("t")
        assert gone is not None
        assert (gone.status, gone.body, gone.changed_at) == ("purged", b"", at(9))
        refused = await store.dead_letters.redrive(letter, new_task("new"), b"", force=True)
        assert refused is not None
        assert refused.status == "purged"

    async def test_the_sweep_forgets_settled_letters(self, store: Store) -> None:
        """Given letters that were settled long ago, then the sweep takes them, and no others."""
        for name in ("dead", "purged", "retried"):
            letter = await dead_letter(store, name)
        await store.dead_letters.purge(DeadLetterQuery(ids=("purged",)), at(9))
        await store.dead_letters.redrive(letter, new_task("new"), b"", force=False)
        await store.tasks.sweep(at(20), 10)
        assert [row.id for row in await store.dead_letters.page(DeadLetterQuery(status=None))] == [
            "dead"
        ]

    async def test_a_key_admits_one(self, store: Store) -> None:
        """Given twenty tasks at once with one key, then one is made and all get it."""
        claimed = [store.tasks.insert(new_task(f"t{n}"), b"", reservation()) for n in range(20)]
        insertions = await asyncio.gather(*claimed)
        assert [each.created for each in insertions].count(True) == 1
        assert {each.row.id for each in insertions} == {"t0"}
        assert [row.id for row in await store.tasks.page(Query())] == ["t0"]

    async def test_a_key_counts_in_its_scope(self, store: Store) -> None:
        """Given a key that is held, then it is free in another scope, and so is another key."""
        await store.tasks.insert(new_task("one"), b"", reservation())
        assert (
            await store.tasks.insert(new_task("two"), b"", reservation(scope="flow:other"))
        ).created
        assert (await store.tasks.insert(new_task("three"), b"", reservation(key="other"))).created

    async def test_a_key_with_another_payload_is_refused(self, store: Store) -> None:
        """Given a key that is held, then another payload, or `reject`, is refused."""
        await store.tasks.insert(new_task("one"), b"", reservation())
        reused = await store.tasks.insert(new_task("two"), b"", reservation(digest=b"other"))
        taken = await store.tasks.insert(new_task("two"), b"", reservation(policy="reject"))
        assert (reused.created, reused.refused, reused.row.id) == (False, "reused", "one")
        assert (taken.created, taken.refused, taken.row.id) == (False, "taken", "one")
        assert await store.tasks.get("two") is None

    async def test_replace_cancels_who_holds_the_key(self, store: Store) -> None:
        """Given a key that is held, when it is replaced, then the holder is canceled for good."""
        await store.tasks.insert(new_task("one"), b"", reservation())
        made = await store.tasks.insert(new_task("two"), b"", reservation(policy="replace"))
        assert (made.created, made.replaced) == (True, "one")
        assert (await _get(store, "one")).row.status == "canceled"
        assert await store.tasks.canceled(at(0), 10) == ["one"]
        assert (await store.tasks.insert(new_task("three"), b"", reservation())).row.id == "two"

    async def test_a_key_is_free_again_after_its_life(self, store: Store) -> None:
        """Given a key of ten seconds, then it is held until then, whatever became of the task."""
        await store.tasks.insert(new_task("one"), b"", reservation(expires_at=at(10)))
        await store.events.complete(finished("one"))
        assert not (await store.tasks.insert(new_task("two"), b"", reservation(now=at(9)))).created
        assert (await store.tasks.insert(new_task("two"), b"", reservation(now=at(10)))).created

    async def test_an_active_key_is_free_when_its_task_has_ended(self, store: Store) -> None:
        """Given a key without a time, then it is held until the task has ended."""
        await store.tasks.insert(new_task("one"), b"", reservation(expires_at=None))
        late = reservation(expires_at=None, now=at(10**6))
        assert not (await store.tasks.insert(new_task("two"), b"", late)).created
        await store.events.complete(finished("one"))
        assert (await store.tasks.insert(new_task("two"), b"", late)).created

    async def test_a_key_goes_with_its_task(self, store: Store) -> None:
        """Given a task that is taken back or swept, then its key is free."""
        await store.tasks.insert(new_task("one"), b"", reservation())
        assert await store.tasks.discard("one")
        assert (await store.tasks.insert(new_task("two"), b"", reservation())).created
        await store.events.complete(finished("two"))
        await store.tasks.sweep(at(50), 10)
        assert (await store.tasks.insert(new_task("three"), b"", reservation())).created

    async def test_a_known_id_comes_before_its_key(self, store: Store) -> None:
        """Given a request sent again with its id and key, then it is the task that is there."""
        await store.tasks.insert(new_task("one"), b"", reservation(policy="reject"))
        again = await store.tasks.insert(new_task("one"), b"", reservation(policy="reject"))
        assert (again.created, again.refused, again.row.id) == (False, None, "one")

    async def test_when_a_task_may_begin_is_kept(self, store: Store) -> None:
        """Given a task for later, then its time is in the task and in what is to be published."""
        task = new_task("later")
        task.not_before = at(60)
        made = await store.tasks.insert(task, b"body")
        again = await store.tasks.insert(task, b"body")
        for outgoing in (made.outgoing, again.outgoing, *await store.tasks.outbox()):
            assert outgoing is not None
            assert (outgoing.body, outgoing.not_before) == (b"body", at(60))
        assert (await _get(store, "later")).row.not_before == at(60)

    async def test_the_cancel_of_a_task_for_later_is_kept_as_long(self, store: Store) -> None:
        """Given a task for later that is canceled, then the cancel outlives the sweep."""
        task = new_task("later")
        task.not_before = at(10**6)
        await store.tasks.insert(task, b"")
        await store.tasks.cancel("later", at(1), limit=10)
        await store.tasks.sweep(at(1000), 10)
        assert await store.tasks.canceled(at(1000), 10) == ["later"]

    async def test_schedules_are_kept(self, store: Store) -> None:
        """Given what is known of schedules, then the newest of each comes back."""
        assert await store.schedules.all() == []
        await store.schedules.save(ScheduleRow("a", at(1)))
        await store.schedules.save(ScheduleRow("b", at(1), suspended=False))
        newest = ScheduleRow("a", at(2), at(2), "id", "why", suspended=True)
        await store.schedules.save(newest)
        found = sorted(await store.schedules.all(), key=lambda row: row.name)
        assert found == [newest, ScheduleRow("b", at(1), suspended=False)]

    async def test_the_sweep_forgets_what_ended_long_ago(self, store: Store) -> None:
        """Given old tasks, then those that ended go, in steps, and dead letters stay."""
        for number in range(5):
            await store.tasks.insert(new_task(f"old{number}"), b"")
            await store.events.complete(finished(f"old{number}"))
        await store.tasks.insert(new_task("open"), b"")
        await store.events.complete(finished("new", at=at(100)))
        await store.tasks.cancel("open", at(1), limit=10)
        await store.dead_letters.add(DeadLetter("old0", at(1), "PolicyExhausted", "a", b""))
        steps = [await store.tasks.sweep(at(50), 4), await store.tasks.sweep(at(50), 4)]
        assert steps == [4, 2]
        assert [row.id for row in await store.tasks.page(Query())] == ["new"]
        assert await store.tasks.canceled(at(0), 10) == []
        assert len(await store.dead_letters.page(DeadLetterQuery())) == 1
        assert (await store.tasks.insert(new_task("old0"), b"")).created

    async def test_a_closed_store_can_be_closed_again(self, store: Store) -> None:
        """Given a closed store, then closing it again does nothing."""
        await store.close()
        await store.close()


async def dead_letter(
    store: Store, id: str, *, actor: str = "a", message: str = "no such page"
) -> DeadLetterRow:
    """Keep a letter of this envelope; gives it as stored, bytes and all."""
    second = int(id[1:]) if id[1:].isdigit() else 5
    error = ErrorInfo("ValueError", message)
    await store.dead_letters.add(DeadLetter(id, at(second), "PolicyExhausted", actor, b"{}", error))
    found = await store.dead_letters.get(id)
    assert found is not None
    return found


async def _get(store: Store, id: str) -> Detail:
    detail = await store.tasks.get(id)
    assert detail is not None
    return detail


def _statuses(detail: Detail) -> list[str]:
    return [
        msgspec.json.decode(event.data)["status"]
        for event in detail.events
        if event.kind == "status"
    ]
