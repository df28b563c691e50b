"""Event streams: history, live events, and their end."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from tests.support.gateway import Gateway, events_of, problem

from asya.gateway.http import sse as stream_module


async def test_a_stream_tells_the_history_and_ends(gateway: Gateway) -> None:
    body = {"route": ["echo", "boom"], "payload": 1, "id": "t"}
    await gateway.client.post("/v1/envelopes?wait=60", json=body)
    events = await events_of(gateway.client, "t")
    assert [number for number, *_ in events] == list(range(1, 8))
    assert [(name, data.get("status") or data["state"]) for _, name, data in events] == [
        ("status", "pending"),
        ("status", "running"),
        ("progress", "running"),
        ("progress", "succeeded"),
        ("progress", "running"),
        ("progress", "failed"),
        ("status", "failed"),
    ]
    assert [data["progress"] for *_, data in events] == [0, 0, 0, 50, 50, 50, 50]
    assert events[-1][2]["error"]["message"] == "it went wrong"
    resumed = await events_of(gateway.client, "t", **{"Last-Event-ID": "5"})
    assert resumed == events[5:]
    assert await events_of(gateway.client, "t", **{"Last-Event-ID": "7"}) == []


async def test_a_stream_is_live_and_carries_what_handlers_stream(gateway: Gateway) -> None:
    """Given a watcher of a held envelope, when it goes on, then FLY comes before the end."""
    body = {"route": ["hold", "talk"], "payload": 1, "id": "t"}
    await gateway.client.post("/v1/envelopes", json=body)
    watching = asyncio.create_task(events_of(gateway.client, "t"))
    await gateway.mesh.holds.wait()
    while not gateway.service.watching:
        await asyncio.sleep(0.001)
    gateway.mesh.let_go.set()
    events = await watching
    flown = [data for number, name, data in events if name == "fly" and number is None]
    assert [event["data"] for event in flown] == [{"text": f"word\n{n}"} for n in range(3)]
    assert [event["seq"] for event in flown] == [0, 1, 2]
    assert events[-1][1:] == ("status", events[-1][2])
    assert events[-1][2]["status"] == "succeeded"
    numbers = [number for number, *_ in events if number is not None]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_a_quiet_stream_sends_comments_and_ends_with_the_gateway(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "COMMENT_EVERY_S", 0.01)
    body = {"route": ["hold"], "payload": 1, "id": "t"}
    await gateway.client.post("/v1/envelopes", json=body)
    text = ""
    async with gateway.client.stream("GET", "/v1/envelopes/t/events") as answer:
        async for chunk in answer.aiter_text():
            text += chunk
            if "\n: still here\n" in text:
                gateway.service.release()
    assert "event: status" in text
    assert gateway.service.watching == 0


async def test_streams_are_bounded_and_given_back(gateway: Gateway) -> None:
    body = {"route": ["hold"], "payload": 1, "id": "t"}
    await gateway.client.post("/v1/envelopes", json=body)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            opened = gateway.client.stream("GET", "/v1/envelopes/t/events")
            assert (await stack.enter_async_context(opened)).status_code == 200
        answer = await gateway.client.get("/v1/envelopes/t/events")
        problem(answer, 429, "too-many-streams")
        assert int(answer.headers["retry-after"]) >= 1
    async with asyncio.timeout(30):
        while gateway.service.watching:
            await asyncio.sleep(0.001)
    gateway.mesh.let_go.set()
    assert (await events_of(gateway.client, "t"))[-1][2]["status"] == "succeeded"
