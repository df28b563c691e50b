"""`/v1/envelopes` over a real server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import Raw
from tests.support.gateway import Gateway, events_of, problem

from asya.envelope import Route
from asya.errors import TransportUnavailable
from asya.events import HopEnded, HopStarted


async def test_a_failure_is_an_answer_too(gateway: Gateway) -> None:
    body = {"route": ["echo", "boom", "echo"], "payload": None}
    answer = await gateway.client.post("/v1/envelopes?wait=10", json=body)
    view = answer.json()
    assert (answer.status_code, view["status"], view["result"]) == (200, "failed", None)
    assert view["error"] == {
        "type": "ValueError",
        "message": "it went wrong",
        "traceback": "Traceback …",
        "reason": "PolicyExhausted",
        "code": "ASYA-2005",
    }
    assert view["progress"] == 33
    assert view["hops"][1]["error"]["type"] == "ValueError"


async def test_the_same_id_again_is_the_same_task(gateway: Gateway) -> None:
    body = {"route": ["echo"], "payload": {"a": 1}, "id": "mine", "timeout": "1h"}
    first = await gateway.client.post("/v1/envelopes?wait=10", json=body)
    again = await gateway.client.post("/v1/envelopes", json=body)
    assert (again.status_code, again.json()) == (200, first.json())
    other = await gateway.client.post("/v1/envelopes", json=body | {"payload": 2})
    assert problem(other, 409, "id-conflict")["id"] == "mine"
    for _ in range(2):
        flow = await gateway.client.post("/v1/flows/plain?id=own&wait=9", json=1)
        assert flow.json()["id"] == "own"
    assert len(gateway.mesh.headers) == 2


@pytest.mark.parametrize(
    ("body", "path", "said"),
    [
        ({"payload": 1}, "$", "route"),
        ({"route": ["echo"]}, "$", "payload"),
        ({"route": "echo", "payload": 1}, "$.route", "array"),
        ({"route": [1], "payload": 1}, "$.route[0]", "str"),
        ({"route": [], "payload": 1}, "$.route", "at least one"),
        ({"route": ["x-sump"], "payload": 1}, "$.route", "x-sump"),
        ({"route": ["echo"], "payload": 1, "rout": 2}, "$", "rout"),
        ({"route": ["echo"], "payload": 1, "id": "a b"}, "$.id", "A-Z"),
        ({"route": ["echo"], "payload": 1, "timeout": "soon"}, "$.timeout", "duration"),
        ({"route": ["echo"], "payload": 1, "timeout": -1}, "$.timeout", "seconds"),
        ({"route": ["echo"], "payload": 1, "timeout": 1e300}, "$.timeout", "seconds"),
        ({"route": ["echo"], "payload": 1, "headers": []}, "$.headers", "object"),
        ({"route": ["echo"], "payload": 1, "headers": {"x-asya-hop": 1}}, "$.headers", "system"),
        ([], "$", "object"),
    ],
)
async def test_a_bad_envelope_names_its_field(
    gateway: Gateway, body: Any, path: str, said: str
) -> None:
    found = problem(await gateway.client.post("/v1/envelopes", json=body), 422, "invalid")
    assert found["errors"][0]["path"] == path
    assert said in found["detail"]


async def test_a_full_queue_and_a_mesh_in_trouble_say_when_to_come_again(gateway: Gateway) -> None:
    body = {"route": ["full"], "payload": 1}
    answer = await gateway.client.post("/v1/envelopes", json=body)
    problem(answer, 429, "queue-full")
    assert int(answer.headers["retry-after"]) >= 1
    gateway.mesh.failure = TransportUnavailable("the broker does not answer")
    answer = await gateway.client.post("/v1/flows/plain", json=1)
    problem(answer, 503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    gateway.mesh.trouble = "the broker is gone"
    problem(await gateway.client.post("/v1/flows/plain", json=1), 503, "unavailable")
    problem(await gateway.client.get("/readyz"), 503, "unavailable")
    assert (await gateway.client.get("/healthz")).status_code == 200
    gateway.mesh.trouble = None
    assert (await gateway.client.get("/readyz")).json() == {"status": "ok"}


async def test_lists_are_filtered_and_paged(gateway: Gateway) -> None:
    for number in range(5):
        await gateway.client.post(f"/v1/flows/plain?id=p{number}&wait=9", json=number)
    await gateway.client.post("/v1/envelopes?wait=60", json={"route": ["boom"], "payload": 1})
    first = (await gateway.client.get("/v1/envelopes?flow=plain&limit=3")).json()
    assert [view["id"] for view in first["envelopes"]] == ["p4", "p3", "p2"]
    assert "result" not in first["envelopes"][0]
    url = f"/v1/envelopes?flow=plain&limit=3&cursor={first['next_cursor']}"
    second = (await gateway.client.get(url)).json()
    assert [view["id"] for view in second["envelopes"]] == ["p1", "p0"]
    assert second["next_cursor"] is None
    failed = (await gateway.client.get("/v1/envelopes?status=failed&actor=boom")).json()
    assert [view["error"]["type"] for view in failed["envelopes"]] == ["ValueError"]
    for query in ("status=done", "limit=0", "limit=x", "cursor=-1", f"cursor={10**30}"):
        problem(await gateway.client.get(f"/v1/envelopes?{query}"), 422, "invalid")


async def test_why_is_answered_for_every_id(gateway: Gateway) -> None:
    await gateway.client.post("/v1/flows/plain?id=done-1&wait=9", json=1)
    found = (await gateway.client.get("/v1/envelopes/done-1/why")).json()
    assert (found["status"], found["kind"]) == ("succeeded", "done")
    assert found["remedy"][0] == {"command": "asya watch done-1", "does": "prints the result"}
    found = (await gateway.client.get("/v1/envelopes/done-2/why")).json()
    assert (found["status"], found["kind"], found["nearest"]) == (None, "unknown", "done-1")
    document = problem(await gateway.client.get("/v1/envelopes/done-2"), 404, "unknown-envelope")
    assert document["nearest"] == "done-1"
    await gateway.client.post("/v1/envelopes", json={"id": "h", "route": ["hold"], "payload": 1})
    await gateway.mesh.holds.wait()
    found = (await gateway.client.get("/v1/envelopes/h/why")).json()
    assert (found["kind"], found["cause"].split(" for ")[0]) == ("running", "Running")
    gateway.mesh.trouble = "the disk is full"
    found = (await gateway.client.get("/v1/envelopes/h/why")).json()
    assert found["kind"] == "running"
    gateway.mesh.let_go.set()


async def test_what_stands_still_can_be_listed(gateway: Gateway) -> None:
    await gateway.client.post("/v1/flows/plain?id=one&wait=9", json=1)
    assert (await gateway.client.get("/v1/envelopes?stuck=true")).json()["envelopes"] == []
    (view,) = (await gateway.client.get("/v1/envelopes?stuck=false")).json()["envelopes"]
    assert (view["id"], view["stuck_at"]) == ("one", None)
    problem(await gateway.client.get("/v1/envelopes?stuck=maybe"), 422, "invalid")


async def test_a_payload_is_given_as_it_was_kept(gateway: Gateway) -> None:
    await gateway.client.post("/v1/flows/plain?id=one&wait=9", json=1)
    now, route = gateway.mesh.at(), Route([], "echo", [])
    whole, large = Raw(b'{"a": 1.0}'), Raw(b'"' + b"x" * 70_000 + b'"')
    started = HopStarted("one", 0, "echo", 1, now, "one", route, now, 4711, payload=whole)
    ended = HopEnded("one", 0, "echo", 1, now, "succeeded", route, payload=large)
    for event in (started, ended):
        gateway.service.emit(event)
    url = "/v1/envelopes/one/hops/0/payload"
    answer = await gateway.client.get(url)
    assert (answer.content, answer.headers["content-type"]) == (b'{"a": 1.0}', "application/json")
    assert answer.headers["asya-truncated"] == "false"
    answer = await gateway.client.get(f"{url}?side=out&attempt=1")
    assert answer.content == bytes(large)[: 64 * 1024]
    assert answer.headers["content-type"] == "application/octet-stream"
    assert (answer.headers["asya-truncated"], answer.headers["asya-size"]) == ("true", "70002")
    problem(await gateway.client.get(f"{url}?attempt=2"), 404, "not-found")
    problem(await gateway.client.get(f"{url}?attempt=0"), 422, "invalid")
    problem(await gateway.client.get(f"{url}?side=up"), 422, "invalid")
    problem(await gateway.client.get("/v1/envelopes/one/hops/x/payload"), 422, "invalid")
    problem(await gateway.client.get("/v1/envelopes/two/hops/0/payload"), 404, "unknown-envelope")


async def test_a_cancel_ends_the_envelope_its_children_and_its_streams(gateway: Gateway) -> None:
    body = {"route": ["fork", "hold"], "payload": 1, "id": "t"}
    await gateway.client.post("/v1/envelopes", json=body)
    await gateway.mesh.holds.wait()
    watching = asyncio.create_task(events_of(gateway.client, "t"))
    while not gateway.service.watching:
        await asyncio.sleep(0.001)
    for _ in range(2):
        answer = await gateway.client.delete("/v1/envelopes/t")
        assert (answer.status_code, answer.content) == (204, b"")
    assert (await watching)[-1][2]["status"] == "canceled"
    assert gateway.mesh.canceled == {"t", "t-1"}
    listed = (await gateway.client.get("/v1/envelopes?root=t")).json()["envelopes"]
    assert [(view["id"], view["parent_id"], view["status"]) for view in listed] == [
        ("t-1", "t", "canceled"),
        ("t", None, "canceled"),
    ]
    problem(await gateway.client.delete("/v1/envelopes/unknown"), 404, "unknown-envelope")
