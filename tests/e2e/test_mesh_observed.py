"""A mesh as its operators see it: metrics, logs as JSON, and spans in a real OTLP receiver."""

from __future__ import annotations

import gzip
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from tests.e2e.conftest import Mesh

pytestmark = pytest.mark.slow

HANDLERS = """
def shout(payload):
    print("shouting", payload)
    return str(payload).upper()

def fan(payload):
    seen = yield "GET", ".headers.traceparent"
    yield {"seen": seen}
    yield {"seen": seen}

tries = []

def flaky(payload):
    tries.append(1)
    if len(tries) == 1:
        raise ValueError("not yet")
    return payload
"""

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"


class Receiver:
    """An OTLP receiver: `POST /v1/traces` with protobuf, as collectors have it."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.came = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    data = gzip.decompress(data)
                receiver.take(self.path, data)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def take(self, path: str, data: bytes) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        assert path == "/v1/traces"
        request = ExportTraceServiceRequest.FromString(data)
        with self.came:
            for each in request.resource_spans:
                self.resources.append(attributes(each.resource.attributes))
                for scope in each.scope_spans:
                    self.spans.extend(scope.spans)
            self.came.notify_all()

    def wait_for(self, count: int) -> dict[str, list[Any]]:
        """Spans by name, once there are so many."""
        with self.came:
            assert self.came.wait_for(lambda: len(self.spans) >= count, 60), self.names()
        by_name: dict[str, list[Any]] = {}
        for span in self.spans:
            by_name.setdefault(span.name, []).append(span)
        return by_name

    def names(self) -> list[str]:
        return sorted(span.name for span in self.spans)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def attributes(found: Any) -> dict[str, Any]:
    return {
        each.key: each.value.string_value or each.value.int_value or each.value.bool_value
        for each in found
    }


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    pytest.importorskip("opentelemetry.sdk.trace")
    made = Receiver()
    yield made
    made.stop()


def write(mesh: Any) -> None:
    mesh.code(HANDLERS)
    for name in ("shout", "fan"):
        mesh.actor(name, f"handlers.{name}")
    once_more = {"maxAttempts": 2, "backoff": "constant", "initialDelay": "10ms"}
    mesh.actor("flaky", "handlers.flaky", resiliency={"policies": {"default": once_more}})


def post(mesh: Any, route: list[str], payload: Any, **headers: str) -> Any:
    request = urllib.request.Request(
        f"{mesh.url}/v1/envelopes?wait=20s",
        json.dumps({"route": route, "payload": payload}).encode(),
        {"content-type": "application/json", **headers},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())


def test_spans_of_two_hops_a_fan_out_and_a_retry_reach_a_receiver(
    mesh: Any, receiver: Receiver
) -> None:
    write(mesh)
    mesh.environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_SERVICE_NAME": "shop",
    }
    mesh.up()

    # when an envelope of a caller's trace makes two hops, of which the first one fans out
    given = f"00-{TRACE}-{CALLER}-01"
    post(mesh, ["fan", "shout"], "x", traceparent=given)

    # then every span is the child of the right one: request, 3 hops, 3 waits
    spans = receiver.wait_for(7)
    (request,), (fan,) = spans["POST /v1/envelopes"], spans["process fan"]
    hops = spans["process shout"]
    assert {span.trace_id.hex() for span in receiver.spans} == {TRACE}
    assert request.parent_span_id.hex() == CALLER
    assert attributes(request.attributes)["http.response.status_code"] == 200
    assert fan.parent_span_id == request.span_id
    assert spans["wait fan"][0].parent_span_id == request.span_id
    assert [hop.parent_span_id for hop in hops + spans["wait shout"]] == [fan.span_id] * 4
    assert len({hop.span_id for hop in hops}) == 2
    assert len({attributes(hop.attributes)["asya.envelope.id"] for hop in hops}) == 2
    assert {resource["service.name"] for resource in receiver.resources} == {"shop"}
    # and the handler saw the id of its own span
    assert f"00-{TRACE}-{fan.span_id.hex()}-01" in mesh.log("shout")

    # when there is no trace to go on with, one begins; a retry is a sibling, with the error
    post(mesh, ["flaky"], 1)
    spans = receiver.wait_for(7 + 4)
    request = spans["POST /v1/envelopes"][-1]
    first, second = spans["process flaky"]
    assert not request.parent_span_id
    assert request.trace_id.hex() != TRACE
    assert first.trace_id == second.trace_id == request.trace_id
    assert first.parent_span_id == second.parent_span_id == request.span_id
    assert first.status.code == 2  # error
    assert [event.name for event in first.events] == ["exception", "retry"]
    about = attributes(first.events[0].attributes)
    assert (about["exception.type"], about["exception.message"]) == ("ValueError", "not yet")
    assert "Traceback" in about["exception.stacktrace"]
    assert attributes(second.attributes)["asya.attempt"] == 2
    assert second.status.code == 0

    # and nothing is left behind when the mesh ends
    assert mesh.stop() == 0


def scrape(url: str) -> dict[tuple[str, ...], float]:
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = answer.read().decode()
    return {
        (sample.name, *(v for k, v in sample.labels.items() if k != "namespace")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_and_logs_tell_what_was_done(mesh: Mesh, wait_until: Callable[..., None]) -> None:
    write(mesh)
    mesh.up("--metrics-port", "0", "--log-format", "json", "--cooldown", "300s")
    own = mesh.said().partition("metrics at ")[2].split()[0]
    for payload in ("a", "b"):
        assert mesh.call("shout", payload)["result"] == payload.upper()
    flaky = mesh.call("flaky")["id"]

    wait_until(lambda: scrape(own)["asya_actor_processed_total", "flaky", "succeeded"] == 1, 30)
    for url in (own, f"{mesh.url}/metrics"):
        found = scrape(url)
        assert found["asya_actor_received_total", "shout"] == 2
        assert found["asya_actor_processed_total", "shout", "succeeded"] == 2
        assert found["asya_actor_processed_total", "flaky", "retried"] == 1
        assert found["asya_actor_retries_total", "flaky"] == 1
        assert found["asya_actor_handler_seconds_count", "flaky"] == 2
        assert found["asya_actor_queue_seconds_count", "shout"] == 2
        assert found["asya_actor_queue_seconds_count", "flaky"] == 1
        assert found["asya_actor_cold_start_seconds_count", "shout"] == 1
        assert found["asya_actor_replicas", "shout", "idle"] == 1
        assert found["asya_queue_messages", "shout", "ready"] == 0
        assert found["asya_envelopes_ended_total", "succeeded"] == 3
        assert found["asya_broker_up",] == found["asya_ready",] == 1
        assert found["asya_http_requests_total", "POST", "/v1/envelopes", "202"] == 3

    lines = [json.loads(line) for line in mesh.log("shout").splitlines()]
    assert [(line["text"], line["actor"]) for line in lines] == [
        ("shouting a", "shout"),
        ("shouting b", "shout"),
    ]
    assert all(mesh.envelope(line["envelope_id"])["result"] for line in lines)
    own_lines = [json.loads(line) for line in mesh.log("x-mesh").splitlines()]
    (failed,) = [line for line in own_lines if line.get("envelope_id") == flaky]
    assert (failed["level"], failed["actor"]) == ("WARNING", "flaky")
    assert "ValueError: not yet" in failed["text"]


def test_a_metrics_port_in_use_is_told_before_anything_starts(mesh: Mesh) -> None:
    mesh.code(HANDLERS)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as taken:
        port = taken.server_address[1]
        process = mesh.popen("--metrics-port", str(port), "handlers.py:shout")
        assert process.wait(20) == 2
    assert f"port {port} on 127.0.0.1 is in use" in mesh.said()
    assert "--metrics-port" in mesh.said()
    assert not (mesh.data / "nats").exists()
