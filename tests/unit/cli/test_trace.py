from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from asya.cli.spans import short
from asya.cli.trace import summary, trace, waterfall
from asya.errors import UsageError

if TYPE_CHECKING:
    from tests.unit.cli.conftest import ScriptedGateway


NOW = datetime(2026, 1, 1, 0, 0, 8, tzinfo=UTC)


def at(second: float) -> str:
    return f"2026-01-01T00:00:{second:06.3f}Z"


def hop(n: int, actor: str, *times: float | None, **fields: Any) -> dict[str, Any]:
    """A hop: when it came into the queue, began, ended, and was handed on."""
    shown = [None if each is None else at(each) for each in times]
    return {
        "n": n, "actor": actor, "attempt": 1, "state": "succeeded", "enqueued_at": shown[0],
        "started_at": shown[1], "ended_at": shown[2], "sent_at": shown[3], "retry_at": None,
        "attempts_max": None, "replica": 11, "error": None,
    } | fields  # fmt: skip


def envelope(*hops: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "id": "e", "parent_id": None, "status": "succeeded", "created_at": at(0),
        "updated_at": at(4), "stuck_at": None, "error": None, "hops": list(hops),
    } | fields  # fmt: skip


def test_hops_stand_below_one_another_in_time() -> None:
    one, two = hop(0, "embedder", 0, 1, 2, 2.001), hop(1, "rank", 2, 2.5, 4, None)
    lines = waterfall(envelope(one, two), NOW)
    assert lines[:2] == [
        "e  succeeded, 4 s, 2 hops",
        " N  ACTOR     TRY   QUEUED  HANDLER  PUBLISH  REPLICA",
    ]
    assert lines[2] == " 0  embedder    1      1 s      1 s     1 ms       11  " + (
        "·" * 10 + "█" * 11
    )
    assert lines[3] == " 1  rank        1   500 ms    1.5 s        -       11  " + (
        " " * 20 + "·" * 5 + "█" * 15
    )


def test_a_failed_attempt_has_its_error_and_the_time_of_the_next() -> None:
    error = {"type": "ValueError", "message": "no\nmore"}
    failed = hop(0, "a", 0, 1, 2, 2, state="retrying", error=error, retry_at=at(9), attempts_max=3)
    lines = waterfall(envelope(failed, status="running"), NOW)
    assert lines[3] == (
        "      ↻ retrying: ValueError: no; attempt 2 of 3 not before 2026-01-01T00:00:09.000Z"
    )


def test_a_hop_that_runs_reaches_to_now() -> None:
    lines = waterfall(envelope(hop(0, "a", 0, 2, None, None), status="running"), NOW)
    assert lines[0] == "e  running, 8 s, 1 hop"
    assert lines[2].endswith("·" * 10 + "█" * 30)
    stuck = envelope(hop(0, "a", 0, 2, None, None), status="running", stuck_at=at(7))
    assert waterfall(stuck, NOW)[0] == "e  running, stuck, 8 s, 1 hop"


def test_one_without_a_hop_says_so() -> None:
    assert waterfall(envelope(status="pending"), NOW)[1].startswith("no hop has begun")


def test_one_that_failed_before_a_hop_began_says_why() -> None:
    error = {"type": "asya.errors.DeadlineExceeded", "message": "too late", "reason": None}
    found = envelope(status="failed", error=error)
    assert waterfall(found, NOW)[1:] == [
        "it ended before a hop began; `asya why` tells more",
        "failed: asya.errors.DeadlineExceeded: too late",
    ]


def test_a_failure_is_the_last_line() -> None:
    failed = envelope(
        hop(0, "a", 0, 1, 2, None, state="failed"),
        status="failed",
        error={"type": "asya.errors.HopLimit", "message": ""},
    )
    assert waterfall(failed, NOW)[-1] == "failed: asya.errors.HopLimit"


def test_children_are_summed_up() -> None:
    family = [{"status": "succeeded"}, {"status": "failed"}, {"status": "succeeded"}]
    assert summary(family) == [
        "",
        "fan-out: 3 children (1 failed, 2 succeeded); --children shows them",
    ]
    assert summary([]) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (-1, "0 ms"), (0.0008, "0.8 ms"), (0.0123, "12 ms"), (3.2111, "3.21 s"),
     (312, "5m12s"), (3660, "1h01m")],
)  # fmt: skip
def test_durations_are_short(seconds: float | None, text: str) -> None:
    assert short(seconds) == text


def test_payloads_come_with_their_hops(
    gateway: ScriptedGateway, reply: type[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.on(
        "GET /v1/envelopes/e", reply(body=json.dumps(envelope(hop(0, "a", 0, 1, 2, 2))).encode())
    )
    gateway.on("GET /v1/envelopes?root=e&limit=500", reply(body=b'{"envelopes": []}'))
    kept = {"Asya-Truncated": "false", "Asya-Size": "8"}
    path = "GET /v1/envelopes/e/hops/0/payload?side={}&attempt=1"
    gateway.on(path.format("in"), reply(body=b'{"a": 1}', headers=kept))
    cut = {"Asya-Truncated": "true", "Asya-Size": "900"}
    gateway.on(path.format("out"), reply(body=b'{"b": "', headers=cut))
    trace("e", children=False, payloads=True, as_json=False, url=gateway.url)
    lines = capsys.readouterr().out.splitlines()
    assert lines[3:] == ['      in  {"a": 1}', '      out {"b": "… (900 bytes)']
    trace("e", children=False, payloads=True, as_json=True, url=gateway.url)
    answer = json.loads(capsys.readouterr().out)
    assert answer["payloads"][0]["payload"] == {"a": 1}
    assert answer["children"] == []


def test_an_unknown_envelope_is_refused_with_the_nearest(
    gateway: ScriptedGateway, reply: type[Any]
) -> None:
    detail = b'{"detail": "there is no envelope \'e\'; did you mean e1?", "nearest": "e1"}'
    gateway.on("GET /v1/envelopes/e", reply(404, detail))
    with pytest.raises(UsageError, match="did you mean e1"):
        trace("e", children=False, payloads=False, as_json=False, url=gateway.url)
