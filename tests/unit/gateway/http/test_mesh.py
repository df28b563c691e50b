"""The mesh as a whole over HTTP: actors, flows, links, probes."""

from __future__ import annotations

from tests.support.gateway import Gateway


async def test_actors_and_flows_are_told(gateway: Gateway) -> None:
    (actor,) = (await gateway.client.get("/v1/actors")).json()["actors"]
    assert actor["queue"] == {"ready": 1, "in_flight": 2, "delayed": 3}
    assert (actor["name"], actor["transport"], actor["rate"]) == ("echo", "nats", 1.5)
    assert set(actor["replicas"][0]) == {"pid", "state", "since"}
    flows = (await gateway.client.get("/v1/flows")).json()["flows"]
    assert [(flow["name"], flow["url"]) for flow in flows] == [
        ("echo", "/v1/flows/echo"),
        ("plain", "/v1/flows/plain"),
    ]
    links = (await gateway.client.get("/")).json()["links"]
    for url in links.values():
        assert (await gateway.client.get(url)).status_code == 200


async def test_probes_and_scrapers_may_ask_with_any_parameter(gateway: Gateway) -> None:
    for path in ("/healthz?verbose=1", "/readyz?x", "/metrics?name[]=up"):
        assert (await gateway.client.get(path)).status_code == 200
