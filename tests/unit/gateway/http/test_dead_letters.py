"""Dead letters over HTTP: shapes, refusals, and short ids."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from httpx import AsyncClient
from msgspec import Raw
from tests.support.task_service import ListMesh

from asya.crew import Sump
from asya.envelope import ErrorInfo, new_envelope
from asya.gateway.app import make_app
from asya.resiliency import Resiliency
from asya.sidecar.decide import decide, reject
from asya.sidecar.outcome import Raised, mismatch
from asya.tasks.service import TaskService

START = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = SimpleNamespace(host="0.0.0.0", body_max_bytes=1 << 20, streams_max=5)
ONE, OTHER = "11111111-aaaa", "11111111-bbbb"


@pytest.fixture
async def http(service: TaskService, mesh: ListMesh) -> AsyncIterator[Any]:
    transport = httpx.ASGITransport(make_app(service, mesh, SETTINGS))
    async with httpx.AsyncClient(transport=transport, base_url="http://mesh") as client:
        yield client


@pytest.fixture
def kill(service: TaskService) -> Callable[..., Any]:
    async def kill(id: str, *, actor: str = "a", message: str = "row 1") -> None:
        envelope = new_envelope(
            [actor, "b"], Raw(b'{"row": 1}'), now=START, id=id, headers={"priority": 3}
        )
        error = ErrorInfo("ValueError", message, traceback="Traceback …")
        (dead,) = decide(envelope, Raised(error), Resiliency(), START, max)
        await Sump(service).accept(dead.envelope)

    return kill


async def test_groups_and_letters_are_listed(http: AsyncClient, kill: Callable[..., Any]) -> None:
    await kill("first")
    await kill("second", message="row 2")
    await kill("third", actor="b")
    groups = (await http.get("/v1/dead")).json()
    assert [(each["actor"], each["count"]) for each in groups["groups"]] == [("b", 1), ("a", 2)]
    newest = groups["groups"][1]
    assert (newest["example_id"], newest["error"]["message"]) == ("second", "row 2")
    assert newest["reasons"] == ["PolicyExhausted"]
    assert "letters" not in groups
    page = (await http.get("/v1/dead?group=none&actor=a&limit=1")).json()
    assert [each["id"] for each in page["letters"]] == ["second"]
    rest = await http.get(f"/v1/dead?group=none&actor=a&cursor={page['next_cursor']}")
    assert [each["id"] for each in rest.json()["letters"]] == ["first"]
    assert rest.json()["next_cursor"] is None
    one = (await http.get("/v1/dead?limit=1")).json()
    two = (await http.get(f"/v1/dead?limit=1&cursor={one['next_cursor']}")).json()
    assert [one["groups"], two["groups"]] == [groups["groups"][:1], groups["groups"][1:]]


@pytest.mark.parametrize("query", ["group=actor", "status=alive", "limit=0", "cursor=x"])
async def test_a_query_that_is_none_is_refused(http: AsyncClient, query: str) -> None:
    answer = await http.get(f"/v1/dead?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == f"?{query.partition('=')[0]}"


async def test_a_letter_is_shown_whole(http: AsyncClient, kill: Callable[..., Any]) -> None:
    await kill(ONE)
    letter = (await http.get(f"/v1/dead/{ONE}")).json()
    assert letter["route"] == {"prev": [], "curr": "a", "next": ["b"]}
    assert letter["payload"] == letter["envelope"]["payload"] == {"row": 1}
    assert letter["headers"] == {"priority": 3}
    assert letter["error"]["traceback"] == "Traceback …"
    assert (letter["case"]["route"]["curr"], letter["case"]["payload"]) == ("a", None)
    assert (letter["hops"], letter["payload_problem"]) == ([], None)


async def test_a_letter_is_sent_again_and_known_to_be(
    http: AsyncClient, kill: Callable[..., Any], mesh: ListMesh
) -> None:
    await kill(ONE)
    body = {"set": [{"path": ".payload.row", "value": 2}], "route": ["b"], "timeout": "1m"}
    answer = await http.post(f"/v1/dead/{ONE}/retry", json=body)
    assert answer.status_code == 202
    new = answer.json()["id"]
    assert answer.headers["location"] == f"/v1/envelopes/{new}"
    assert bytes(mesh.published[0].payload) == b'{"row":2}'
    again = await http.post(f"/v1/dead/{ONE}/retry")
    assert (again.status_code, again.json()["retried_as"]) == (409, new)
    shown = (await http.get(f"/v1/dead/{ONE}")).json()
    assert (shown["status"], shown["retried_as"]) == ("retried", new)
    assert (await http.get("/v1/dead?group=none&status=retried")).json()["letters"][0]["id"] == ONE
    assert (await http.get(f"/v1/envelopes/{new}")).json()["parent_id"] == ONE


async def test_many_are_sent_again(http: AsyncClient, kill: Callable[..., Any]) -> None:
    for number in range(3):
        await kill(f"t{number}")
    first = (await http.post("/v1/dead/retry", json={"all": True, "limit": 2})).json()
    assert [each["id"] for each in first["retried"]] == ["t0", "t1"]
    cursor = first["next_cursor"]
    rest = await http.post("/v1/dead/retry", json={"all": True, "cursor": cursor})
    assert [each["id"] for each in rest.json()["retried"]] == ["t2"]
    assert rest.json()["next_cursor"] is None


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"all": True, "rate": 0},
        {"all": True, "limit": 501},
        {"all": True, "filter": {}},
        {"filter": {"actr": "a"}},
        {"all": True, "older_than": "1h"},
    ],
)
async def test_a_run_that_is_none_is_refused(http: AsyncClient, body: dict[str, Any]) -> None:
    assert (await http.post("/v1/dead/retry", json=body)).status_code == 422


async def test_letters_are_thrown_away(http: AsyncClient, kill: Callable[..., Any]) -> None:
    await kill(ONE)
    await kill("t1")
    assert (await http.delete(f"/v1/dead/{ONE}")).status_code == 204
    assert (await http.delete(f"/v1/dead/{ONE}")).status_code == 204
    gone = (await http.get(f"/v1/dead/{ONE}")).json()
    assert (gone["status"], gone["payload"], gone["envelope"]) == ("purged", None, None)
    assert gone["payload_problem"] == "it was purged"
    assert (await http.post("/v1/dead/purge", json={"all": True})).json() == {"purged": 1}
    assert (await http.get("/v1/dead")).json()["groups"] == []
    bad = await http.post("/v1/dead/purge", json={"all": True, "older_than": "soon"})
    assert bad.json()["errors"][0]["path"] == "$.older_than"


async def test_what_is_not_dead_has_no_letter(http: AsyncClient, service: TaskService) -> None:
    await service.admit(["a"], Raw(b"1"), id="open-one-17")
    answer = await http.get("/v1/dead/open-one-17")
    assert answer.status_code == 409
    assert "it is pending" in answer.json()["detail"]
    missing = await http.get("/v1/dead/open-one-71")
    assert (missing.status_code, missing.json()["nearest"]) == (404, "open-one-17")


async def test_eight_characters_of_an_id_do(
    http: AsyncClient, kill: Callable[..., Any], service: TaskService
) -> None:
    await kill("22222222-cccc")
    await kill(ONE)
    assert (await http.get("/v1/envelopes/22222222")).json()["id"] == "22222222-cccc"
    assert (await http.get("/v1/dead/11111111")).json()["id"] == ONE
    assert (await http.get("/v1/envelopes/2222222")).status_code == 404
    assert (await http.get("/v1/envelopes/22222222/why")).json()["id"] == "22222222-cccc"
    assert (await http.get("/v1/envelopes/2222222/why")).json()["nearest"] == "22222222-cccc"
    assert (await http.delete("/v1/envelopes/22222222-")).status_code == 204
    assert "event: status" in (await http.get("/v1/envelopes/22222222/events")).text
    assert (await http.post("/v1/dead/11111111/retry", json={})).status_code == 202
    await kill(OTHER)
    ambiguous = await http.get("/v1/dead/11111111")
    assert ambiguous.status_code == 404
    assert (await http.get("/v1/dead/11111111-b")).json()["id"] == OTHER


async def test_a_foreign_envelope_goes_where_it_wanted_to(
    http: AsyncClient, service: TaskService, mesh: ListMesh
) -> None:
    body = b'{"id":"lost","route":{"curr":"b","next":["a"]},"payload":[1]}'
    await Sump(service).accept(reject(mismatch("a", "lost", "b", body), START).envelope)
    shown = (await http.get("/v1/dead/lost")).json()
    assert (shown["actor"], shown["route"]["curr"], shown["payload"]) == ("a", "b", [1])
    assert (await http.post("/v1/dead/lost/retry")).status_code == 202
    assert mesh.published[0].route.curr == "b"


async def test_a_timeout_that_cannot_be_used_refuses_the_whole_request(
    http: httpx.AsyncClient, kill: Any
) -> None:
    await kill(ONE)
    answer = await http.post("/v1/dead/retry", json={"all": True, "timeout": "soon"})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "$.timeout")
    assert (await http.get(f"/v1/dead/{ONE}")).json()["status"] == "dead"
