"""Many payloads: order, errors, bounds."""

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from asya.cli import client
from asya.cli.app import EXIT_FAILED, EXIT_UNREACHABLE, EXIT_USAGE, run
from asya.cli.batch import AHEAD, Lines, call_lines, open_lines
from asya.cli.client import Answer
from asya.errors import UsageError

if TYPE_CHECKING:
    from tests.unit.cli.conftest import ScriptedGateway


def ended(number: int, status: str = "succeeded", error: dict[str, Any] | None = None) -> bytes:
    return json.dumps(
        {"id": f"e{number}", "status": status, "result": {"n": number}, "error": error}
    ).encode()


@pytest.fixture
def mesh(
    gateway: "ScriptedGateway", reply: type[Any], monkeypatch: pytest.MonkeyPatch
) -> "ScriptedGateway":
    monkeypatch.setenv("ASYA_URL", gateway.url)
    gateway.on("GET /v1/flows", reply(body=b'{"flows": [{"name": "double"}]}'))
    return gateway


def test_a_mesh_that_stops_leaves_the_ids_of_what_is_under_way(
    mesh: "ScriptedGateway",
    reply: type[Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "RECONNECT_MAX_S", 0.0)
    file = tmp_path / "many.jsonl"
    file.write_text("1\n2\n")
    mesh.on("POST /v1/flows/double?wait=30s", reply(200, ended(1)), reply(202, b'{"id": "e2"}'))
    mesh.on("GET /v1/envelopes/e2/events", reply(503))

    assert run(["call", "double", "-f", str(file), "--concurrency", "1"]) == EXIT_UNREACHABLE

    told = capfd.readouterr()
    assert told.out == '{"n": 1}\n'
    (kept,) = [line for line in told.err.splitlines() if "goes on" in line]
    sent = mesh.seen("POST /v1/flows/double")[1].path
    assert kept.rpartition(" ")[2] in sent


def test_results_come_in_the_order_of_the_lines(
    mesh: "ScriptedGateway", reply: type[Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text("1\n\n2\n3\n")
    replies = [reply(200, ended(n)) for n in (1, 2, 3)]
    mesh.on("POST /v1/flows/double?wait=30s", *replies)

    assert run(["call", "double", "-f", str(file), "--concurrency", "1"]) == 0

    assert capfd.readouterr().out.splitlines() == ['{"n": 1}', '{"n": 2}', '{"n": 3}']
    sent = mesh.seen("POST /v1/flows/double?wait=30s")
    assert [request.body for request in sent] == [b"1", b"2", b"3"]


def test_a_failed_one_is_an_error_object_in_its_place(
    mesh: "ScriptedGateway", reply: type[Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text("1\n2\n")
    error = {"type": "ValueError", "message": "odd", "reason": "PolicyExhausted"}
    replies = [reply(200, ended(1, "failed", error)), reply(200, ended(2))]
    mesh.on("POST /v1/flows/double?wait=30s", *replies)

    assert run(["call", "double", "-f", str(file), "--concurrency", "1"]) == EXIT_FAILED

    first, second = map(json.loads, capfd.readouterr().out.splitlines())
    assert first == {"error": error, "id": "e1"}
    assert second == {"n": 2}


def test_a_slow_one_is_followed_by_its_events(
    mesh: "ScriptedGateway", reply: type[Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text("1\n")
    mesh.on("POST /v1/flows/double?wait=30s", reply(202, b'{"id": "e1", "status": "running"}'))
    end = b'id: 1\nevent: status\ndata: {"status": "succeeded"}\n\n'
    mesh.on("GET /v1/envelopes/e1/events", reply(body=end))
    mesh.on("GET /v1/envelopes/e1", reply(body=ended(1)))

    assert run(["call", "double", "-f", str(file)]) == 0

    assert capfd.readouterr().out == '{"n": 1}\n'


def test_a_bad_line_sends_nothing(
    mesh: "ScriptedGateway", tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text("1\n{\n")

    assert run(["call", "double", "-f", str(file)]) == EXIT_USAGE

    assert f"{file}, line 2, is not JSON" in capfd.readouterr().err
    assert mesh.requests == []


def test_a_bad_line_of_a_stream_ends_it_after_what_came_before(
    mesh: "ScriptedGateway",
    reply: type[Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"1\n{\n3\n")))
    mesh.on("POST /v1/flows/double?wait=30s", reply(200, ended(1)))

    assert run(["call", "double", "-f", "-"]) == EXIT_USAGE

    captured = capfd.readouterr()
    assert captured.out == '{"n": 1}\n'
    assert "stdin, line 2, is not JSON" in captured.err


def test_a_payload_that_is_refused_does_not_stop_the_others(
    mesh: "ScriptedGateway", reply: type[Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text("1\n2\n")
    problem = {
        "type": "urn:asya:problem:ASYA-6014:invalid-payload",
        "detail": "too odd",
        "code": "ASYA-6014",
    }
    replies = [reply(422, json.dumps(problem).encode()), reply(200, ended(2))]
    mesh.on("POST /v1/flows/double?wait=30s", *replies)

    assert run(["call", "double", "-f", str(file), "--concurrency", "1"]) == EXIT_FAILED

    first, second = map(json.loads, capfd.readouterr().out.splitlines())
    assert (first["error"]["message"], first["error"]["code"]) == ("too odd", "ASYA-6014")
    assert second == {"n": 2}


def test_a_file_that_is_not_there_is_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"), open_lines(tmp_path / "none"):
        pass


def test_lines_are_read_only_as_they_are_needed(capfd: pytest.CaptureFixture[str]) -> None:
    # given a first payload that takes its time
    first_may_end = threading.Event()
    too_early: list[int] = []

    class Sender:
        def send(self, payload: bytes, envelope_id: str, *, wait_s: int = 0) -> Answer:
            if payload == b"0":
                first_may_end.wait(30)
            return Answer(200, json.loads(ended(int(payload))))

    def payloads() -> Iterator[bytes]:
        for number in range(200):
            if number >= 2 * AHEAD and not first_may_end.is_set():
                too_early.append(number)
            yield str(number).encode()

    # when the others could be read long before it ends
    threading.Timer(0.3, first_may_end.set).start()
    sender: Any = Sender()
    call_lines(sender, Lines(payloads(), None), concurrency=2, progress=False)

    # then only so many were
    assert too_early == []
    assert len(capfd.readouterr().out.splitlines()) == 200


def test_the_bar_goes_to_stderr(
    mesh: "ScriptedGateway", reply: type[Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text("1\n")
    mesh.on("POST /v1/flows/double?wait=30s", reply(200, ended(1)))

    assert run(["call", "double", "-f", str(file), "--progress"]) == 0

    captured = capfd.readouterr()
    assert captured.out == '{"n": 1}\n'
    assert "1/1" in captured.err
