"""A mesh of one list: what the gateway published, and switches for its troubles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from asya.blobs.base import CHUNK_BYTES
from asya.blobs.claims import Claims
from asya.blobs.memory import MemoryBlobs
from asya.envelope import Envelope
from asya.tasks.mesh import ActorStatus, FlowSpec
from asya.tasks.service import ServiceLimits, TaskService
from asya.tasks.store.sqlite.store import SqliteStore

MakeService = Callable[..., TaskService]
"""Takes `ServiceLimits` as keywords."""


@dataclass
class ListMesh:
    """Keeps what it is given. A `dedup_id` that was seen is dropped, as a broker does."""

    published: list[Any] = field(default_factory=list)
    times: list[datetime | None] = field(default_factory=list)
    canceled: list[set[str]] = field(default_factory=list)
    depths: dict[str, int] = field(default_factory=dict)
    asked: int = 0
    trouble: str | None = None
    failure: Exception | None = None
    keeps_on_failure: bool = False
    seen: set[str] = field(default_factory=set)
    statuses: dict[str, ActorStatus] = field(default_factory=dict)
    namespace: str = "default"
    gate: asyncio.Event | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def publish(
        self, envelope: Envelope, *, dedup_id: str, not_before: datetime | None = None
    ) -> None:
        self.arrived.set()
        self.times.append(not_before)
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is None or self.keeps_on_failure:
            if dedup_id not in self.seen:
                self.published.append(envelope)
            self.seen.add(dedup_id)
        if self.failure is not None:
            raise self.failure

    async def actors(self) -> list[str]:
        return ["embedder", "reranker", "a", "b"]

    async def ready(self, actor: str) -> int:
        self.asked += 1
        return self.depths.get(actor, 0)

    def cancel(self, ids: Iterable[str]) -> None:
        self.canceled.append(set(ids))

    async def actor_status(self) -> list[ActorStatus]:
        return []

    async def one_status(self, actor: str) -> ActorStatus | None:
        return self.statuses.get(actor)

    def flows(self) -> dict[str, FlowSpec]:
        return {"search": FlowSpec("search", ("embedder", "reranker"))}

    def problem(self) -> str | None:
        return self.trouble


class StandingClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.moment

    def move(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


@pytest.fixture
def mesh() -> ListMesh:
    return ListMesh()


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def make_service(tmp_path: Path, mesh: ListMesh, clock: StandingClock) -> MakeService:
    def make(**limits: Any) -> TaskService:
        return TaskService(SqliteStore(tmp_path / "tasks.db"), mesh, clock, ServiceLimits(**limits))

    return make


@pytest.fixture
async def service(make_service: MakeService) -> AsyncIterator[TaskService]:
    service = make_service(queue_max=10)
    await service.start()
    yield service
    await service.close()


@pytest.fixture
def blobs() -> MemoryBlobs:
    return MemoryBlobs()


@pytest.fixture
async def claiming_service(
    tmp_path: Path, mesh: ListMesh, clock: StandingClock, blobs: MemoryBlobs
) -> AsyncIterator[TaskService]:
    """A service whose payloads over 5,000 bytes go to `blobs`."""
    store = SqliteStore(tmp_path / "tasks.db")
    limits = ServiceLimits(payload_max_bytes=10 * CHUNK_BYTES)
    service = TaskService(store, mesh, clock, limits, claims=Claims(blobs, 5_000))
    await service.start()
    yield service
    await service.close()
