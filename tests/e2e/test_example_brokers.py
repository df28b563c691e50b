"""The search example, unchanged, on every broker that is not NATS: only the address differs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asya.testing.moto import CREDENTIALS, MotoServer
from asya.testing.pubsub import PubSubEmulator, PubSubFake
from asya.testing.rabbitmq import RabbitServer, find_programs

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "01-search"
QUESTIONS = (EXAMPLE / "questions.jsonl").read_text().splitlines()
BEST = ("csv.reader", "collections.Counter", "subprocess.run")
"""What must be among the first three answers to each of the questions."""


def without(reason: str) -> None:
    """There is no such broker here: that is a failure where all of them must be tested."""
    assert "CI" not in os.environ, reason
    pytest.skip(reason)


def rabbitmq(folder: Path) -> Iterator[str]:
    if find_programs() is None:
        without("there is no rabbitmq-server on this machine")
    server = RabbitServer(folder)
    server.start()
    yield server.url()
    server.close()


def sqs(folder: Path) -> Iterator[str]:
    if reason := MotoServer.missing():
        without(reason)
    with MotoServer() as server:
        yield server.address


def pubsub(folder: Path) -> Iterator[str]:
    """Google's emulator where it is installed; else the stand-in, which is not Google's."""
    if reason := PubSubFake.missing():
        without(reason)
    with PubSubFake() if PubSubEmulator.missing() else PubSubEmulator() as server:
        yield server.address("asya-example").url


@pytest.fixture(params=[rabbitmq, sqs, pubsub], ids=lambda start: start.__name__)
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The address of a broker of one's own, and its name."""
    name = request.param.__name__
    for url in request.param(tmp_path_factory.mktemp(name)):
        yield url, name


def test_the_search_example_answers(mesh: Any, broker: tuple[str, str]) -> None:
    url, name = broker
    mesh.environ = {"ASYA_TRANSPORT_URL": url, **CREDENTIALS}
    mesh.up(str(EXAMPLE))

    ends = [
        mesh.ask("POST", "/v1/flows/search", json.loads(question) | {}) for question in QUESTIONS
    ]

    for (status, answer), best in zip(ends, BEST, strict=True):
        assert status in {200, 202}, answer
        end = mesh.ended(answer["id"], 90)
        assert end["status"] == "succeeded"
        assert best in [result["name"] for result in end["result"]["results"][:3]]
    assert {mesh.status(each)["transport"] for each in ("embedder", "reranker")} == {name}
    assert not (mesh.data / "nats").exists()
    assert mesh.stop() == 0
