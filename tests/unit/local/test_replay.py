from __future__ import annotations

from datetime import UTC, datetime

from asya.envelope import Envelope, Route, raw_json
from asya.local.replay import again

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def test_a_replay_begins_anew_at_the_actor_with_what_the_actor_got() -> None:
    last = Envelope(
        "old",
        Route(["a"], "b", ["c", "d"]),
        raw_json({"x": 1}),
        parent_id="older",
        headers={
            "mine": raw_json("kept"),
            "x-asya-flow": raw_json("f"),
            "x-asya-root": raw_json("older"),
            "x-asya-hop": raw_json(3),
        },
    )
    last.status.attempt = 3
    made = again(last, id="new", now=NOW)
    assert (made.id, made.parent_id) == ("new", "old")
    assert made.route == Route([], "b", ["c", "d"])
    assert bytes(made.payload) == b'{"x":1}'
    assert {name: bytes(raw) for name, raw in made.headers.items()} == {
        "mine": b'"kept"',
        "x-asya-flow": b'"f"',
        "x-asya-replay": b"true",
    }
    assert (made.status.phase, made.status.actor, made.status.attempt) == ("pending", "b", 1)
    assert made.root == "new"
    assert last.route.curr == "b"
