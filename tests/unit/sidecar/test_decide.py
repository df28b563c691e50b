"""The rules of SPEC 1, 2 and 4, one by one: no loop, no broker, no clock."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from asya.clock import from_rfc3339, to_rfc3339
from asya.envelope import (
    DEATHS_HEADER,
    HOP_HEADER,
    HOPS_MAX,
    PREV_MAX,
    Envelope,
    ErrorInfo,
    Route,
    child_id,
    decode,
    encode,
    new_envelope,
    raw_json,
)
from asya.resiliency import Policy, Resiliency, Rule
from asya.sidecar.decide import Send, decide, reject
from asya.sidecar.outcome import (
    Canceled,
    Changes,
    Emitted,
    Expired,
    Frame,
    Lost,
    Outcome,
    Oversized,
    Raised,
    Returned,
    Undeliverable,
    mismatch,
    timed_out,
    unparsable,
)

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
BOOM = ErrorInfo(
    type="app.Boom", message="no", mro=["app.Boom", "ValueError", "Exception", "object"]
)


def at(*route: str, payload: object = None, **status: object) -> Envelope:
    envelope = new_envelope(list(route), raw_json(payload), now=NOW, id="e-1")
    for name, value in status.items():
        setattr(envelope.status, name, value)
    return envelope


def sent(
    envelope: Envelope,
    outcome: Outcome,
    resiliency: Resiliency | None = None,
    now: datetime = NOW,
    uniform: Callable[[float, float], float] = lambda a, b: b,
) -> list[Send]:
    return decide(envelope, outcome, resiliency or Resiliency(), now, uniform)


def frame(payload: Any = 1, **changes: Any) -> Frame:
    return Frame(raw_json(payload), Changes(**changes))


def retrying(**policy: Any) -> Resiliency:
    return Resiliency(policies={"default": Policy(**policy)})


class TestRouting:
    def test_a_value_goes_to_the_next_actor(self) -> None:
        (send,) = sent(at("a", "b", "c"), Returned([frame({"x": 1})]))
        out = send.envelope
        assert (out.route.prev, out.route.curr, out.route.next) == (["a"], "b", ["c"])
        assert (out.id, out.status.phase, out.status.actor) == ("e-1", "processing", "b")
        assert bytes(out.payload) == b'{"x":1}'
        assert out.hop == 1

    def test_the_last_value_goes_to_the_sink_as_succeeded(self) -> None:
        (send,) = sent(at("a"), Returned([frame()]))
        assert send.envelope.route == Route(["a"], "x-sink", [])
        assert send.envelope.status.phase == "succeeded"

    def test_nothing_emitted_stops_the_route_with_the_payload_it_came_with(self) -> None:
        (send,) = sent(at("a", "b", payload={"kept": True}), Returned([]))
        assert send.envelope.route == Route(["a"], "x-sink", [])
        assert bytes(send.envelope.payload) == b'{"kept":true}'
        assert send.envelope.status.phase == "succeeded"

    def test_a_handler_may_change_the_rest_of_the_route(self) -> None:
        (send,) = sent(at("a", "b"), Returned([frame(next=["z", "b"])]))
        assert send.envelope.route == Route(["a"], "z", ["b"])

    def test_a_handler_may_end_the_route(self) -> None:
        (send,) = sent(at("a", "b"), Returned([frame(next=[])]))
        assert send.envelope.route.curr == "x-sink"

    def test_headers_are_set_and_removed_and_the_others_stay_raw(self) -> None:
        envelope = at("a", "b")
        envelope.headers |= {"keep": Raw(b"1.10"), "drop": Raw(b"1")}
        (send,) = sent(envelope, Returned([frame(headers={"new": Raw(b'"v"')}, removed=["drop"])]))
        assert bytes(send.envelope.headers["keep"]) == b"1.10"
        assert "drop" not in send.envelope.headers
        assert send.envelope.header("new") == "v"

    def test_status_fields_of_a_handler_travel_but_not_over_the_mesh_s_own(self) -> None:
        changes = {"note": raw_json("hi"), "attempt": raw_json(99)}
        (send,) = sent(at("a", "b"), Returned([frame(status=changes)]))
        again = decode(encode(send.envelope))
        assert bytes(again.status_extra["note"]) == b'"hi"'
        assert again.status.attempt == 1

    def test_prev_keeps_the_newest_64_while_the_header_counts_all(self) -> None:
        envelope = at("a", *["a"] * 100)
        for _ in range(100):
            (send,) = sent(envelope, Returned([frame()]))
            envelope = send.envelope
        assert len(envelope.route.prev) == PREV_MAX
        assert envelope.hop == 100

    def test_a_route_that_goes_round_ends_at_the_bound_on_hops(self) -> None:
        envelope = at("a", "a")
        envelope.headers[HOP_HEADER] = raw_json(HOPS_MAX)
        (send,) = sent(envelope, Returned([frame()]))
        assert send.envelope.route.curr == "x-sink"
        assert send.envelope.status.reason == "HopLimit"

    def test_the_deadline_travels_to_the_end(self) -> None:
        envelope = at("a", "b", deadline_at=to_rfc3339(NOW + timedelta(hours=1)))
        (send,) = sent(envelope, Returned([frame()]))
        (end,) = sent(send.envelope, Returned([frame()]))
        assert end.envelope.deadline == NOW + timedelta(hours=1)


class TestFanOut:
    def test_the_first_keeps_the_id_and_the_others_get_derived_ones(self) -> None:
        sends = sent(at("a", "b"), Returned([frame(1), frame(2), frame(3)]))
        ids = [send.envelope.id for send in sends]
        assert ids == ["e-1", child_id("e-1", 0, 1), child_id("e-1", 0, 2)]
        assert [send.envelope.parent_id for send in sends] == [None, "e-1", "e-1"]
        assert {send.envelope.root for send in sends} == {"e-1"}

    def test_a_run_again_makes_the_same_ids(self) -> None:
        first = sent(at("a", "b"), Returned([frame(1), frame(2)]))
        again = sent(at("a", "b"), Returned([frame(1), frame(2)]))
        assert [s.dedup_id for s in first] == [s.dedup_id for s in again]

    def test_grandchildren_name_the_first_ancestor(self) -> None:
        child = sent(at("a", "b", "c"), Returned([frame(1), frame(2)]))[1].envelope
        grandchild = sent(child, Returned([frame(1), frame(2)]))[1].envelope
        assert grandchild.root == "e-1"
        assert grandchild.parent_id == child.id

    def test_a_frame_that_flows_early_is_the_child_that_it_would_be_at_the_end(self) -> None:
        envelope = at("a", "b")
        frames = [frame(i) for i in range(3)]
        at_the_end = sent(envelope, Returned(frames))
        early = [sent(envelope, Emitted(frames[i], i))[0] for i in (1, 2)]
        assert [encode(s.envelope) for s in early] == [encode(s.envelope) for s in at_the_end[1:]]
        assert [s.dedup_id for s in early] == [s.dedup_id for s in at_the_end[1:]]

    def test_one_frame_is_no_fan_out(self) -> None:
        (send,) = sent(at("a", "b"), Returned([frame()]))
        assert "x-asya-root" not in send.envelope.headers

    @given(
        hops=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    )
    def test_no_two_envelopes_of_a_tree_share_an_id(self, hops: list[int]) -> None:
        alive = [at("a", *["a"] * 10)]
        for width in hops:
            alive = [
                send.envelope
                for envelope in alive
                for send in sent(envelope, Returned([frame(i) for i in range(width)]))
            ]
        assert len({envelope.id for envelope in alive}) == len(alive)


class TestErrors:
    def test_no_policy_means_no_retry(self) -> None:
        (send,) = sent(at("a", "b", payload={"x": 1}), Raised(BOOM))
        out = send.envelope
        assert out.route == Route([], "x-sink", ["b"])
        assert (out.status.phase, out.status.reason) == ("failed", "PolicyExhausted")
        assert out.status.error == BOOM
        assert out.status.actor == "a"
        assert bytes(out.payload) == b'{"x":1}'

    def test_a_retry_is_a_delayed_copy_in_the_same_queue(self) -> None:
        (send,) = sent(at("a"), Raised(BOOM), retrying(max_attempts=3, initial_delay_s=2))
        assert send.envelope.route.curr == "a"
        assert send.not_before == NOW + timedelta(seconds=2)
        status = send.envelope.status
        assert (status.phase, status.attempt, status.max_attempts) == ("retrying", 2, 3)

    @pytest.mark.parametrize(
        ("backoff", "delays"),
        [("constant", [2, 2, 2]), ("linear", [2, 4, 5]), ("exponential", [2, 4, 5])],
    )
    def test_delays_grow_to_the_bound(self, backoff: str, delays: list[int]) -> None:
        rules = retrying(max_attempts=9, backoff=backoff, initial_delay_s=2, max_interval_s=5)
        seen = []
        for attempt in (1, 2, 3):
            (send,) = sent(at("a", attempt=attempt), Raised(BOOM), rules)
            assert send.not_before is not None
            seen.append((send.not_before - NOW).total_seconds())
        assert seen == delays

    def test_jitter_picks_between_zero_and_the_delay(self) -> None:
        asked = []

        def uniform(a: float, b: float) -> float:
            asked.append((a, b))
            return 5.0

        rules = retrying(max_attempts=2, initial_delay_s=8, jitter=True)
        (send,) = sent(at("a"), Raised(BOOM), rules, uniform=uniform)
        assert asked == [(0.0, 8.0)]
        assert send.not_before == NOW + timedelta(seconds=5)

    def test_the_last_attempt_ends_at_the_sink(self) -> None:
        (send,) = sent(at("a", attempt=3), Raised(BOOM), retrying(max_attempts=3))
        assert send.envelope.status.reason == "PolicyExhausted"
        assert send.envelope.status.attempt == 3

    def test_no_retry_begins_past_the_longest_duration(self) -> None:
        rules = retrying(max_attempts=9, initial_delay_s=10, max_duration_s=15, backoff="constant")
        (first,) = sent(at("a"), Raised(BOOM), rules)
        later = NOW + timedelta(seconds=10)
        (second,) = sent(first.envelope, Raised(BOOM), rules, now=later)
        assert second.envelope.status.reason == "PolicyExhausted"

    def test_exhausted_goes_to_the_actors_that_the_policy_names(self) -> None:
        rules = retrying(max_attempts=1, on_exhausted=("mend", "tell"))
        (send,) = sent(at("a", "b"), Raised(BOOM), rules)
        assert send.envelope.route == Route(["a"], "mend", ["tell"])
        assert (send.envelope.status.phase, send.envelope.status.reason) == (
            "failed",
            "PolicyRouted",
        )
        assert send.envelope.status.error == BOOM

    def test_what_was_routed_as_failed_stays_failed_to_its_end(self) -> None:
        rules = retrying(max_attempts=1, on_exhausted=("mend",))
        (send,) = sent(at("a"), Raised(BOOM), rules)
        (end,) = sent(send.envelope, Returned([frame("mended")]))
        assert end.envelope.route.curr == "x-sink"
        assert (end.envelope.status.phase, end.envelope.status.reason) == ("failed", "PolicyRouted")
        assert bytes(end.envelope.payload) == b'"mended"'

    def test_rules_match_the_whole_mro_in_order(self) -> None:
        rules = Resiliency(
            policies={"default": Policy(), "soft": Policy("soft", max_attempts=5)},
            rules=(Rule(("KeyError",), "default"), Rule(("ValueError",), "soft")),
        )
        (send,) = sent(at("a"), Raised(BOOM), rules)
        assert send.envelope.status.attempt == 2

    def test_a_pattern_with_a_dot_is_a_full_name(self) -> None:
        rules = Resiliency(
            policies={"soft": Policy("soft", max_attempts=5)},
            rules=(Rule(("other.Boom",), "soft"),),
        )
        (send,) = sent(at("a"), Raised(BOOM), rules)
        assert send.envelope.status.phase == "failed"

    def test_a_timeout_is_an_error_that_rules_can_match_by_the_builtin_name(self) -> None:
        rules = Resiliency(
            policies={"soft": Policy("soft", max_attempts=2)},
            rules=(Rule(("TimeoutError",), "soft"),),
        )
        (send,) = sent(at("a"), timed_out("a", 1.5, False), rules)
        assert send.envelope.status.phase == "retrying"
        assert send.envelope.status.error is not None
        assert send.envelope.status.error.type == "asya.errors.ActorTimeout"

    def test_a_retry_that_would_begin_past_the_deadline_is_none(self) -> None:
        envelope = at("a", deadline_at=to_rfc3339(NOW + timedelta(seconds=5)))
        (send,) = sent(envelope, Raised(BOOM), retrying(max_attempts=9, initial_delay_s=6))
        assert send.envelope.status.reason == "DeadlineExceeded"
        assert send.envelope.status.error == BOOM

    def test_a_handler_that_the_deadline_stopped_is_late_even_where_the_clock_says_not_yet(
        self,
    ) -> None:
        envelope = at("a", deadline_at=to_rfc3339(NOW + timedelta(milliseconds=1)))
        (send,) = sent(envelope, timed_out("a", 1.0, True), retrying(max_attempts=9))
        assert send.envelope.status.reason == "DeadlineExceeded"
        assert send.envelope.status.error is not None
        assert send.envelope.status.error.type == "asya.errors.ActorTimeout"

    def test_a_deadline_passed_before_the_handler_ends_the_envelope(self) -> None:
        envelope = at("a", deadline_at=to_rfc3339(NOW - timedelta(seconds=1)))
        (send,) = sent(envelope, Expired())
        assert send.envelope.route.curr == "x-sink"
        assert send.envelope.status.reason == "DeadlineExceeded"


class TestOtherEnds:
    def test_a_death_gives_the_message_back(self) -> None:
        assert sent(at("a"), Lost(1, "kill")) == []

    def test_the_fifth_death_is_the_last(self) -> None:
        (send,) = sent(at("a", "b"), Lost(5, "kill"))
        assert send.envelope.route == Route([], "x-sump", ["b"])
        assert send.envelope.status.reason == "PoisonMessage"

    def test_canceled_ends_at_the_sink_without_an_error(self) -> None:
        (send,) = sent(at("a"), Canceled())
        assert (send.envelope.route.curr, send.envelope.status.phase) == ("x-sink", "canceled")

    def test_an_unknown_actor_goes_to_the_sump_with_the_nearest_name(self) -> None:
        (send,) = sent(at("a", "rerankr", "c"), Returned([frame()]))
        (dead,) = sent(send.envelope, Undeliverable(("embedder", "reranker")))
        assert dead.envelope.route == Route(["a"], "x-sump", ["rerankr", "c"])
        assert dead.envelope.status.error is not None
        assert "did you mean 'reranker'?" in dead.envelope.status.error.message
        assert dead.envelope.status.reason == "UnknownActor"

    def test_a_message_that_the_broker_finds_too_large_fails(self) -> None:
        (dead,) = sent(at("a", "b"), Oversized(BOOM))
        assert (dead.envelope.route.curr, dead.envelope.status.reason) == (
            "x-sink",
            "MessageTooLarge",
        )

    def test_bytes_that_are_no_envelope_are_kept(self) -> None:
        dead = reject(unparsable("a", "not JSON", b"\xff\x00"), NOW).envelope
        assert dead.status.reason == "ParseError"
        assert bytes(dead.payload) == b'{"received_base64":"/wA="}'

    def test_the_same_bytes_make_the_same_dead_letter(self) -> None:
        first, second = (reject(unparsable("a", "x", b"{"), NOW) for _ in range(2))
        assert (first.envelope.id, first.dedup_id) == (second.envelope.id, second.dedup_id)

    def test_a_foreign_envelope_keeps_its_bytes_and_its_id(self) -> None:
        body = encode(at("b"))
        dead = reject(mismatch("a", "e-1", "b", body), NOW).envelope
        assert (dead.id, dead.status.reason) == ("e-1", "RouteMismatch")
        assert msgspec.json.decode(dead.payload) == {"received": body.decode()}


class TestAlways:
    outcomes = st.sampled_from(
        [
            Returned([]),
            Returned([frame(1)]),
            Returned([frame(1), frame(2)]),
            Raised(BOOM),
            Canceled(),
        ]
    )

    @given(outcomes, st.integers(1, 4), st.booleans())
    def test_what_is_not_ours_travels_unchanged(
        self, outcome: Canceled | Raised | Returned, attempt: int, limited: bool
    ) -> None:
        envelope = at("a", "b", attempt=attempt)
        envelope.extra["x-trace"] = Raw(b'{"n":1.50}')
        envelope.status_extra["mine"] = Raw(b"2.0")
        envelope.headers["h"] = Raw(b'{"k":1e5}')
        rules = retrying(max_attempts=3, max_duration_s=1.0 if limited else None)
        for send in sent(envelope, outcome, rules):
            again = decode(encode(send.envelope))
            assert bytes(again.extra["x-trace"]) == b'{"n":1.50}'
            assert bytes(again.status_extra["mine"]) == b"2.0"
            assert bytes(again.headers["h"]) == b'{"k":1e5}'

    @given(outcomes)
    def test_the_envelope_that_was_given_is_not_changed(
        self, outcome: Canceled | Raised | Returned
    ) -> None:
        envelope = at("a", "b")
        before = encode(envelope)
        decide(envelope, outcome, retrying(max_attempts=2), NOW, lambda a, b: b)
        assert encode(envelope) == before

    @given(outcomes)
    def test_deaths_of_one_visit_do_not_follow_to_the_next(
        self, outcome: Canceled | Raised | Returned
    ) -> None:
        envelope = at("a", "b")
        envelope.headers[DEATHS_HEADER] = raw_json(2)
        for send in sent(envelope, outcome, retrying(max_attempts=2)):
            assert DEATHS_HEADER not in send.envelope.headers

    def test_times_are_rfc_3339(self) -> None:
        (send,) = sent(at("a", "b"), Returned([frame()]))
        assert from_rfc3339(send.envelope.status.updated_at) == NOW
