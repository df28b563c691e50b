"""`/metrics`, and the app that serves nothing else."""

from __future__ import annotations

import httpx
import pytest

from asya.gateway.metrics import make_metrics_app
from asya.telemetry.metrics import Metrics


@pytest.mark.parametrize(("host", "guarded"), [("127.0.0.1", True), ("0.0.0.0", False)])
async def test_metrics_have_a_port_of_their_own(host: str, guarded: bool) -> None:
    metrics = Metrics("default")
    metrics.request("/v1/flows", "GET", 200)
    transport = httpx.ASGITransport(make_metrics_app(metrics, host))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        assert 'route="/v1/flows"' in answer.text
        assert (await client.get("/v1/flows")).status_code == 404
        away = await client.get("/metrics", headers={"host": "evil.example"})
        assert (away.status_code == 403) is guarded
