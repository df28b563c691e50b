"""The HTTP face over a real server: every operation, every refusal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw
from starlette.applications import Starlette

from asya.clock import SystemClock, to_rfc3339
from asya.envelope import ErrorInfo, Route
from asya.errors import SettingsError, TransportUnavailable
from asya.events import Finished, Flown, Forked, HopEnded, HopStarted
from asya.gateway.app import make_app
from asya.gateway.http import sse as stream_module
from asya.gateway.http.openapi import document
from asya.gateway.http.operations import OPERATIONS
from asya.gateway.http.problems import PROBLEM_TYPES, type_of
from asya.gateway.server import HttpServer, bind
from asya.tasks.mesh import ActorStatus, FlowSpec, ReplicaStatus
from asya.tasks.service import ServiceLimits, TaskService
from asya.tasks.store.sqlite.tasks import SqliteStore
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

    async def publish(self, envelope, *, dedup_id, not_before=None):
        if self.failure is not None:
            raise self.failure
        self.headers.append({name: envelope.header(name) for name in envelope.headers})
        task = asyncio.create_task(self.run(envelope))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def run(self, envelope) -> None:
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

    async def hop(self, envelope) -> ErrorInfo | None:
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

    async def actors(self):
        return ["echo", "boom", "talk", "hold", "fork", "full"]

    async def ready(self, actor):
        return 1_000_000 if actor == "full" else 0

    def cancel(self, ids):
        self.canceled |= set(ids)

    async def actor_status(self) -> list[ActorStatus]:
        replica = ReplicaStatus(4711, "idle", SystemClock().now())
        return [ActorStatus("echo", "nats", Depth(1, 2, 3), [replica], 1.5, "ValueError: no")]

    async def one_status(self, actor):
        (known,) = await self.actor_status()
        return known if known.name == actor else None

    def flows(self):
        return {
            "echo": FlowSpec("echo", ("echo", "echo"), "Says it again", QUERY_SCHEMA, 30.0),
            "plain": FlowSpec("plain", ("echo",)),
        }

    def problem(self):
        return self.trouble


@contextlib.asynccontextmanager
async def running(folder, *, streams_max=3, body_max_bytes=100_000):
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
            yield SimpleNamespace(mesh=mesh, service=service, server=server, client=client)
    finally:
        mesh.let_go.set()
        await server.stop()
        await asyncio.gather(*mesh.tasks, return_exceptions=True)
        await service.close()


@pytest.fixture
async def gateway(tmp_path):
    async with running(tmp_path) as made:
        yield made


def problem(answer, status, name) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert (found["type"], found["status"]) == (type_of(name), status)
    assert found["code"] == PROBLEM_TYPES[name].code
    assert found["title"]
    assert found["detail"]
    return found


async def events_of(client, id_, **headers) -> list[tuple[int | None, str, Any]]:
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


# Sending


async def test_a_flow_answers_with_the_result(gateway):
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


async def test_without_wait_the_answer_says_where_to_look(gateway):
    answer = await gateway.client.post("/v1/flows/plain", json=[1])
    assert answer.status_code == 202
    accepted = answer.json()
    assert answer.headers["location"] == accepted["status_url"]
    assert (await gateway.client.get(accepted["status_url"])).status_code == 200
    assert (await events_of(gateway.client, accepted["id"]))[-1][2]["status"] == "succeeded"


async def test_a_failure_is_an_answer_too(gateway):
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


async def test_waiting_is_over_in_time(gateway):
    body = {"route": ["hold"], "payload": 1, "id": "held"}
    answer = await gateway.client.post("/v1/envelopes?wait=50ms", json=body)
    assert (answer.status_code, answer.json()["id"]) == (202, "held")
    assert gateway.service.waiting == 0


async def test_a_body_is_let_go_before_the_wait_begins(tmp_path, monkeypatch):
    """Given room for one body, when the first is waited for, then others find room."""
    monkeypatch.setattr("asya.gateway.http.body.BODIES_MAX_BYTES", 0)
    async with running(tmp_path, body_max_bytes=50_000) as gateway:
        body = {"route": ["hold"], "payload": "x" * 40_000}
        calls = []
        for number in range(3):
            call = gateway.client.post("/v1/envelopes?wait=60", json=body)
            calls.append(asyncio.create_task(call))
            async with asyncio.timeout(30):
                while len(gateway.mesh.headers) <= number:
                    await asyncio.sleep(0.001)
        gateway.mesh.let_go.set()
        answers = await asyncio.gather(*calls)
    assert [answer.status_code for answer in answers] == [200] * 3


async def test_a_slow_body_is_given_up(gateway, monkeypatch):
    monkeypatch.setattr("asya.gateway.http.body.BODY_TIMEOUT_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.server.port)
    writer.write(b"POST /v1/flows/plain HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n1")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 408")
    assert type_of("body-timeout").encode() in answer


async def test_a_client_that_goes_away_frees_its_place(gateway):
    body = {"route": ["hold"], "payload": 1}
    call = asyncio.create_task(gateway.client.post("/v1/envelopes?wait=600", json=body))
    await gateway.mesh.holds.wait()
    while not gateway.service.waiting:
        await asyncio.sleep(0.001)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    async with asyncio.timeout(30):
        while gateway.service.waiting:
            await asyncio.sleep(0.001)


async def test_the_same_id_again_is_the_same_task(gateway):
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


async def test_a_number_that_python_has_not_is_a_payload_but_fits_no_schema(gateway):
    body = b'{"route":["echo"],"payload":{"v":1e400}}'
    headers = {"Content-Type": "application/json"}
    answer = await gateway.client.post("/v1/envelopes", content=body, headers=headers)
    assert answer.status_code == 202
    body = b'{"query":"x","top":1e400}'
    answer = await gateway.client.post("/v1/flows/echo", content=body, headers=headers)
    assert problem(answer, 422, "invalid-payload")["errors"][0]["path"] == "$.top"


async def test_a_payload_that_does_not_fit_names_the_paths(gateway):
    answer = await gateway.client.post("/v1/flows/echo", json={"top": "many"})
    found = problem(answer, 422, "invalid-payload")
    assert {fault["path"] for fault in found["errors"]} == {"$.query", "$.top"}
    large = {"query": "x" * 70_000, "top": 1.5}
    problem(await gateway.client.post("/v1/flows/echo", json=large), 422, "invalid-payload")


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
        ({"route": ["echo"], "payload": 1, "id": "a b"}, "$.id", "letters"),
        ({"route": ["echo"], "payload": 1, "timeout": "soon"}, "$.timeout", "duration"),
        ({"route": ["echo"], "payload": 1, "timeout": -1}, "$.timeout", "seconds"),
        ({"route": ["echo"], "payload": 1, "timeout": 1e300}, "$.timeout", "seconds"),
        ({"route": ["echo"], "payload": 1, "headers": []}, "$.headers", "object"),
        ({"route": ["echo"], "payload": 1, "headers": {"x-asya-hop": 1}}, "$.headers", "system"),
        ([], "$", "object"),
    ],
)
async def test_a_bad_envelope_names_its_field(gateway, body, path, said):
    found = problem(await gateway.client.post("/v1/envelopes", json=body), 422, "invalid")
    assert found["errors"][0]["path"] == path
    assert said in found["detail"]


async def test_an_unknown_name_comes_with_the_nearest(gateway):
    body = {"route": ["echo", "tlak"], "payload": 1}
    found = problem(await gateway.client.post("/v1/envelopes", json=body), 422, "unknown-actor")
    assert found["nearest"] == "talk"
    found = problem(await gateway.client.post("/v1/flows/ehco", json=1), 404, "unknown-flow")
    assert found["nearest"] == "echo"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"hello",
        b'{"a": NaN}',
        b'"\xff"',
        b"1 2",
        b"[" * 5000,
        b"\xef\xbb\xbf1",
    ],
)
async def test_what_is_not_json_is_refused(gateway, body):
    for path in ("/v1/flows/plain", "/v1/envelopes"):
        answer = await gateway.client.post(
            path, content=body, headers={"content-type": "application/json"}
        )
        problem(answer, 400, "not-json")


async def test_other_media_types_are_refused(gateway):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = await gateway.client.post(
            "/v1/flows/plain", content=b"1", headers={"content-type": kind}
        )
        problem(answer, 415, "not-json-type")


async def test_a_body_over_the_limit_is_refused(gateway):
    long = b'"' + b"x" * 100_001 + b'"'

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(long), 10_000):
            yield long[start : start + 10_000]

    answer = await gateway.client.post("/v1/flows/plain", content=long)
    problem(answer, 413, "too-large")
    problem(await gateway.client.post("/v1/flows/plain", content=chunks()), 413, "too-large")
    payload = b'"' + b"x" * 60_000 + b'"'
    problem(await gateway.client.post("/v1/flows/plain", content=payload), 413, "too-large")


async def test_a_full_queue_and_a_mesh_in_trouble_say_when_to_come_again(gateway):
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


@pytest.fixture(scope="module")
def standing(tmp_path_factory):
    """A gateway that many examples share, and the runner whose loop it lives in."""
    with asyncio.Runner() as runner:
        context = running(tmp_path_factory.mktemp("fuzz"))
        gateway = runner.run(context.__aenter__())
        yield runner, gateway
        runner.run(context.__aexit__(None, None, None))


ENVELOPE_LIKE = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["route", "payload", "headers", "timeout", "id"]), inner, max_size=5
        )
        | st.fixed_dictionaries({"route": st.just(["echo"]), "payload": inner, "headers": inner})
    ),
    max_leaves=8,
)


@given(body=st.binary(max_size=60) | ENVELOPE_LIKE.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=100, deadline=None)
def test_any_body_is_accepted_or_explained(standing, body):
    runner, gateway = standing

    async def send() -> None:
        for path in ("/v1/envelopes", "/v1/flows/plain"):
            answer = await gateway.client.post(path, content=body)
            if answer.status_code != 202:
                assert answer.status_code in {400, 422}, answer.text
                problem(answer, answer.status_code, answer.json()["type"].split(":")[-1])
                continue
            url = answer.json()["status_url"]
            assert (await gateway.client.get(url)).json()["id"] == answer.json()["id"]

    runner.run(send())


# Looking


async def test_lists_are_filtered_and_paged(gateway):
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


async def test_why_is_answered_for_every_id(gateway):
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


async def test_what_stands_still_can_be_listed(gateway):
    await gateway.client.post("/v1/flows/plain?id=one&wait=9", json=1)
    assert (await gateway.client.get("/v1/envelopes?stuck=true")).json()["envelopes"] == []
    (view,) = (await gateway.client.get("/v1/envelopes?stuck=false")).json()["envelopes"]
    assert (view["id"], view["stuck_at"]) == ("one", None)
    problem(await gateway.client.get("/v1/envelopes?stuck=maybe"), 422, "invalid")


async def test_a_payload_is_given_as_it_was_kept(gateway):
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


async def test_actors_and_flows_are_told(gateway):
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


async def test_the_document_is_served_and_true(gateway):
    """Given the served document, then each of its operations answers with a status it names."""
    served = (await gateway.client.get("/openapi.json")).json()
    assert served == json.loads(json.dumps(document()))
    for operation in OPERATIONS:
        path = re.sub(r"{\w+}", "unknown", operation.path.replace("{flow}", "plain"))
        answer = await gateway.client.request(operation.method, path, content=b"")
        named = served["paths"][operation.path][operation.method.lower()]["responses"]
        assert str(answer.status_code) in named


# Following


async def test_a_stream_tells_the_history_and_ends(gateway):
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


async def test_a_stream_is_live_and_carries_what_handlers_stream(gateway):
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


async def test_a_quiet_stream_sends_comments_and_ends_with_the_gateway(gateway, monkeypatch):
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


async def test_streams_are_bounded_and_given_back(gateway):
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


# Canceling


async def test_a_cancel_ends_the_envelope_its_children_and_its_streams(gateway):
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


# Refusing


async def test_unknown_paths_and_methods_are_problems(gateway):
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
async def test_an_unknown_parameter_is_refused_with_the_nearest(gateway, method, path, close):
    answer = await gateway.client.request(method, path, json=1 if method == "POST" else None)
    found = problem(answer, 422, "invalid")
    assert found.get("nearest") == close
    assert found["errors"][0]["path"].startswith("?")
    assert ("did you mean" in found["detail"]) is (close is not None)


async def test_probes_and_scrapers_may_ask_with_any_parameter(gateway):
    for path in ("/healthz?verbose=1", "/readyz?x", "/metrics?name[]=up"):
        assert (await gateway.client.get(path)).status_code == 200


async def test_a_bug_is_a_problem_and_is_logged(gateway, monkeypatch, caplog):
    async def broken():
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(gateway.mesh, "actor_status", broken)
    found = problem(await gateway.client.get("/v1/actors"), 500, "internal")
    assert "secret" not in found["detail"]
    assert "GET /v1/actors failed" in caplog.text


async def test_bytes_that_are_no_http_get_a_problem(gateway):
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.server.port)
    writer.write(b"\x00\x01 what is this\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["type"] == type_of("bad-request")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example:80"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "localhost:9", "origin": "http://localhost:10"}, 403),
        ({"host": "localhost:9", "origin": "http://localhost:9"}, 200),
        ({"host": "[::1]:9"}, 200),
        ({"host": "127.0.0.1"}, 200),
        ({"host": "127.9.9.9:80"}, 200),
        ({"host": "LOCALHOST.:9"}, 200),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "10.0.0.1"}, 403),
        ({"host": ""}, 403),
    ],
)
async def test_no_web_page_of_another_site_drives_the_mesh(gateway, headers, status):
    answer = await gateway.client.get("/healthz", headers=headers)
    if status == 403:
        problem(answer, 403, "forbidden-origin")
    assert answer.status_code == status


async def test_a_port_in_use_is_named(gateway):
    port = gateway.server.port
    with pytest.raises(SettingsError, match=f"port {port} on 127.0.0.1 is in use.*--port"):
        await HttpServer(Starlette(), "127.0.0.1", port).start()
    with pytest.raises(SettingsError, match="the host 'no host' is not known"):
        bind("no host", 0)
    free = bind("127.0.0.1", 0)
    assert isinstance(free, socket.socket)
    free.close()


def test_every_kind_of_problem_has_its_own_words():
    assert len({title for _, title, _ in PROBLEM_TYPES.values()}) == len(PROBLEM_TYPES)
