"""Advancing a route, and the constants that the runtime shares with the envelope."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asya import envelope
from asya.runtime import route, scope

NAMES = st.lists(st.sampled_from(["a", "b", "c"]), max_size=80)


def test_the_next_actor_is_current_and_the_last_one_is_remembered() -> None:
    assert route.advance(["a"], "b", ["c", "d"]) == (["a", "b"], "c", ["d"])


def test_an_empty_rest_leads_to_the_end() -> None:
    assert route.advance([], "a", []) == (["a"], "x-sink", [])


@given(NAMES, NAMES)
def test_only_the_newest_hops_are_kept_and_nothing_given_is_changed(
    prev: list[str], upcoming: list[str]
) -> None:
    before = (list(prev), list(upcoming))
    made, curr, rest = route.advance(prev, "now", upcoming)
    assert made == [*prev, "now"][-route.PREV_MAX :]
    assert [curr, *rest] == (upcoming or [route.END])
    assert (prev, upcoming) == before


def test_the_runtime_and_the_envelope_agree_on_what_a_route_is() -> None:
    assert route.PREV_MAX == envelope.PREV_MAX
    assert route.END == envelope.SINK
    assert scope.ROUTE_MAX == envelope.ROUTE_MAX
    assert set(scope.END_ACTORS) == envelope.END_ACTORS
    assert scope.SYSTEM_PREFIX == envelope.SYSTEM_PREFIX


@given(st.one_of(st.text("a-0B\n", max_size=4), st.text("a-", min_size=60, max_size=66)))
def test_the_runtime_and_the_envelope_agree_on_names(name: str) -> None:
    assert (scope._NAME.fullmatch(name) is not None) == envelope.is_actor_name(name)
