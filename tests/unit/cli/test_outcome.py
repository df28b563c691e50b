"""What a command says of an envelope at its end."""

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
import typer

from asya.cli.client import GatewayClient
from asya.cli.outcome import describe_end, fail, tell_of_children

if TYPE_CHECKING:
    from tests.unit.cli.conftest import ScriptedGateway


def envelope(
    status: str = "failed",
    reason: str = "PolicyExhausted",
    hops: list[tuple[Any, ...]] | tuple[tuple[Any, ...], ...] = (("charge", "failed"),),
) -> dict[str, Any]:
    return {
        "id": "e1",
        "status": status,
        "error": {"type": "KeyError", "message": "'x'", "reason": reason, "code": "ASYA-2005"},
        "hops": [{"actor": name, "state": state} for name, state in hops],
    }


def test_the_actor_that_failed_is_named_and_not_the_one_that_was_told_of_it() -> None:
    """Given an error that onExhausted handed to another actor, then the first one is named."""
    found = envelope("failed", "PolicyRouted", [("charge", "failed"), ("tell", "succeeded")])
    assert describe_end(found) == "failed at charge: KeyError: 'x' (PolicyRouted)"


def test_an_envelope_that_ended_between_two_hops_is_placed_at_the_last_one() -> None:
    found = envelope("failed", "DeadlineExceeded", [("charge", "succeeded")])
    assert describe_end(found).startswith("failed at charge: ")
    assert describe_end(found | {"hops": []}).startswith("failed: ")


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("PolicyExhausted", "asya dead show e1"),
        ("PoisonMessage", "asya dead show e1"),
        ("PolicyRouted", "asya why e1"),
        ("DeadlineExceeded", "asya why e1"),
    ],
)
def test_a_failure_ends_with_the_next_step(reason: str, command: str) -> None:
    out = io.StringIO()
    with pytest.raises(typer.Exit):
        fail(envelope(reason=reason, hops=[("charge", "failed")]), out)
    assert out.getvalue().splitlines()[-1] == f"  {command}"


def test_a_cancel_needs_no_next_step() -> None:
    out = io.StringIO()
    with pytest.raises(typer.Exit):
        fail({"id": "e1", "status": "canceled", "hops": []}, out)
    assert out.getvalue() == "asya: the envelope e1 canceled\n"


@pytest.mark.parametrize(
    ("others", "lines"),
    [
        ([], []),
        (["succeeded", "succeeded"], []),
        (["failed"], ["its fan-out made 1 child: 1 failed; asya trace e1 --children"]),
        (
            ["succeeded", "failed", "running"],
            [
                "its fan-out made 3 children: 1 failed, 1 running, 1 succeeded; asya trace e1 --children"
            ],
        ),
    ],
)
def test_children_that_have_not_succeeded_are_counted(
    gateway: "ScriptedGateway", reply: type[Any], others: list[Any], lines: list[Any]
) -> None:
    family = [{"id": "e1", "status": "succeeded"}]
    family += [{"id": f"c{n}", "status": status} for n, status in enumerate(others)]
    body = json.dumps({"envelopes": family, "next_cursor": None}).encode()
    gateway.on("GET /v1/envelopes?root=e1&limit=500", reply(body=body))
    assert tell_of_children(GatewayClient(gateway.url), envelope()) == lines
