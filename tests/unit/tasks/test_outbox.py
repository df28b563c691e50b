"""Envelopes that were stored and not published: who publishes them, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec import Raw
from tests.support.task_service import ListMesh, StandingClock

from asya.envelope import encode, new_envelope
from asya.errors import (
    MessageTooLarge,
    QueueMissing,
    StoreError,
    TransportError,
    TransportUnavailable,
)
from asya.tasks.admission import Gate
from asya.tasks.outbox import AGE_S, Outbox
from asya.tasks.recorder import Recorder
from asya.tasks.refusals import Kind, Refusal
from asya.tasks.rules import TaskRow
from asya.tasks.service import TaskService
from asya.tasks.store.base import Outgoing
from asya.tasks.store.sqlite.store import SqliteStore

PAYLOAD = Raw(b"1")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "outbox.db")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def outbox(store: SqliteStore, mesh: ListMesh, clock: StandingClock) -> Outbox:
    return Outbox(store, mesh, clock, Recorder(store, lambda ids: None), Gate(mesh, 10))


async def stored(store: SqliteStore, clock: StandingClock, id: str) -> None:
    """A task whose process died before it published the envelope."""
    envelope = new_envelope(["a"], PAYLOAD, now=clock.now(), id=id)
    at = envelope.status.created_at
    row = TaskRow(id=id, root=id, route=envelope.route, created_at=at, updated_at=at)
    await store.tasks.insert(row, encode(envelope))


async def test_an_old_leftover_is_published_and_a_young_one_is_not(
    outbox: Outbox, store: SqliteStore, mesh: ListMesh, clock: StandingClock
) -> None:
    await outbox.run_once(clock.now())  # only the first run takes young ones too
    await stored(store, clock, "old")
    clock.move(AGE_S + 1)
    await stored(store, clock, "young")
    await outbox.run_once(clock.now())
    assert [each.id for each in mesh.published] == ["old"]


async def test_after_a_first_run_that_failed_only_what_was_there_before_it_is_taken(
    outbox: Outbox,
    store: SqliteStore,
    mesh: ListMesh,
    clock: StandingClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await stored(store, clock, "left-behind")
    clock.move(1)
    with monkeypatch.context() as patch:
        patch.setattr(store.tasks, "outbox", failing)
        with pytest.raises(StoreError):
            await outbox.run_once(clock.now())
    clock.move(1)
    await stored(store, clock, "admitted-now")
    await outbox.run_once(clock.now())
    assert [each.id for each in mesh.published] == ["left-behind"]


async def failing(*, after: int) -> list[Outgoing]:
    raise StoreError("away")


async def test_what_is_being_admitted_is_left_to_its_admission(
    outbox: Outbox, store: SqliteStore, mesh: ListMesh, clock: StandingClock
) -> None:
    await stored(store, clock, "one")
    clock.move(AGE_S + 1)
    async with outbox.alone("one"):
        await outbox.run_once(clock.now())
    assert mesh.published == []
    await outbox.run_once(clock.now())
    assert [each.id for each in mesh.published] == ["one"]


async def test_one_that_the_broker_does_not_take_does_not_stop_the_others(
    outbox: Outbox, store: SqliteStore, mesh: ListMesh, clock: StandingClock
) -> None:
    await stored(store, clock, "one")
    await stored(store, clock, "two")
    clock.move(AGE_S + 1)
    mesh.failure = TransportUnavailable("no answer")
    await outbox.run_once(clock.now())
    assert (len(mesh.times), mesh.published) == (2, [])
    mesh.failure = None
    await outbox.run_once(clock.now())
    assert [each.id for each in mesh.published] == ["one", "two"]


@pytest.mark.parametrize(
    ("error", "keyed", "kind", "is_kept"),
    [
        (TransportUnavailable("no answer"), False, Kind.UNAVAILABLE, False),
        (TransportUnavailable("no answer"), True, Kind.UNAVAILABLE, True),
        (QueueMissing("a"), True, Kind.UNKNOWN_ACTOR, False),
        (MessageTooLarge("9 bytes"), True, Kind.TOO_LARGE, False),
    ],
)
async def test_a_new_task_that_is_not_published_is_forgotten_unless_it_has_a_key(
    outbox: Outbox,
    store: SqliteStore,
    mesh: ListMesh,
    clock: StandingClock,
    error: TransportError,
    keyed: bool,
    kind: Kind,
    is_kept: bool,
) -> None:
    await stored(store, clock, "one")
    envelope = new_envelope(["a"], PAYLOAD, now=clock.now(), id="one")
    mesh.failure = error
    with pytest.raises(Refusal) as caught:
        await outbox.publish(envelope, None, new=True, keyed=keyed)
    assert (caught.value.kind, caught.value.id) == (kind, "one")
    assert (await store.tasks.get("one") is not None) == is_kept


async def test_two_admissions_of_an_id_go_one_after_the_other(outbox: Outbox) -> None:
    order: list[str] = []

    async def admit(name: str) -> None:
        async with outbox.alone("id"):
            order.append(f"{name} begins")
            await asyncio.sleep(0)
            order.append(f"{name} ends")

    await asyncio.gather(admit("one"), admit("two"), admit("three"))
    assert order == [
        f"{name} {what}" for name in ("one", "two", "three") for what in ("begins", "ends")
    ]


async def test_a_crash_between_store_and_queue_is_made_good(
    make_service: Callable[..., TaskService], mesh: ListMesh
) -> None:
    """Given a task that was stored and never published, when a service starts, then it is."""
    dying = make_service()
    await dying.start()
    mesh.gate = asyncio.Event()
    admission = asyncio.create_task(dying.admit(["a"], PAYLOAD, id="mine"))
    await mesh.arrived.wait()
    admission.cancel()
    await asyncio.gather(admission, return_exceptions=True)
    await dying.close()
    assert mesh.published == []

    mesh.gate = None
    mesh.arrived.clear()
    service = make_service()
    await service.start()
    async with asyncio.timeout(60):
        await mesh.arrived.wait()
    await service.close()
    assert [envelope.id for envelope in mesh.published] == ["mine"]

    mesh.arrived.clear()
    third = make_service()
    await third.start()
    await third.check()
    await third.close()
    assert not mesh.arrived.is_set()


async def test_what_was_stored_and_not_published_is_published_for_its_time(
    outbox: Outbox, store: SqliteStore, mesh: ListMesh, clock: StandingClock
) -> None:
    later = clock.now() + timedelta(hours=1)
    envelope = new_envelope(["a"], PAYLOAD, now=clock.now(), id="later")
    at = envelope.status.created_at
    row = TaskRow(
        id="later",
        root="later",
        route=envelope.route,
        created_at=at,
        updated_at=at,
        not_before=later.isoformat().replace("+00:00", ".000Z"),
    )
    await store.tasks.insert(row, encode(envelope))
    clock.move(AGE_S + 1)
    await outbox.run_once(clock.now())
    assert mesh.times == [later]
