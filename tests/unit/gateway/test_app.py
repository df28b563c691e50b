"""The app: unknown paths, methods and parameters, and bugs, are problem documents."""

from __future__ import annotations

import pytest
from tests.support.gateway import Gateway, problem


async def test_unknown_paths_and_methods_are_problems(gateway: Gateway) -> None:
    client = gateway.client
    problem(await client.get("/v1/nothing"), 404, "not-found")
    problem(await client.get("/v1/flows/"), 404, "not-found")
    answer = await client.put("/v1/envelopes/t", json=1)
    problem(answer, 405, "method-not-allowed")
    assert {"GET", "DELETE"} <= set(answer.headers["allow"].split(", "))
    problem(await client.get("/v1/envelopes/unknown"), 404, "unknown-envelope")
    problem(await client.get("/v1/envelopes/unknown/events"), 404, "unknown-envelope")
    problem(await client.post("/v1/flows/plain?wait=long", json=1), 422, "invalid")
    answer = await client.get("/v1/envelopes/t/events", headers={"Last-Event-ID": "x"})
    problem(answer, 400, "bad-request")


@pytest.mark.parametrize(
    ("method", "path", "close"),
    [
        ("GET", "/v1/envelopes?actr=echo", "actor"),
        ("GET", "/v1/dead?fingerprnt=x", "fingerprint"),
        ("GET", "/v1/actors?x=1", None),
        ("POST", "/v1/flows/plain?wait=9&timout=1s", "timeout"),
        ("DELETE", "/v1/envelopes/t?froce=1", None),
    ],
)
async def test_an_unknown_parameter_is_refused_with_the_nearest(
    gateway: Gateway, method: str, path: str, close: str | None
) -> None:
    answer = await gateway.client.request(method, path, json=1 if method == "POST" else None)
    found = problem(answer, 422, "invalid")
    assert found.get("nearest") == close
    assert found["errors"][0]["path"].startswith("?")
    assert ("did you mean" in found["detail"]) is (close is not None)


async def test_a_bug_is_a_problem_and_is_logged(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(gateway.mesh, "actor_status", broken)
    found = problem(await gateway.client.get("/v1/actors"), 500, "internal")
    assert "secret" not in found["detail"]
    assert "GET /v1/actors failed" in caplog.text
