"""The HTTP client: finding the mesh, streams, refusals, and meshes that are not there."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from asya.cli import client as module
from asya.cli.app import EXIT_UNREACHABLE, run
from asya.cli.client import GatewayClient, Refused, ServerEvent, find_mesh, parse_stream
from asya.codes import Code
from asya.errors import MeshUnreachable, UsageError

if TYPE_CHECKING:
    from tests.unit.cli.conftest import ScriptedGateway


def announce(folder: Path, pid: int, url: str) -> None:
    (folder / ".asya").mkdir(parents=True)
    record = {
        "pid": pid, "url": url, "started_at": "2026-01-01T00:00:00Z",
        "data": str(folder), "logs": str(folder), "actors": [],
    }  # fmt: skip
    (folder / ".asya" / "mesh.json").write_text(json.dumps(record))


def test_a_mesh_of_a_parent_folder_is_found(tmp_path: Path) -> None:
    announce(tmp_path, os.getpid(), "http://127.0.0.1:1")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert find_mesh(None, below) == "http://127.0.0.1:1"


def test_the_url_of_the_user_wins(tmp_path: Path) -> None:
    announce(tmp_path, os.getpid(), "http://127.0.0.1:1")
    assert find_mesh("http://127.0.0.1:2", tmp_path) == "http://127.0.0.1:2"


def test_the_record_of_a_dead_mesh_is_passed_over(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    announce(tmp_path, ended.pid, "http://127.0.0.1:1")
    with pytest.raises(MeshUnreachable, match="start one with `asya up`"):
        find_mesh(None, tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x", "url": 1}'])
def test_a_broken_record_is_no_mesh(text: str, tmp_path: Path) -> None:
    (tmp_path / ".asya").mkdir()
    (tmp_path / ".asya" / "mesh.json").write_text(text)
    with pytest.raises(MeshUnreachable):
        find_mesh(None, tmp_path)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(MeshUnreachable, match=f"no mesh answers at http://127.0.0.1:{port}"):
        GatewayClient(f"127.0.0.1:{port}").get("/v1/flows")


@pytest.mark.parametrize("url", ["ftp://here", "http://", "//"])
def test_an_address_that_is_none_is_wrong_use(url: str) -> None:
    with pytest.raises(UsageError, match="is not the address of a mesh"):
        GatewayClient(url)


def test_a_refusal_says_what_the_gateway_said(gateway: "ScriptedGateway", reply: type[Any]) -> None:
    problem = {
        "type": "urn:asya:problem:ASYA-6014:invalid-payload",
        "title": "The payload does not fit",
        "detail": "the payload does not fit the flow `search`",
        "errors": [{"path": "$.query", "message": "1 is not of type 'string'"}],
    }
    gateway.on("POST /v1/flows/search", reply(422, json.dumps(problem).encode()))
    with pytest.raises(Refused) as caught:
        GatewayClient(gateway.url).post("/v1/flows/search", b"{}")
    assert caught.value.is_about("invalid-payload")
    assert str(caught.value).splitlines() == [
        "the payload does not fit the flow `search`",
        "  $.query: 1 is not of type 'string'",
    ]


@pytest.mark.parametrize(
    ("said", "code"),
    [("ASYA-6014", Code.INVALID_PAYLOAD), ("ASYA-6999", Code.REFUSED), (None, Code.REFUSED)],
)
def test_the_code_of_a_refusal_is_the_gateways_where_it_is_known(
    gateway: "ScriptedGateway", reply: type[Any], said: str | None, code: Code
) -> None:
    gateway.on("GET /v1/flows", reply(422, json.dumps({"detail": "no", "code": said}).encode()))
    with pytest.raises(Refused) as caught:
        GatewayClient(gateway.url).get("/v1/flows")
    assert caught.value.code is code


def test_a_mesh_that_cannot_work_now_is_not_reachable(
    gateway: "ScriptedGateway", reply: type[Any]
) -> None:
    gateway.on("GET /v1/flows", reply(503, b'{"detail": "the broker is gone"}'))
    with pytest.raises(MeshUnreachable, match="cannot do this now: the broker is gone"):
        GatewayClient(gateway.url).get("/v1/flows")


def test_full_queues_are_asked_again(gateway: "ScriptedGateway", reply: type[Any]) -> None:
    full = reply(429, b"{}", {"Retry-After": "0"})
    gateway.on("POST /v1/envelopes", full, full, reply(202, b'{"id": "e1"}'))
    said: list[str] = []
    client = GatewayClient(gateway.url, say=said.append)
    assert client.post("/v1/envelopes", b"{}").body == {"id": "e1"}
    assert len(gateway.seen("POST /v1/envelopes")) == 3
    assert len(said) == 1, "once is enough"


def test_a_request_whose_connection_broke_is_sent_again(
    gateway: "ScriptedGateway", reply: type[Any]
) -> None:
    torn = reply(headers={"Content-Length": "10"})
    gateway.on("POST /v1/envelopes", torn, reply(202, b'{"id": "e1"}'))
    assert GatewayClient(gateway.url).post("/v1/envelopes", b'{"id": "e1"}').body == {"id": "e1"}
    assert len(gateway.seen("POST /v1/envelopes")) == 2


def test_a_stream_is_parsed_with_comments_and_several_lines() -> None:
    lines = [
        b": hello\n",
        b"\n",
        b"id: 7\n",
        b"event: status\r\n",
        b'data: {"a":\n',
        b"data: 1}\n",
        b"\n",
    ]
    assert list(parse_stream(iter(lines))) == [ServerEvent("7", "status", {"a": 1})]


def test_a_stream_that_ends_inside_an_event_is_broken() -> None:
    with pytest.raises(ConnectionError):
        list(parse_stream(iter([b"data: {}\n"])))


def test_a_broken_stream_goes_on_after_the_last_event(
    gateway: "ScriptedGateway", reply: type[Any]
) -> None:
    first = b'id: 1\nevent: status\ndata: {"status": "running"}\n\n'
    last = b'id: 2\nevent: status\ndata: {"status": "succeeded"}\n\n'
    gateway.on("GET /v1/envelopes/e1/events", reply(body=first), reply(body=last))

    said: list[str] = []
    seen = [event.id for event in GatewayClient(gateway.url, said.append).events("e1")]

    assert seen == ["1", "2"]
    reason = "the stream ended before the envelope did"
    assert said == [f"the connection to the mesh broke ({reason}); trying again for 30 s"]
    asked = gateway.seen("GET /v1/envelopes/e1/events")
    assert [request.headers.get("Last-Event-ID") for request in asked] == [None, "1"]


def test_a_gateway_that_has_no_stream_left_is_asked_again(
    gateway: "ScriptedGateway", reply: type[Any]
) -> None:
    last = b'id: 1\nevent: status\ndata: {"status": "succeeded"}\n\n'
    gateway.on("GET /v1/envelopes/e1/events", reply(429), reply(503), reply(body=last))
    said: list[str] = []
    assert [event.id for event in GatewayClient(gateway.url, said.append).events("e1")] == ["1"]
    assert len(said) == 1, "once per outage"


def test_a_stream_that_stays_broken_ends_as_not_reachable(
    gateway: "ScriptedGateway", reply: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RECONNECT_MAX_S", 0.0)
    gateway.on("GET /v1/envelopes/e1/events", reply(body=b""))
    with pytest.raises(MeshUnreachable):
        list(GatewayClient(gateway.url).events("e1"))


def test_a_stream_that_held_for_long_without_events_is_tried_again(
    gateway: "ScriptedGateway", reply: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a silent stream that breaks after an hour, when it is taken up, then it goes on."""
    last = b'id: 1\nevent: status\ndata: {"status": "succeeded"}\n\n'
    gateway.on("GET /v1/envelopes/e1/events", reply(body=b""), reply(body=b""), reply(body=last))
    hours = iter(range(0, 1_000_000, 3600))
    monkeypatch.setattr("asya.cli.client.time.monotonic", lambda: float(next(hours)))
    assert [event.id for event in GatewayClient(gateway.url).events("e1")] == ["1"]


def test_watching_a_mesh_that_stops_says_so_and_how_to_go_on(
    gateway: "ScriptedGateway",
    reply: type[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "RECONNECT_MAX_S", 0.2)
    gateway.on("GET /v1/envelopes/e1/events", reply(503))
    assert run(["watch", "e1", "--url", gateway.url]) == EXIT_UNREACHABLE
    first, second, last, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith("asya: the connection to the mesh broke")
    assert second == "the envelope e1 goes on with the next `asya up`: asya watch e1"
    assert "no mesh answers" in last
