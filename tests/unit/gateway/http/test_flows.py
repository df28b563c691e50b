"""`/v1/flows` over a real server: what is sent, and what is answered."""

from __future__ import annotations

from tests.support.gateway import Gateway, events_of, problem


async def test_a_flow_answers_with_the_result(gateway: Gateway) -> None:
    answer = await gateway.client.post(
        "/v1/flows/echo?wait=10s",
        content=b'{"query": "x", "n": 1.50}',
        headers={"content-type": "application/json", "traceparent": "00-a-b-01"},
    )
    assert answer.status_code == 200
    assert b'"result":{"query": "x", "n": 1.50}' in answer.content
    view = answer.json()
    assert (view["status"], view["flow"], view["progress"]) == ("succeeded", "echo", 100)
    assert view["route"] == {"prev": ["echo", "echo"], "curr": "x-sink", "next": []}
    assert view["deadline_at"] > view["created_at"]
    assert view["error"] is None
    assert [(hop["n"], hop["state"], hop["edge"]) for hop in view["hops"]] == [
        (0, "succeeded", "durable"),
        (1, "succeeded", "durable"),
    ]
    assert {"in", "out", "replica", "started_at", "retry_at"} <= set(view["hops"][0])
    assert gateway.mesh.headers[0]["traceparent"] == "00-a-b-01"
    again = await gateway.client.get(f"/v1/envelopes/{view['id']}")
    assert again.content == answer.content


async def test_without_wait_the_answer_says_where_to_look(gateway: Gateway) -> None:
    answer = await gateway.client.post("/v1/flows/plain", json=[1])
    assert answer.status_code == 202
    accepted = answer.json()
    assert answer.headers["location"] == accepted["status_url"]
    assert (await gateway.client.get(accepted["status_url"])).status_code == 200
    assert (await events_of(gateway.client, accepted["id"]))[-1][2]["status"] == "succeeded"


async def test_a_payload_that_does_not_fit_names_the_paths(gateway: Gateway) -> None:
    answer = await gateway.client.post("/v1/flows/echo", json={"top": "many"})
    found = problem(answer, 422, "invalid-payload")
    assert {fault["path"] for fault in found["errors"]} == {"$.query", "$.top"}
    large = {"query": "x" * 70_000, "top": 1.5}
    problem(await gateway.client.post("/v1/flows/echo", json=large), 422, "invalid-payload")


async def test_a_number_that_python_has_not_is_a_payload_but_fits_no_schema(
    gateway: Gateway,
) -> None:
    body = b'{"route":["echo"],"payload":{"v":1e400}}'
    headers = {"Content-Type": "application/json"}
    answer = await gateway.client.post("/v1/envelopes", content=body, headers=headers)
    assert answer.status_code == 202
    body = b'{"query":"x","top":1e400}'
    answer = await gateway.client.post("/v1/flows/echo", content=body, headers=headers)
    assert problem(answer, 422, "invalid-payload")["errors"][0]["path"] == "$.top"


async def test_an_unknown_name_comes_with_the_nearest(gateway: Gateway) -> None:
    body = {"route": ["echo", "tlak"], "payload": 1}
    found = problem(await gateway.client.post("/v1/envelopes", json=body), 422, "unknown-actor")
    assert found["nearest"] == "talk"
    found = problem(await gateway.client.post("/v1/flows/ehco", json=1), 404, "unknown-flow")
    assert found["nearest"] == "echo"
