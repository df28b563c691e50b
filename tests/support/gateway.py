"""A gateway over a real server in front of a mesh that runs envelopes in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from msgspec import Raw

from asya.clock import SystemClock, to_rfc3339
from asya.envelope import Envelope, ErrorInfo, Route
from asya.events import Finished, Flown, Forked, HopEnded, HopStarted
from asya.gateway.app import make_app
from asya.gateway.http.problems import PROBLEM_TYPES, type_of
from asya.gateway.server import HttpServer
from asya.tasks.mesh import ActorStatus, FlowSpec, ReplicaStatus
from asya.tasks.service import ServiceLimits, TaskService
from asya.tasks.store.sqlite.store import SqliteStore
from asya.transports.base import Depth

QUERY_SCHEMA = {
    "type": "object",
    "properties": {"query": {"type": "string"}, "top": {"type": "integer"}},
    "required": ["query"],
}


class RunningMesh:
    """Runs envelopes in this process: `echo` gives the payload back, `boom` fails, `talk` streams,
    `fork` makes a child, `hold` waits until it is let go."""

    namespace = "default"

    def __init__(self) -> None:
        self.service: Any = None
        self.trouble: str | None = None
        self.failure: Exception | None = None
        self.let_go = asyncio.Event()
        self.holds = asyncio.Event()
        self.canceled: set[str] = set()
        self.headers: list[dict[str, Any]] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def publish(
        self, envelope: Envelope, *, dedup_id: str, not_before: datetime | None = None
    ) -> None:
        if self.failure is not None:
            raise self.failure
        self.headers.append({name: envelope.header(name) for name in envelope.headers})
        task = asyncio.create_task(self.run(envelope))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def run(self, envelope: Envelope) -> None:
        error = None
        while envelope.route.curr != "x-sink":
            error = await self.hop(envelope)
            if error is not None:
                break
        if self.canceled & {envelope.id}:
            return
        phase = "failed" if error else "succeeded"
        end = Finished(
            envelope.id, phase, self.at(), envelope.hop, envelope.root, envelope.route,
            envelope.status.created_at, result=None if error else envelope.payload, error=error,
            reason="PolicyExhausted" if error else None, headers=envelope.headers,
        )  # fmt: skip
        await self.service.finish(end)

    async def hop(self, envelope: Envelope) -> ErrorInfo | None:
        id_, n, actor = envelope.id, envelope.hop, envelope.route.curr
        route = envelope.copy().route
        self.service.emit(HopStarted(id_, n, actor, 1, self.at(), id_, route, self.at(), 4711))
        error = None
        if actor == "boom":
            error = ErrorInfo("ValueError", "it went wrong", ["ValueError"], [], "Traceback …")
        elif actor == "hold":
            self.holds.set()
            await self.let_go.wait()
        elif actor == "talk":
            for number in range(3):
                data = Raw(b'{"text": "word\\n%d"}' % number)
                self.service.emit(Flown(id_, id_, actor, number, self.at(), data))
        elif actor == "fork":
            self.service.emit(Forked(f"{id_}-1", id_, id_, Route(["fork"], "b", []), self.at()))
        if error is None:
            envelope.route.prev.append(actor)
            envelope.route.curr = envelope.route.next.pop(0) if envelope.route.next else "x-sink"
        state = "failed" if error else "succeeded"
        route = envelope.copy().route
        self.service.emit(HopEnded(id_, n, actor, 1, self.at(), state, route, error))
        return error

    def at(self) -> str:
        return to_rfc3339(SystemClock().now())

    async def actors(self) -> list[str]:
        return ["echo", "boom", "talk", "hold", "fork", "full"]

    async def ready(self, actor: str) -> int:
        return 1_000_000 if actor == "full" else 0

    def cancel(self, ids: Iterable[str]) -> None:
        self.canceled |= set(ids)

    async def actor_status(self) -> list[ActorStatus]:
        replica = ReplicaStatus(4711, "idle", SystemClock().now())
        return [ActorStatus("echo", "nats", Depth(1, 2, 3), [replica], 1.5, "ValueError: no")]

    async def one_status(self, actor: str) -> ActorStatus | None:
        (known,) = await self.actor_status()
        return known if known.name == actor else None

    def flows(self) -> Mapping[str, FlowSpec]:
        return {
            "echo": FlowSpec("echo", ("echo", "echo"), "Says it again", QUERY_SCHEMA, 30.0),
            "plain": FlowSpec("plain", ("echo",)),
        }

    def problem(self) -> str | None:
        return self.trouble


@dataclass(frozen=True)
class Gateway:
    """A gateway that runs, and a client of it."""

    mesh: RunningMesh
    service: TaskService
    server: HttpServer
    client: httpx.AsyncClient


@contextlib.asynccontextmanager
async def running(
    folder: Path, *, streams_max: int = 3, body_max_bytes: int = 100_000
) -> AsyncIterator[Gateway]:
    mesh = RunningMesh()
    store = SqliteStore(folder / "tasks.db")
    limits = ServiceLimits(payload_max_bytes=50_000, queue_max=1000)
    service = mesh.service = TaskService(store, mesh, SystemClock(), limits)
    await service.start()
    given_settings = SimpleNamespace(
        host="127.0.0.1", body_max_bytes=body_max_bytes, streams_max=streams_max
    )
    app = make_app(service, mesh, given_settings)
    server = HttpServer(app, "127.0.0.1", 0, on_stop=service.release)
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:
            yield Gateway(mesh, service, server, client)
    finally:
        mesh.let_go.set()
        await server.stop()
        await asyncio.gather(*mesh.tasks, return_exceptions=True)
        await service.close()


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with running(tmp_path) as made:
        yield made


def problem(answer: httpx.Response, status: int, name: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert (found["type"], found["status"]) == (type_of(name), status)
    assert found["code"] == PROBLEM_TYPES[name].code
    assert found["title"]
    assert found["detail"]
    return found


async def events_of(
    client: httpx.AsyncClient, id_: str, **headers: str
) -> list[tuple[int | None, str, Any]]:
    """All events of a stream as (number, name, data), and the raw text."""
    answer = await client.get(f"/v1/envelopes/{id_}/events", headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in answer.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "event" in fields:
            number = int(fields["id"]) if "id" in fields else None
            found.append((number, fields["event"], json.loads(fields["data"])))
    return found
