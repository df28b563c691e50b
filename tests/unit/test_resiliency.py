import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asya.resiliency import DEFAULT_POLICY, Backoff, Policy, Resiliency, Rule, delay_s


def no_jitter(low: float, high: float) -> float:
    raise AssertionError("without jitter nothing is picked")


def delays(policy: Policy, count: int) -> list[float]:
    return [delay_s(policy, retry, no_jitter) for retry in range(1, count + 1)]


@pytest.mark.parametrize(
    ("backoff", "expected"),
    [
        ("constant", [2, 2, 2, 2, 2, 2]),
        ("linear", [2, 4, 6, 8, 10, 12]),
        ("exponential", [2, 4, 8, 16, 32, 60]),
    ],
)
def test_delays_grow_as_the_policy_says_up_to_its_limit(backoff: Any, expected: list[int]) -> None:
    policy = Policy(backoff=backoff, initial_delay_s=2.0, max_interval_s=60.0)
    assert delays(policy, 6) == expected


policies = st.builds(
    Policy,
    backoff=st.sampled_from(["constant", "linear", "exponential"]),
    initial_delay_s=st.floats(0, 1e9),
    max_interval_s=st.floats(0, 1e9),
)


@given(policies, st.integers(1, 10**6))
def test_a_delay_never_falls_and_never_passes_the_limit(policy: Policy, retry: int) -> None:
    now, after = (delay_s(policy, n, no_jitter) for n in (retry, retry + 1))
    assert 0 <= now <= after <= policy.max_interval_s


@given(policies, st.integers(1, 100), st.floats(0, 1))
def test_jitter_picks_between_nothing_and_the_whole_delay(
    policy: Policy, retry: int, share: float
) -> None:
    asked = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return low + (high - low) * share

    whole = delay_s(policy, retry, no_jitter)
    jittered = Policy(
        backoff=policy.backoff,
        initial_delay_s=policy.initial_delay_s,
        max_interval_s=policy.max_interval_s,
        jitter=True,
    )
    assert 0 <= delay_s(jittered, retry, uniform) <= whole
    assert asked == [(0.0, whole)]


@given(st.integers(1, 40), st.floats(0.001, 10))
def test_the_formulas_are_those_of_the_contract(n: int, d: float) -> None:
    def at(backoff: Backoff) -> float:
        policy = Policy(backoff=backoff, initial_delay_s=d, max_interval_s=1e300)
        return delay_s(policy, n, no_jitter)

    assert at("constant") == d
    assert at("linear") == pytest.approx(n * d)
    assert at("exponential") == pytest.approx(d * 2 ** (n - 1))


MRO = ["requests.exceptions.ReadTimeout", "requests.exceptions.Timeout", "OSError", "Exception"]


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("requests.exceptions.Timeout", True),
        ("Timeout", True),
        ("ReadTimeout", True),
        ("Exception", True),
        ("builtins.OSError", True),
        ("exceptions.Timeout", False),
        ("requests", False),
        ("timeout", False),
        ("Time", False),
        ("BaseException", False),
        ("builtins.Timeout", False),
        ("", False),
    ],
)
def test_a_pattern_with_a_dot_is_a_full_name_and_one_without_the_last_part(
    pattern: str, matches: bool
) -> None:
    assert Rule((pattern,), "p").matches(MRO) is matches


def test_an_overrun_matches_the_builtin_timeout_error() -> None:
    mro = ["asya.errors.ActorTimeout", "asya.errors.AsyaError", "TimeoutError", "OSError"]
    for pattern in ("ActorTimeout", "asya.errors.ActorTimeout", "TimeoutError"):
        assert Rule((pattern,), "p").matches(mro)


ERRORS = ("A", "B", "C")


@pytest.mark.parametrize(
    "rules",
    [
        tuple((patterns, f"p{number}") for number, patterns in enumerate(chosen))
        for size in range(4)
        for chosen in itertools.product(
            [c for n in (1, 2) for c in itertools.combinations(ERRORS, n)], repeat=size
        )
    ],
)
def test_the_first_rule_that_matches_wins_and_the_default_is_for_the_rest(
    rules: tuple[Any, ...],
) -> None:
    policies = {f"p{number}": Policy(f"p{number}") for number in range(3)}
    policies[DEFAULT_POLICY] = Policy(max_attempts=7)
    resiliency = Resiliency(policies=policies, rules=tuple(Rule(*rule) for rule in rules))
    for error in (*ERRORS, "D"):
        expected = next((name for patterns, name in rules if error in patterns), DEFAULT_POLICY)
        assert resiliency.policy_for([f"m.{error}", "Exception"]).name == expected


def test_the_order_of_rules_counts_before_the_order_of_classes() -> None:
    resiliency = Resiliency(
        policies={"wide": Policy("wide"), "narrow": Policy("narrow")},
        rules=(Rule(("Exception",), "wide"), Rule(("ValueError",), "narrow")),
    )
    assert resiliency.policy_for(["ValueError", "Exception"]).name == "wide"


def test_without_any_policy_there_is_one_attempt() -> None:
    assert Resiliency().policy_for(["ValueError"]) == Policy(max_attempts=1)
    assert Resiliency().default.on_exhausted == ()
    assert Resiliency().actor_timeout_s == 300.0


def test_an_error_without_class_names_falls_under_the_default() -> None:
    resiliency = Resiliency(policies={"p": Policy("p")}, rules=(Rule(("E",), "p"),))
    assert resiliency.policy_for([]).name == DEFAULT_POLICY
