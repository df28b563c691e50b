"""Old blobs go, and those of dead letters stay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from asya.blobs.claims import Claims
from asya.blobs.memory import MemoryBlobs
from asya.chores import ChoreRunner
from asya.clock import to_rfc3339
from asya.envelope import Envelope, encode, new_envelope, raw_json
from asya.errors import BlobMissing, BlobUnavailable
from asya.events import DeadLetter
from asya.tasks import blob_retention as blob_care
from asya.tasks.blob_retention import BlobRetention, DeadLetterBlobs
from asya.tasks.store.base import DeadLetterRow, Store
from asya.tasks.store.sqlite.store import SqliteStore

KEPT_S = 14 * 86_400.0


class Place:
    """A blob store and a task store on one clock, and the chore between them."""

    def __init__(self, tasks: Store) -> None:
        self.clock = MovedClock()
        self.blobs = MemoryBlobs(self.clock)
        self.tasks = tasks
        self.claims = Claims(self.blobs, 5000)
        self.retention = BlobRetention(self.blobs, self.clock, KEPT_S)
        self.letters = DeadLetterBlobs(self.blobs, tasks.dead_letters, KEPT_S)

    async def dead(self, name: str, text: str) -> Envelope:
        envelope = new_envelope(["a"], raw_json(text), now=self.clock.now(), id=name)
        await self.claims.check_in(envelope)
        at = to_rfc3339(self.clock.now())
        await self.tasks.dead_letters.add(
            DeadLetter(name, at, "PolicyExhausted", "a", encode(envelope))
        )
        return envelope


class MovedClock:
    def __init__(self) -> None:
        self.moment = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.moment

    def move(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Any]:
    tasks = SqliteStore(tmp_path / "tasks.db")
    await tasks.open()
    yield Place(tasks)
    await tasks.close()


async def test_what_nobody_used_for_its_time_goes(place: Place) -> None:
    ref = await place.blobs.put(b"x" * 10_000)
    place.clock.move(KEPT_S - 1)
    assert await place.retention.sweep() == 0
    place.clock.move(2)
    assert await place.retention.sweep() == 1
    with pytest.raises(BlobMissing):
        await place.blobs.get(ref)


async def test_many_blobs_are_swept_in_steps(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_care, "STEP", 3)
    monkeypatch.setattr(blob_care, "PAUSE_S", 0)
    for number in range(10):
        await place.blobs.put(b"%d" % number)
    place.clock.move(KEPT_S + 1)
    assert await place.retention.sweep() == 10


async def test_a_dead_letter_keeps_its_payload_for_as_long_as_it_is_there(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_care, "PAGE", 2)
    monkeypatch.setattr(blob_care, "PAUSE_S", 0)
    dead = [await place.dead(f"big-{n}", f"{n}" + "x" * 10_000) for n in range(5)]
    await place.dead("small", "here")
    for _ in range(6):
        place.clock.move(KEPT_S / 2)
        assert await place.letters.keep() == 5
        assert await place.retention.sweep() == 0
    assert bytes((await place.claims.restore(dead[0])).payload) == b'"0' + b"x" * 10_000 + b'"'


async def test_after_an_outage_the_letters_that_were_read_are_not_read_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_care, "PAGE", 2)
    monkeypatch.setattr(blob_care, "PAUSE_S", 0)
    for number in range(5):
        await place.dead(f"big-{number}", f"{number}" + "x" * 10_000)
    read: list[str] = []
    get = place.tasks.dead_letters.get

    async def noted(id: str) -> DeadLetterRow | None:
        read.append(id)
        if len(read) == 4:
            raise BlobUnavailable("away")
        return await get(id)

    monkeypatch.setattr(place.tasks.dead_letters, "get", noted)
    with pytest.raises(BlobUnavailable):
        await place.letters.run_once(place.clock.now())
    place.clock.move(KEPT_S / 8)
    due_s = await place.letters.run_once(place.clock.now())
    assert due_s == pytest.approx(KEPT_S / 8), "counted from the first letter that was read"
    assert read[4:] == ["big-2", "big-3", "big-4"]


async def test_a_letter_whose_payload_is_gone_stops_nothing(place: Place) -> None:
    await place.dead("lost", "x" * 10_000)
    place.blobs.blobs.clear()
    await place.dead("there", "y" * 10_000)
    assert await place.letters.keep() == 1


async def test_the_chore_goes_on_after_an_outage(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(blob_care, "SWEEP_EVERY_S", 0.001)
    place.blobs.outage = "away"
    runner = ChoreRunner(place.clock)
    runner.add(place.retention, "blob-retention")
    runner.start()
    while "the chore blob-retention failed" not in caplog.text:
        await asyncio.sleep(0.001)
    place.blobs.outage = None
    await place.blobs.put(b"old")
    place.clock.move(KEPT_S + 1)
    while place.blobs.blobs:
        await asyncio.sleep(0.001)
    await runner.close()
