from __future__ import annotations

from typing import Any

from asya.cli.ps import plain, replicas, row


def actor(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "transport": "nats",
        "queue": {"ready": 3, "in_flight": 2, "delayed": 1},
        "replicas": [],
        "rate": 0.0,
        "last_error": None,
    } | fields


def test_replicas_are_counted_by_what_they_do() -> None:
    assert replicas([]) == "0"
    busy, idle = {"pid": 1, "state": "busy"}, {"pid": 2, "state": "idle"}
    assert replicas([busy]) == "1 (1 busy)"
    assert replicas([idle, busy, idle]) == "3 (1 busy, 2 idle)"


def test_of_an_error_the_first_line_is_shown() -> None:
    shown = row(actor("a", last_error="ValueError: no\nTraceback ..."))
    assert shown[-1] == "ValueError: no"


def test_the_plain_table_is_in_columns() -> None:
    lines = plain([actor("a"), actor("long-name", rate=12.5, replicas=[{"state": "idle"}])])
    assert lines == [
        "ACTOR      REPLICAS    READY  IN FLIGHT  DELAYED  RATE/S  LAST ERROR",
        "a          0           3      2          1        0",
        "long-name  1 (1 idle)  3      2          1        12.5",
    ]
