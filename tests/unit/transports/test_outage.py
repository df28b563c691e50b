"""One outage is two log lines."""

from __future__ import annotations

import asyncio
import logging

import pytest

from asya.testing.virtual_time import run_virtual
from asya.transports.outage import Outage

log = logging.getLogger("asya.transports.test")


@pytest.fixture
def outage() -> Outage:
    return Outage("Broker at host:1", log)


async def test_lost_and_back_are_told_once_each(
    outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    changes: list[str] = []
    outage.on_down = lambda: changes.append("down")
    outage.on_up = lambda: changes.append("up")
    assert not outage.lost("before the first connection")
    outage.established()
    assert outage.lost("reset")
    assert not outage.lost("again")
    assert (outage.up, outage.reason) == (False, "reset")
    outage.over()
    outage.over()
    assert (outage.up, outage.reason) == (True, "")
    assert changes == ["down", "up"]
    lost, back = caplog.messages
    assert lost.startswith("lost the connection to Broker at host:1 (reset)")
    assert back.startswith("connected to Broker at host:1 again after")


async def test_the_better_reason_is_told(outage: Outage, caplog: pytest.LogCaptureFixture) -> None:
    outage.established()
    outage.lost("reset by peer", tell=False)
    assert caplog.messages == []
    outage.tell("access refused")
    outage.tell("and again")
    assert outage.reason == "and again"
    (told,) = caplog.messages
    assert "(access refused)" in told


def test_whoever_waits_is_woken_or_gives_up(outage: Outage) -> None:
    async def scenario() -> None:
        outage.established()
        assert await outage.wait(1.0)
        outage.lost("gone")
        assert not await outage.wait(1.0)
        asyncio.get_running_loop().call_later(5.0, outage.over)
        assert await outage.wait(60.0)

    run_virtual(scenario())
