from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from asya.telemetry import otel
from asya.telemetry.spans import Span

pytest.importorskip("opentelemetry.sdk.trace")
pytest.importorskip("opentelemetry.exporter.otlp.proto.http")


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch, silent: str) -> dict[str, Any]:
    """What the SDK finds in the environment, and the entry point hands on."""
    found = {"OTEL_EXPORTER_OTLP_ENDPOINT": silent, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


def span(number: int = 1) -> Span:
    return Span("process a", "consumer", "ab" * 16, f"{number:016x}", None, 1, 2, {"asya.hop": 0})


async def test_a_receiver_that_never_answers_does_not_hold_the_stop(
    environ: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otel, "CLOSE_S", 0.1)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "10")
    recorder = otel.Recorder(environ, "shop")
    for number in range(1, 5000):  # past the queue's bound
        recorder.record(span(number))
    await recorder.close()
    assert exporting(), "the try under way was waited for"


async def test_after_the_stop_no_further_try_begins(
    environ: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would take its whole timeout, and draw from the process's random numbers."""
    monkeypatch.setattr(otel, "CLOSE_S", 0.1)
    recorder = otel.Recorder(environ, "shop")
    for number in range(1, 5000):
        recorder.record(span(number))
    await recorder.close()
    after = random.getstate()
    async with asyncio.timeout(30):
        while exporting():
            await asyncio.sleep(0.05)
    assert random.getstate() == after


def exporting() -> list[threading.Thread]:
    """The threads of the SDK that send, or try to."""
    return [each for each in threading.enumerate() if each.name.startswith("OtelBatchSpan")]


def test_spans_become_those_of_the_sdk(
    environ: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=search")
    made = otel.Recorder(environ, "shop")._readable(span())
    assert f"{made.context.trace_id:032x}" == "ab" * 16
    assert made.context.span_id == 1
    assert made.parent is None
    about = made.resource.attributes
    assert (about["service.name"], about["asya.namespace"], about["team"]) == (
        "asya", "shop", "search",
    )  # fmt: skip


@pytest.mark.parametrize(("sampler", "expected"), [("always_off", False), ("always_on", True)])
def test_the_standard_sampler_decides(
    environ: dict[str, Any], monkeypatch: pytest.MonkeyPatch, sampler: str, expected: bool
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    assert otel.Recorder(environ, "shop").sample("ab" * 16) is expected
