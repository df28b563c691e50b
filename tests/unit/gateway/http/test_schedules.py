"""`/v1/schedules`: shapes and refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from msgspec import Raw
from tests.support.task_service import ListMesh, StandingClock

from asya.gateway.app import make_app
from asya.gateway.http.problems import type_of
from asya.tasks.schedule import ScheduleSpec
from asya.tasks.service import TaskService
from asya.tasks.store.sqlite.store import SqliteStore
from asya.timetable import Timetable

SETTINGS = SimpleNamespace(host="0.0.0.0", body_max_bytes=1 << 20, streams_max=5)
YEARLY = ScheduleSpec("report", ("a",), Raw(b"1"), Timetable(cron="0 0 1 6 *"), "0 0 1 6 *")


@pytest.fixture
async def http(
    tmp_path: Path, mesh: ListMesh, clock: StandingClock
) -> AsyncIterator[httpx.AsyncClient]:
    clock.moment = datetime(2026, 1, 1, tzinfo=UTC)
    service = TaskService(SqliteStore(tmp_path / "tasks.db"), mesh, clock, schedules=[YEARLY])
    await service.start()
    transport = httpx.ASGITransport(make_app(service, mesh, SETTINGS))
    async with httpx.AsyncClient(transport=transport, base_url="http://mesh") as client:
        yield client
    await service.close()


async def test_schedules_are_listed(http: httpx.AsyncClient) -> None:
    (found,) = (await http.get("/v1/schedules")).json()["schedules"]
    assert (found["name"], found["route"], found["when"]) == ("report", ["a"], "0 0 1 6 *")
    assert (found["suspended"], found["next_at"]) == (False, "2026-06-01T00:00:00.000Z")


async def test_one_is_fired_under_an_id_of_the_client(
    http: httpx.AsyncClient, mesh: ListMesh
) -> None:
    for _ in range(2):
        answer = await http.post("/v1/schedules/report/run?id=mine")
        assert (answer.status_code, answer.json()["id"]) == (202, "mine")
        assert answer.headers["location"] == "/v1/envelopes/mine"
    assert [each.id for each in mesh.published] == ["mine"]
    answer = await http.post("/v1/schedules/report/run?id=a%20b")
    assert (answer.status_code, answer.json()["type"]) == (422, type_of("invalid"))


async def test_one_is_suspended_and_resumed(http: httpx.AsyncClient) -> None:
    found = (await http.post("/v1/schedules/report/suspend")).json()
    assert (found["suspended"], found["next_at"]) == (True, None)
    found = (await http.post("/v1/schedules/report/resume")).json()
    assert found["suspended"] is False


async def test_an_unknown_one_is_refused_with_the_nearest(http: httpx.AsyncClient) -> None:
    for action in ("run", "suspend", "resume"):
        answer = await http.post(f"/v1/schedules/reprot/{action}")
        assert (answer.status_code, answer.json()["nearest"]) == (404, "report")
