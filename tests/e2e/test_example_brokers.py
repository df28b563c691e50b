"""The search example, unchanged, on every broker that a mesh can be told of."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.moto import CREDENTIALS, MotoServer
from tests.support.pubsub import PubSubEmulator, PubSubFake
from tests.support.rabbitmq import RabbitServer, find_programs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "01-search"
FOUND = ["csv.reader", "collections.Counter", "subprocess.run"]


def need(missing: str | None) -> None:
    """Skip a test whose server is not on this machine; in CI that is a failure."""
    if missing is not None:
        assert os.environ.get("CI") != "true", missing
        pytest.skip(missing)


@contextmanager
def rabbitmq(folder: Path) -> Iterator[str]:
    need(
        None if find_programs() else "there is no rabbitmq-server; apt-get install rabbitmq-server"
    )
    server = RabbitServer(folder)
    try:
        server.start()
        yield server.url()
    finally:
        server.close()


@contextmanager
def sqs(folder: Path) -> Iterator[str]:
    need(MotoServer.missing())
    with MotoServer() as server:
        yield server.address


@contextmanager
def pubsub_stand_in(folder: Path) -> Iterator[str]:
    need(PubSubFake.missing())
    with PubSubFake(folder / "messages") as server:
        yield server.address("search").url


@contextmanager
def pubsub_emulator(folder: Path) -> Iterator[str]:
    if reason := PubSubEmulator.missing():
        pytest.skip(reason)  # in CI, too: it cannot be had from a package
    with PubSubEmulator() as server:
        yield server.address("search").url


@pytest.mark.parametrize(
    ("broker", "title"),
    [
        (rabbitmq, "RabbitMQ"),
        (sqs, "Amazon SQS"),
        (pubsub_stand_in, "Google Pub/Sub"),
        (pubsub_emulator, "Google Pub/Sub"),
    ],
)
def test_the_search_example_answers(
    broker: Callable[[Path], AbstractContextManager[str]],
    title: str,
    mesh: Any,
    tmp_path_factory: pytest.TempPathFactory,
    wait_until: Any,
) -> None:
    questions = [
        json.loads(line) for line in (EXAMPLE / "questions.jsonl").read_text().splitlines()
    ]
    mesh.environ = {
        **CREDENTIALS,
        "ASYA_NAMESPACE": f"search-{secrets.token_hex(3)}",
        "ASYA_COOLDOWN": "1s",
    }
    with broker(tmp_path_factory.mktemp("broker")) as url:
        # when the example runs with one more flag, and nothing of it is changed
        mesh.up(str(EXAMPLE), "--transport", url)
        assert re.search(rf"brokers +{title} at ", mesh.said())
        # then it answers as on the broker that comes along
        for question, name in zip(questions, FOUND, strict=True):
            status, answer = mesh.ask("POST", "/v1/flows/search?wait=60s", question)
            assert status == 200, (answer, mesh.said())
            assert answer["status"] == "succeeded"
            assert name in [each["name"] for each in answer["result"]["results"][:3]]
        # and goes back to nothing
        for actor in ("embedder", "reranker"):
            wait_until(lambda actor=actor: mesh.pids(actor) == [], 60, mesh.said)
        assert mesh.stop() == 0
