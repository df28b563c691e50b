from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from asya.cli.top import plain, top, totals

if TYPE_CHECKING:
    from tests.unit.cli.conftest import ScriptedGateway


def actor(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "queue": {"ready": 3, "in_flight": 2, "delayed": 1},
        "replicas": [{"state": "busy"}, {"state": "idle"}, {"state": "starting"}],
        "rate": 1.25, "p50_ms": 1.5, "p99_ms": 1200.0, "succeeded": 9, "failed": 4, "retried": 5,
        "last_error": None,
    } | fields  # fmt: skip


def test_the_table_ends_with_the_totals() -> None:
    quiet = actor(
        "long-name", replicas=[], rate=0.0, p50_ms=None, p99_ms=None, last_error="E: x\ny"
    )
    assert plain([actor("a"), quiet]) == [
        (
            "ACTOR      READY  FLIGHT  DELAYED  BUSY  IDLE  START  RATE/S     P50    P99  ERRORS"
            "  RETRIES  LAST ERROR"
        ),
        (
            "a              3       2        1     1     1      1    1.25  1.5 ms  1.2 s       4"
            "        5"
        ),
        (
            "long-name      3       2        1     0     0      0       0       -      -       4"
            "        5  E: x"
        ),
        (
            "2 actors       6       4        2     1     1      1    1.25                      8"
            "       10"
        ),
    ]


def test_one_actor_is_one() -> None:
    assert plain([actor("a")])[-1].startswith("1 actor ")


def test_totals_are_sums() -> None:
    total = totals([actor("a"), actor("b")])
    assert (total["ready"], total["busy"], total["rate"]) == (6, 2, 2.5)
    assert (total["succeeded"], total["failed"], total["retried"]) == (18, 8, 10)


def test_where_the_output_is_no_terminal_it_is_printed_once(
    gateway: ScriptedGateway, reply: type[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.on("GET /v1/actors", reply(body=json.dumps({"actors": [actor("a")]}).encode()))
    top(once=False, as_json=False, url=gateway.url)
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 actor ")
    top(once=False, as_json=True, url=gateway.url)
    answer = json.loads(capsys.readouterr().out)
    assert answer["total"]["ready"] == 3
    assert answer["actors"][0]["name"] == "a"
