from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from asya.cli.why import screen, why

if TYPE_CHECKING:
    from tests.unit.cli.conftest import ScriptedGateway


ANSWER = {
    "id": "e", "status": "running", "kind": "running",
    "cause": "Running for 12 s in replica 11 of embedder (its p99 is 4 s).",
    "evidence": ["queue of embedder: 0 ready"],
    "remedy": [
        {"command": "asya logs embedder --envelope e", "does": "shows what it printed so far"},
        {"command": "asya cancel e", "does": "stops it"},
    ],
}  # fmt: skip


def test_the_cause_comes_first_then_evidence_then_remedy() -> None:
    assert screen(ANSWER) == [
        "e  running",
        "",
        "Running for 12 s in replica 11 of embedder (its p99 is 4 s).",
        "",
        "  - queue of embedder: 0 ready",
        "",
        "  asya logs embedder --envelope e  # shows what it printed so far",
        "  asya cancel e                    # stops it",
    ]


def test_long_sentences_are_wrapped() -> None:
    lines = screen(ANSWER | {"cause": "word " * 40, "evidence": ["fact " * 40], "remedy": []})
    assert all(len(line) <= 96 for line in lines)
    assert lines[-1].startswith("    fact")


def test_a_terminal_gets_a_bold_cause() -> None:
    assert screen(ANSWER, colour=True)[2].startswith("\x1b[1mRunning")


def test_the_gateway_is_asked(
    gateway: ScriptedGateway, reply: type[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.on("GET /v1/envelopes/a%2Fb/why", reply(body=json.dumps(ANSWER).encode()))
    why("a/b", as_json=False, url=gateway.url)
    assert capsys.readouterr().out.startswith("e  running\n")
    why("a/b", as_json=True, url=gateway.url)
    assert json.loads(capsys.readouterr().out) == ANSWER
