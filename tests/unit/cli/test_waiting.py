"""What is told of an envelope that cannot go on by itself."""

import json
import queue
from typing import TYPE_CHECKING, Any

import pytest

from asya.cli.client import GatewayClient
from asya.cli.waiting import hindrance, telling

if TYPE_CHECKING:
    from tests.unit.cli.conftest import ScriptedGateway


BROKEN = {
    "id": "e1",
    "kind": "broken",
    "cause": "Waits for a replica of np, which cannot start: No module named 'nmpy'.",
}


def test_a_hindrance_is_told_once_with_the_command_that_says_more(
    gateway: "ScriptedGateway", reply: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given an actor that cannot load, when the envelope waits, then its reason is told once."""
    monkeypatch.setattr("asya.cli.waiting.AGAIN_S", 0.01)
    gateway.on(
        "GET /v1/envelopes/e1/why",
        reply(body=json.dumps({"id": "e1", "kind": "starting", "cause": "Waits."}).encode()),
        reply(body=json.dumps(BROKEN).encode()),
        reply(503),
        reply(body=json.dumps(BROKEN).encode()),
        reply(body=json.dumps(BROKEN | {"kind": "mesh", "cause": "The broker is gone."}).encode()),
    )
    told: queue.Queue[str] = queue.Queue()

    with telling(GatewayClient(gateway.url), "e1", told.put, first_s=0.0):
        first, second = told.get(timeout=10), told.get(timeout=10)

    assert first == f"asya: {BROKEN['cause']}\n  asya why e1"
    assert second == "asya: The broker is gone.\n  asya why e1"


@pytest.mark.parametrize("found", [{"kind": "running"}, {"kind": "unknown"}, {}, None, []])
def test_what_passes_by_itself_is_no_hindrance(found: dict[str, Any] | list[Any] | None) -> None:
    assert hindrance(found) is None
