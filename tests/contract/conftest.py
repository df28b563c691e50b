"""Virtual time for the transport that knows no real broker; real time for the others."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping

import pytest
from tests.support.moto import CREDENTIALS, MotoServer
from tests.support.rabbitmq import RabbitServer, find_programs

from asya.testing.virtual_time import VirtualLoop

VIRTUAL = {"test_memory.py"}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name in VIRTUAL:
        return {"virtual": VirtualLoop}
    return {"real": asyncio.new_event_loop}


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """One server per worker, since a start takes ten seconds."""
    if find_programs() is None:
        assert "CI" not in os.environ, "no rabbitmq-server; CI must test on a real one"
        pytest.skip("there is no rabbitmq-server on this machine: apt-get install rabbitmq-server")
    server = RabbitServer(tmp_path_factory.mktemp("rabbitmq"), management=True)
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def moto_process() -> Iterator[MotoServer]:
    """One server per worker, since a start takes seconds."""
    if (why := MotoServer.missing()) is not None:
        assert "CI" not in os.environ, why
        pytest.skip(why)
    with MotoServer() as server:
        yield server


@pytest.fixture
def moto(moto_process: MotoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[MotoServer]:
    """An SQS that is empty, and credentials for it where the provider chain looks."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    moto_process.reset()
    yield moto_process
    moto_process.resume()
    moto_process.post("/moto-api/reset-auth", b"inf")
