"""The contract kit of task stores: what every `TaskStore` must do.

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

import msgspec
from msgspec import Raw

from asya.clock import to_rfc3339
from asya.envelope import ErrorInfo, Route
from asya.events import DeadLetter, Finished, Forked, HopEnded, HopStarted
from asya.gateway.store.base import Detail, Query, TaskStore
from asya.gateway.store.letters import LetterQuery, LetterRow
from asya.gateway.store.rules import Note, TaskRow, note_of

_START = datetime(2026, 1, 1, tzinfo=UTC)


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


def started(id: str, n: int = 0, *, attempt: int = 1, root: str | None = None) -> Note:
    """A replica took the envelope: hop 0 is at `a`, hop 1 at `b`."""
    prev, curr, after = _place(n)
    event = HopStarted(
        id, n, curr, attempt, at(n + 1), root or id, Route(prev, curr, after), at(n), 4711
    )
    return note_of(event)


def ended(id: str, n: int = 0, *, attempt: int = 1, state: str = "succeeded") -> Note:
    """The handler of a hop is done."""
    _, actor, _ = _place(n)
    prev, curr, after = _place(n + 1) if state == "succeeded" else _place(n)
    return note_of(HopEnded(id, n, actor, attempt, at(n + 1.5), state, Route(prev, curr, after)))


def forked(id: str, root: str) -> Note:
    """A fan-out made a child."""
    return note_of(Forked(id, root, root, Route(["a"], "b", []), at(1)))


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

    async def test_a_new_task_is_kept_until_it_is_published(self, store: TaskStore) -> None:
        """Given a task, when it is inserted, then it waits in the outbox until it is marked."""
        insertion = await store.insert(new_task("t"), b"envelope")
        assert insertion.created
        assert insertion.outgoing is not None
        assert [(out.id, out.body) for out in await store.outbox()] == [("t", b"envelope")]
        await store.published(["t", "unknown"])
        assert await store.outbox() == []
        assert _statuses(await _get(store, "t")) == ["pending"]

    async def test_the_same_id_again_gives_the_task_that_is_there(self, store: TaskStore) -> None:
        """Given a task, when its id is inserted again, then nothing is changed."""
        await store.insert(new_task("t"), b"first")
        again = await store.insert(new_task("t", route=("b",)), b"second")
        assert not again.created
        assert again.row.route.curr == "a"
        assert again.outgoing is not None
        assert again.outgoing.body == b"first"
        await store.published(["t"])
        assert (await store.insert(new_task("t"), b"third")).outgoing is None

    async def test_what_was_not_published_can_be_taken_back(self, store: TaskStore) -> None:
        """Given tasks, when they are discarded, then only the untouched one goes."""
        await store.insert(new_task("untouched"), b"")
        await store.insert(new_task("begun"), b"")
        await store.insert(new_task("published"), b"")
        await store.record([started("begun")])
        await store.published(["published"])
        gone = [await store.discard(id_) for id_ in ("untouched", "begun", "published", "no")]
        assert gone == [True, False, False, False]
        assert await store.get("untouched") is None
        assert await store.get("begun") is not None

    async def test_many_at_a_time_lose_nothing(self, store: TaskStore) -> None:
        """Given a burst of inserts, then every one is there, in the order of the calls."""
        ids = [f"t{number}" for number in range(300)]
        await asyncio.gather(*(store.insert(new_task(id_), id_.encode()) for id_ in ids))
        rows = await store.tasks(Query(limit=1000))
        assert [row.id for row in reversed(rows)] == ids

    async def test_a_task_runs_forward_only(self, store: TaskStore) -> None:
        """Given events out of order, then status, progress and route never go back."""
        await store.insert(new_task("t"), b"")
        seen = []
        for note in (started("t"), ended("t"), started("t", 1), ended("t", 0), started("t", 0)):
            assert await store.record([note]) == ["t"]
            row = (await _get(store, "t")).row
            seen.append((row.status, row.progress, row.route.curr, row.n))
        assert [status for status, *_ in seen] == ["running"] * 5
        assert [progress for _, progress, *_ in seen] == [0, 50, 50, 50, 50]
        assert [actor for *_, actor, _ in seen] == ["a", "b", "b", "b", "b"]

    async def test_events_are_numbered_without_gaps(self, store: TaskStore) -> None:
        """Given batches, then each task's events have numbers 1, 2, 3 … and can be paged."""
        await store.insert(new_task("t"), b"")
        await store.insert(new_task("u"), b"")
        await store.record([started("t"), started("u"), ended("t"), started("t", 1)])
        await store.finish(finished("t"), [ended("t", 1)])
        page = await store.events("t", after=0, limit=100)
        assert page is not None
        assert page.ended
        assert [event.seq for event in page.events] == [1, 2, 3, 4, 5, 6, 7]
        kinds = [event.kind for event in page.events]
        assert kinds == ["status", "status", "started", "ended", "started", "ended", "status"]
        rest = await store.events("t", after=5, limit=1)
        assert rest is not None
        assert [event.seq for event in rest.events] == [6]
        other = await store.events("u", after=0, limit=100)
        assert other is not None
        assert not other.ended
        assert await store.events("unknown", after=0, limit=1) is None

    async def test_the_result_comes_back_as_it_was(self, store: TaskStore) -> None:
        """Given odd but valid JSON, then its bytes are kept."""
        body = b'{ "n": 1.50, "n": 2,\n "s": "\\u00e9\xc3\xa9" }'
        await store.insert(new_task("t"), b"")
        assert await store.finish(finished("t", result=Raw(body), headers={"h": Raw(b" 1.0")}))
        detail = await _get(store, "t")
        assert detail.result == body
        assert detail.row.headers == b'{"h": 1.0}'
        assert (detail.row.status, detail.row.progress) == ("succeeded", 100)

    async def test_the_first_end_is_kept(self, store: TaskStore) -> None:
        """Given an end, when others come, then they say False and change nothing."""
        await store.insert(new_task("t"), b"")
        failure = ErrorInfo("ValueError", "no", traceback="Traceback")
        assert await store.finish(finished("t", "failed", error=failure, reason="PolicyExhausted"))
        before = await _get(store, "t")
        assert not await store.finish(finished("t"))
        assert not await store.finish(finished("t", "canceled"))
        assert await _get(store, "t") == before
        assert before.row.error is not None
        error = msgspec.json.decode(before.row.error)
        assert (error["type"], error["reason"]) == ("ValueError", "PolicyExhausted")

    async def test_late_events_do_not_wake_the_dead(self, store: TaskStore) -> None:
        """Given an end, when events of the envelope come later, then it stays ended."""
        await store.finish(finished("t"))
        await store.record([forked("t", "root"), started("t", 1), ended("t", 1)])
        detail = await _get(store, "t")
        assert (detail.row.status, detail.row.progress) == ("succeeded", 100)
        assert detail.row.route.curr == "x-sink"
        assert _statuses(detail) == ["pending", "succeeded"] or _statuses(detail) == ["succeeded"]

    async def test_unknown_ids_are_stored_too(self, store: TaskStore) -> None:
        """Given ids that nobody admitted, then a start and an end make their tasks."""
        await store.record([ended("only-ended"), started("begun", 1, root="elsewhere")])
        assert await store.get("only-ended") is None
        begun = (await _get(store, "begun")).row
        assert (begun.status, begun.root) == ("running", "elsewhere")
        assert await store.finish(finished("done", parent_id="p", root="r", flow="f"))
        done = (await _get(store, "done")).row
        assert (done.parent_id, done.root, done.flow) == ("p", "r", "f")

    async def test_a_cancel_takes_the_whole_family(self, store: TaskStore) -> None:
        """Given a root with children, when it is canceled, then whoever runs ends, once."""
        await store.insert(new_task("root"), b"")
        await store.record([started("root"), *(forked(f"c{n}", "root") for n in range(5))])
        await store.finish(finished("c0", root="root", parent_id="root"))
        assert await store.cancel("unknown", at(5), limit=100) is None
        first = await store.cancel("root", at(5), limit=100)
        assert first is not None
        assert sorted(first) == ["c1", "c2", "c3", "c4", "root"]
        assert await store.cancel("root", at(6), limit=100) == []
        assert not await store.finish(finished("c1"))
        assert (await _get(store, "c0")).row.status == "succeeded"
        assert (await _get(store, "c1")).row.status == "canceled"
        assert await store.canceled(at(4), 10) == ["root"]
        assert await store.canceled(at(6), 10) == []

    async def test_a_cancel_goes_in_steps(self, store: TaskStore) -> None:
        """Given more children than a step may take, then calling again takes the rest."""
        await store.insert(new_task("root"), b"")
        await store.record([forked(f"c{number}", "root") for number in range(10)])
        taken = []
        while step := await store.cancel("root", at(5), limit=4):
            assert len(step) <= 4
            taken += step
        assert len(taken) == len(set(taken)) == 11

    async def test_a_child_of_a_canceled_root_is_born_canceled(self, store: TaskStore) -> None:
        """Given a cancel, when a fork is told late, then the child never runs."""
        await store.insert(new_task("root"), b"")
        await store.cancel("root", at(5), limit=100)
        await store.record([forked("late", "root"), started("late", 1, root="root")])
        assert (await _get(store, "late")).row.status == "canceled"

    async def test_lists_are_filtered_and_paged_newest_first(self, store: TaskStore) -> None:
        """Given tasks of all kinds, then each filter finds its own."""
        await store.insert(new_task("one", flow="search"), b"")
        await store.insert(new_task("two", route=("curr", "c")), b"")
        await store.insert(new_task("three", flow="search"), b"")
        await store.record([started("one"), forked("child", "one")])
        await store.finish(finished("two"))

        async def ids(query: Query) -> list[str]:
            return [row.id for row in await store.tasks(query)]

        assert await ids(Query()) == ["child", "three", "two", "one"]
        assert await ids(Query(status="running")) == ["one"]
        assert await ids(Query(flow="search")) == ["three", "one"]
        assert await ids(Query(flow="search", status="pending")) == ["three"]
        assert await ids(Query(actor="b", status="pending")) == ["child", "three"]
        assert await ids(Query(actor="curr")) == []
        assert await ids(Query(root="one", actor="b")) == ["child", "one"]
        first = await store.tasks(Query(limit=3))
        assert await ids(Query(before=first[-1].key)) == ["one"]

    async def test_dead_letters_are_kept_once(self, store: TaskStore) -> None:
        """Given a letter, when it is buried twice, then it is kept once, bytes and all."""
        letter = DeadLetter("t", at(1), "ParseError", "a", b"\xff\x00{", ErrorInfo("E", "m"))
        await store.bury(letter)
        await store.bury(letter)
        await store.bury(DeadLetter("t", at(2), "PoisonMessage", "a", b"2"))
        found = await store.letters(LetterQuery())
        assert [row.reason for row in found] == ["PoisonMessage", "ParseError"]
        assert found[1].error == ErrorInfo("E", "m")
        assert await store.letters(LetterQuery(before=found[1].key)) == []
        assert await store.letters(LetterQuery(after=found[1].key)) == found[:1]
        newest = await store.letter("t")
        assert newest is not None
        assert (newest.reason, newest.body, newest.status) == ("PoisonMessage", b"2", "dead")
        assert await store.letter("other") is None

    async def test_letters_are_grouped_by_actor_and_error(self, store: TaskStore) -> None:
        """Given errors that differ in a number, then they are one group per actor."""
        for second, actor in enumerate(("a", "a", "b", "a")):
            await bury(store, f"t{second}", actor=actor, message=f"row {second} is bad")
        await bury(store, "other", message="no such page")
        found = await store.letter_groups(LetterQuery())
        counts = [(group.actor, group.count, group.newest.id) for group in found]
        assert counts == [("a", 1, "other"), ("a", 3, "t3"), ("b", 1, "t2")]
        assert found[1].fingerprint == found[2].fingerprint != found[0].fingerprint
        assert (found[1].first_at, found[1].last_at) == (at(0), at(3))
        assert found[1].reasons == ["PolicyExhausted"]
        only = await store.letter_groups(LetterQuery(actor="b", fingerprint=found[2].fingerprint))
        assert only == found[2:]
        rest = await store.letter_groups(LetterQuery(before=found[0].newest.key))
        assert rest == found[1:]
        oldest = await store.letters(LetterQuery(actor="a", newest_first=False, limit=2))
        assert [row.id for row in oldest] == ["t0", "t1"]
        named = await store.letters(LetterQuery(ids=("t1", "t2", "none"), older_than=at(2)))
        assert [row.id for row in named] == ["t1"]

    async def test_a_letter_is_retried_once(self, store: TaskStore) -> None:
        """Given a dead letter, when it is retried twice, then one task is made, unless forced."""
        letter = await bury(store, "t")
        assert await store.retry_letter(letter, new_task("new"), b"new", force=False) is None
        again = await store.retry_letter(letter, new_task("newer"), b"", force=False)
        assert again is not None
        assert (again.status, again.retried_as) == ("retried", "new")
        assert await store.get("newer") is None
        assert [waiting.body for waiting in await store.outbox()] == [b"new"]
        assert await store.letters(LetterQuery()) == []
        assert await store.retry_letter(letter, new_task("newest"), b"", force=True) is None
        await bury(store, "t")
        (row,) = await store.letters(LetterQuery(status=None))
        assert (row.status, row.retried_as) == ("retried", "newest")

    async def test_a_retry_that_could_not_be_published_is_undone(self, store: TaskStore) -> None:
        """Given a retry, when its task is forgotten, then the letter is dead again."""
        letter = await bury(store, "t")
        await store.retry_letter(letter, new_task("new"), b"", force=False)
        assert await store.unretry_letter(letter, "new")
        assert not await store.unretry_letter(letter, "new")
        assert await store.get("new") is None
        assert await store.letter("t") == letter

    async def test_purged_letters_do_not_come_back(self, store: TaskStore) -> None:
        """Given a purged letter, then its bytes are gone, and it cannot be retried or buried."""
        letter = await bury(store, "t")
        await bury(store, "other", actor="b")
        assert await store.purge_letters(LetterQuery(actor="a"), at(9)) == 1
        assert await store.purge_letters(LetterQuery(status=None, actor="a"), at(9)) == 0
        await bury(store, "t")
        gone = await store.letter("t")
        assert gone is not None
        assert (gone.status, gone.body, gone.changed_at) == ("purged", b"", at(9))
        refused = await store.retry_letter(letter, new_task("new"), b"", force=True)
        assert refused is not None
        assert refused.status == "purged"

    async def test_the_sweep_forgets_settled_letters(self, store: TaskStore) -> None:
        """Given letters that were settled long ago, then the sweep takes them, and no others."""
        for name in ("dead", "purged", "retried"):
            letter = await bury(store, name)
        await store.purge_letters(LetterQuery(ids=("purged",)), at(9))
        await store.retry_letter(letter, new_task("new"), b"", force=False)
        await store.sweep(at(20), 10)
        assert [row.id for row in await store.letters(LetterQuery(status=None))] == ["dead"]

    async def test_the_sweep_forgets_what_ended_long_ago(self, store: TaskStore) -> None:
        """Given old tasks, then those that ended go, in steps, and dead letters stay."""
        for number in range(5):
            await store.insert(new_task(f"old{number}"), b"")
            await store.finish(finished(f"old{number}"))
        await store.insert(new_task("open"), b"")
        await store.finish(finished("new", at=at(100)))
        await store.cancel("open", at(1), limit=10)
        await store.bury(DeadLetter("old0", at(1), "PolicyExhausted", "a", b""))
        steps = [await store.sweep(at(50), 4), await store.sweep(at(50), 4)]
        assert steps == [4, 2]
        assert [row.id for row in await store.tasks(Query())] == ["new"]
        assert await store.canceled(at(0), 10) == []
        assert len(await store.letters(LetterQuery())) == 1
        assert (await store.insert(new_task("old0"), b"")).created

    async def test_a_closed_store_can_be_closed_again(self, store: TaskStore) -> None:
        """Given a closed store, then closing it again does nothing."""
        await store.close()
        await store.close()


async def bury(
    store: TaskStore, id: str, *, actor: str = "a", message: str = "no such page"
) -> LetterRow:
    """Keep a letter of this envelope; gives it as stored, bytes and all."""
    second = int(id[1:]) if id[1:].isdigit() else 5
    error = ErrorInfo("ValueError", message)
    await store.bury(DeadLetter(id, at(second), "PolicyExhausted", actor, b"{}", error))
    found = await store.letter(id)
    assert found is not None
    return found


async def _get(store: TaskStore, id: str) -> Detail:
    detail = await store.get(id)
    assert detail is not None
    return detail


def _statuses(detail: Detail) -> list[str]:
    return [
        msgspec.json.decode(event.data)["status"]
        for event in detail.events
        if event.kind == "status"
    ]
