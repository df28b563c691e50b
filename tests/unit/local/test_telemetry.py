from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asya.clock import SystemClock
from asya.envelope import Route
from asya.errors import AsyaError
from asya.events import DeadLetter, Event, HopEnded
from asya.local.logs import RotatingLog
from asya.local.notices import MetricsServed
from asya.local.telemetry import MeshTelemetry
from asya.settings import Settings
from asya.telemetry import catalog
from asya.testing.ledger import MemoryLedger

Make = Callable[..., MeshTelemetry]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(**settings: Any) -> MeshTelemetry:
        log = RotatingLog(tmp_path / "x-mesh.log", 100_000)
        return MeshTelemetry(Settings(**settings), {}, log, SystemClock())

    return made


async def test_metrics_get_a_port_of_their_own_where_one_is_asked_for(make: Make) -> None:
    told: list[Any] = []
    async with contextlib.AsyncExitStack() as stack:
        await make(metrics_port=0).start(stack, told.append)
    (notice,) = told
    assert isinstance(notice, MetricsServed)
    assert notice.url.startswith("http://127.0.0.1:")


async def test_a_port_that_is_taken_is_refused(make: Make) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with contextlib.AsyncExitStack() as stack:
            with pytest.raises(AsyaError, match=str(port)):
                await make(metrics_port=port).start(stack, lambda _: None)


def test_the_service_is_told_of_hops_before_anybody_else(make: Make, tmp_path: Path) -> None:
    telemetry = make()
    seen: list[Event] = []

    class Tasks:
        def emit(self, event: Event) -> None:
            seen.append(event)
            assert not (tmp_path / "x-mesh.log").exists()

    hop = HopEnded("e", 0, "a", 1, "2026-11-23T12:00:00Z", "failed", Route([], "a", []))
    telemetry.listener(Tasks()).emit(hop)
    assert seen == [hop]
    assert " e | ERROR a: " in (tmp_path / "x-mesh.log").read_text()


async def test_the_ledger_counts_and_writes_down_what_it_passes_on(
    make: Make, tmp_path: Path
) -> None:
    telemetry, inner = make(), MemoryLedger()
    letter = DeadLetter("e", "2026-11-23T12:00:00Z", "poison", "a", b"{}")
    await telemetry.ledger(inner).dead_letter(letter)
    assert inner.letters == [letter]
    gathered = await telemetry.metrics.gather()
    dead = [each for each in gathered.samples if each.metric == catalog.DEAD]
    assert [each.value for each in dead] == [1]
    assert "poison" in (tmp_path / "x-mesh.log").read_text()
