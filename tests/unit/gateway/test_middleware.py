"""What the middleware counts and which trace an envelope gets, through the whole app."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from httpx import AsyncClient
from tests.support.task_service import ListMesh

from asya.gateway.app import make_app
from asya.gateway.metrics import make_metrics_app
from asya.settings import Settings
from asya.tasks.service import TaskService
from asya.telemetry import catalog
from asya.telemetry.metrics import Metrics
from asya.telemetry.spans import Spans

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
GIVEN = f"00-{TRACE}-00f067aa0ba902b7-01"
BODY = {"route": ["a"], "payload": 1}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("default")


@pytest.fixture
def recorded() -> list[Any]:
    return []


@pytest.fixture
def client_for(service: TaskService, mesh: ListMesh, metrics: Metrics) -> Callable[..., Any]:
    def make(spans: Spans | None = None) -> AsyncClient:
        app = make_app(service, mesh, Settings(), metrics, spans)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080")

    return make


async def requests(metrics: Metrics) -> dict[tuple[str, ...], float]:
    samples = (await metrics.gather()).samples
    return {s.labels: s.value for s in samples if s.metric == catalog.REQUESTS}


async def test_requests_are_counted_by_pattern_and_status(
    client_for: Callable[..., Any], metrics: Metrics, mesh: ListMesh
) -> None:
    async with client_for() as client:
        await client.post("/v1/envelopes", json=BODY)
        await client.get("/v1/envelopes/no-1")
        await client.get("/v1/envelopes/no-2")
        await client.head("/healthz")
        await client.get("/nothing/here")
        await client.request("BREW", "/healthz")
        await client.get("/healthz", headers={"host": "evil.example"})
    assert await requests(metrics) == {
        ("/v1/envelopes", "POST", "202"): 1,
        ("/v1/envelopes/{id}", "GET", "404"): 2,
        ("/healthz", "HEAD", "200"): 1,
        ("unmatched", "GET", "404"): 1,
        ("unmatched", "other", "405"): 1,
        ("unmatched", "GET", "403"): 1,
    }


async def test_a_bug_counts_as_500(
    client_for: Callable[..., Any],
    metrics: Metrics,
    mesh: ListMesh,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mesh, "flows", lambda: 1 / 0)
    async with client_for() as client:
        assert (await client.get("/v1/flows")).status_code == 500
    assert await requests(metrics) == {("/v1/flows", "GET", "500"): 1}


async def test_metrics_are_served_by_the_gateway_and_by_the_port_of_their_own(
    client_for: Callable[..., Any], metrics: Metrics
) -> None:
    async with client_for() as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "# TYPE asya_http_requests_total counter" in answer.text
    own = httpx.ASGITransport(make_metrics_app(metrics, "127.0.0.1"))
    async with httpx.AsyncClient(transport=own, base_url="http://127.0.0.1:9090") as client:
        assert "asya_http_requests_total" in (await client.get("/metrics")).text
        assert (await client.get("/v1/envelopes")).status_code == 404
        foreign = await client.get("/metrics", headers={"host": "evil.example"})
        assert foreign.status_code == 403


async def test_without_spans_the_header_travels_on_as_it_came(
    client_for: Callable[..., Any], mesh: ListMesh
) -> None:
    async with client_for() as client:
        await client.post("/v1/envelopes", json=BODY, headers={"traceparent": GIVEN})
        await client.post("/v1/envelopes", json=BODY)
    first, second = mesh.published
    assert first.header("traceparent") == GIVEN
    assert "traceparent" not in second.headers


async def test_with_spans_the_request_s_span_is_the_parent(
    client_for: Callable[..., Any], mesh: ListMesh, recorded: list[Any]
) -> None:
    async with client_for(Spans(recorded.append)) as client:
        await client.post("/v1/envelopes", json=BODY, headers={"traceparent": GIVEN})
        await client.post("/v1/envelopes", json=BODY)
        await client.get("/healthz")
        await client.post("/nothing")
    child, root = recorded
    assert [e.header("traceparent") for e in mesh.published] == [
        f"00-{TRACE}-{child.span_id}-01",
        f"00-{root.trace_id}-{root.span_id}-01",
    ]
    assert (child.name, child.trace_id) == ("POST /v1/envelopes", TRACE)
    assert child.attributes["http.response.status_code"] == 202


async def test_a_trace_that_is_not_sampled_stays_so(
    client_for: Callable[..., Any], mesh: ListMesh, recorded: list[Any]
) -> None:
    given = GIVEN[:-1] + "0"
    async with client_for(Spans(recorded.append)) as client:
        await client.post("/v1/envelopes", json=BODY, headers={"traceparent": given})
    assert mesh.published[0].header("traceparent") == given
    assert recorded == []
