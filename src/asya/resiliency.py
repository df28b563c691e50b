"""Which policy an error falls under, and how long a retry waits. Pure.

Made from `spec.resiliency` by the manifest, asked by the sidecar's `decide`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

Backoff = Literal["constant", "linear", "exponential"]

DEFAULT_POLICY: Final = "default"


@dataclass(frozen=True)
class Policy:
    """What to do with an envelope whose handler failed. Times are in seconds.

    Attributes:
        name: Its key in `policies`.
        max_attempts: Attempts in all; 1 is no retry.
        backoff: How the delay grows with the number of the retry.
        initial_delay_s: The delay of the first retry.
        max_interval_s: No delay is longer.
        max_duration_s: No retry begins later than this after the first attempt; None is no bound.
        jitter: A delay is picked uniformly between 0 and what `backoff` says.
        on_exhausted: Actors that get the envelope when no attempt is left; none means `x-sink`.
    """

    name: str = DEFAULT_POLICY
    max_attempts: int = 1
    backoff: Backoff = "exponential"
    initial_delay_s: float = 1.0
    max_interval_s: float = 300.0
    max_duration_s: float | None = None
    jitter: bool = False
    on_exhausted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """Errors that match one of the patterns fall under `policy`."""

    errors: tuple[str, ...]
    policy: str

    def matches(self, mro: Sequence[str]) -> bool:
        """Whether a class of the error's MRO matches.

        A pattern with a dot is a full name, one without is the last part of a name.
        """
        return any(_matches(pattern, name) for pattern in self.errors for name in mro)


@dataclass(frozen=True)
class Resiliency:
    """`spec.resiliency` of one actor. Rules are tried in order, the first match wins."""

    actor_timeout_s: float = 300.0
    policies: Mapping[str, Policy] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()

    def policy_for(self, mro: Sequence[str]) -> Policy:
        """The policy of an error with these class names."""
        for rule in self.rules:
            if rule.matches(mro):
                return self.policies[rule.policy]
        return self.default

    @property
    def default(self) -> Policy:
        """The policy of errors that no rule names."""
        return self.policies.get(DEFAULT_POLICY, _NO_RETRY)


_NO_RETRY: Final = Policy()


def _matches(pattern: str, name: str) -> bool:
    if "." in pattern:
        return pattern in (name, f"builtins.{name}")
    return pattern == name.rpartition(".")[2]


def delay_s(policy: Policy, retry: int, uniform: Callable[[float, float], float]) -> float:
    """Seconds before retry number `retry` (from 1).

    constant d, linear n·d, exponential d·2^(n-1), at most `max_interval_s`; with jitter a uniform
    pick between 0 and that ("full jitter"). `uniform(a, b)` is as `random.uniform`.
    """
    if policy.backoff == "constant":
        delay = policy.initial_delay_s
    elif policy.backoff == "linear":
        delay = policy.initial_delay_s * retry
    else:
        # 2**64 seconds is past every limit; the bound keeps the power small
        delay = policy.initial_delay_s * 2.0 ** min(retry - 1, 64)
    delay = min(delay, policy.max_interval_s)
    return uniform(0.0, delay) if policy.jitter else delay
