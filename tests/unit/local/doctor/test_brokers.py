"""Checks of the nats-server program; those of a server that runs are in tests/integration."""

from pathlib import Path

import pytest

from asya.codes import Code
from asya.local.doctor import brokers


@pytest.fixture
def program(project):
    """A program that says this of its version."""

    def made(says: str) -> str:
        path: Path = project / "nats-server"
        path.write_text(f"#!/bin/sh\necho '{says}'\n")
        path.chmod(0o755)
        return str(path)

    return made


def test_the_program_says_its_version(make, seen, program):
    path = program("nats-server: v2.12.3")
    (found,) = seen(brokers.look_at_program, make(nats_server=path))
    assert (found.state, found.text) == ("ok", f"nats-server 2.12.3 ({path})")


@pytest.mark.parametrize(
    ("says", "code"),
    [("nats-server: v2.10.29", Code.BROKER_OUTDATED), ("hello", Code.BROKER_MISSING)],
)
def test_a_program_that_will_not_do(make, seen, program, says, code):
    (found,) = seen(brokers.look_at_program, make(nats_server=program(says)))
    assert (found.state, found.code) == ("fail", code)


def test_no_program(make, seen):
    (found,) = seen(brokers.look_at_program, make(nats_server="no-such-server"))
    assert (found.state, found.code) == ("fail", Code.BROKER_MISSING)


def test_with_a_broker_of_ones_own_no_program_is_needed(make, seen):
    setup = make(transport_url="nats://127.0.0.1:1")
    assert seen(brokers.look_at_program, setup)[0].state == "skip"


def test_without_one_there_is_no_broker_to_look_at(make, seen):
    assert seen(brokers.look_at_broker, make())[0].state == "skip"


def test_a_broker_that_is_not_there(make, seen):
    (found,) = seen(brokers.look_at_broker, make(transport_url="nats://127.0.0.1:1"))
    assert (found.state, found.code) == ("fail", Code.TRANSPORT_UNAVAILABLE)
    assert "no NATS server answers at 127.0.0.1:1" in found.text
