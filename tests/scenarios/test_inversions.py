"""Each scenario fails when the rule that it names is inverted, so that none of them is idle.

A rule is inverted by an edit of one expression in the source of the function that holds it. When
that function is rewritten, the edit is not found any more and the test says so: name the expression
that holds the rule now.
"""

from __future__ import annotations

from typing import Final

import pytest
from tests.scenarios.inversion import Inversion
from tests.scenarios.mesh import Failed, check
from tests.scenarios.scenario import FOLDER, files, load

DECIDE: Final = "asya.sidecar.decide"
SIDECAR: Final = "asya.sidecar.sidecar:Sidecar"
WORK: Final = "asya.sidecar.work:Work"

RULES: Final = {
    # where envelopes go
    "forward": Inversion(
        "asya.runtime.route:advance",
        "upcoming[0], list(upcoming[1:])",
        "upcoming[-1], list(upcoming[:-1])",
    ),
    "fan-out-ids": Inversion(f"{DECIDE}:_forward", "hop, index)\n", "hop, index + 1)\n"),
    "fan-out-root": Inversion(f"{DECIDE}:_forward", "if fan_out:", "if False:"),
    "stop": Inversion(f"{DECIDE}:_stop", "Changes([], ", "Changes(None, "),
    "route-override": Inversion(
        f"{DECIDE}:_forward", "if frame.changes.next is None else frame.changes.next", ""
    ),
    "header-set": Inversion(f"{DECIDE}:_apply", "out.headers.update(changes.headers)", "pass"),
    "header-removed": Inversion(f"{DECIDE}:_apply", "out.headers.pop(name, None)", "pass"),
    "own-status": Inversion(f"{DECIDE}:_apply", "if name not in SYSTEM_STATUS", "if name"),
    "history-bound": Inversion("asya.runtime.route:advance", "[-PREV_MAX:]", ""),
    "trace-handed-on": Inversion(f"{DECIDE}:_trace", "if own is not None", "if False"),
    "trace-of-the-handler": Inversion(
        f"{DECIDE}:_forward",
        "    _trace(out, envelope)\n    _apply(out, frame.changes)\n",
        "    _apply(out, frame.changes)\n    _trace(out, envelope)\n",
    ),
    "failed-stays-failed": Inversion(
        f"{DECIDE}:_forward",
        'if status.phase != "failed"',
        "if True",
    ),
    "hop-limit": Inversion(f"{DECIDE}:_after_return", "> HOPS_MAX", "> HOPS_MAX + 1"),
    "claim-check-kept": Inversion(
        f"{DECIDE}:_forward", "if frame.payload is not envelope.payload", "if True"
    ),
    "unknown-fields": Inversion(
        "asya.envelope:Envelope.copy", "extra=dict(self.extra)", "extra={}"
    ),
    "claim-check": Inversion(f"{DECIDE}:_forward", "out.headers.pop(BLOB_HEADER, None)", "pass"),
    # errors
    "retry-delay": Inversion(f"{DECIDE}:_after_error", "delay_s(policy, attempt, uniform)", "0"),
    "retry-at-once": Inversion(f"{DECIDE}:_retry", "at if at > now else None", "at"),
    "backoff": Inversion("asya.resiliency:delay_s", "2.0 **", "1.0 **"),
    "jitter": Inversion("asya.resiliency:delay_s", "if policy.jitter", "if False"),
    "attempts-bound": Inversion(
        f"{DECIDE}:_after_error", "attempt < policy.max_attempts", "attempt <= policy.max_attempts"
    ),
    "duration-bound": Inversion(f"{DECIDE}:_after_error", "(at - began)", "(at - now)"),
    "duration-of-a-visit": Inversion(
        f"{DECIDE}:_leave", "out.headers.pop(SINCE_HEADER, None)", "pass"
    ),
    "on-exhausted": Inversion(f"{DECIDE}:_after_error", "if policy.on_exhausted", "if False"),
    "hop-limit-of-failed": Inversion(
        f"{DECIDE}:_route_failed", "if hop + 1 > HOPS_MAX", "if hop > HOPS_MAX"
    ),
    "trace-of-failed": Inversion(f"{DECIDE}:_route_failed", "_trace(out, envelope)", "pass"),
    "policy-by-error": Inversion(
        "asya.resiliency:Rule.matches", "for name in mro", "for name in mro[:1]"
    ),
    "failed-is-retried-as-failed": Inversion(
        f"{DECIDE}:_retry", 'if status.phase != "failed"', "if True"
    ),
    # time
    "late-before-start": Inversion(
        f"{DECIDE}:_failure",
        'return "DeadlineExceeded", _late(envelope)',
        'return "Canceled", _late(envelope)',
    ),
    "late-in-line": Inversion(f"{WORK}.wait", "left_s = max(0.0, ", "left_s = 1 + max(0.0, "),
    "no-retry-past-the-deadline": Inversion(
        f"{DECIDE}:_after_error", "in_time and deadline is not None", "False and deadline"
    ),
    "late-during-a-call": Inversion(
        f"{DECIDE}:_after_error",
        "if raised.late or (deadline is not None and now >= deadline)",
        "if False",
    ),
    "late-while-sending": Inversion(
        f"{DECIDE}:_after_error", "or (deadline is not None and now >= deadline)", ""
    ),
    "actor-timeout": Inversion("asya.sidecar.outcome:timed_out", "late=by_deadline", "late=True"),
    "async-is-asked-first": Inversion(f"{WORK}._stop", "if replica.cooperative", "if False"),
    # cancels
    "stopped-for-sure": Inversion(
        f"{WORK}._stop", "self.sidecar.call_later(YIELD_S, self._kill)", "None"
    ),
    "canceled-in-line": Inversion(f"{SIDECAR}._on_cancel", "if work.canceled]", "if False]"),
    "canceled-in-the-queue": Inversion(f"{SIDECAR}._is_canceled", "envelope.root)", "'')"),
    "canceled-during-a-call": Inversion(f"{WORK}._stop", "self._kill()", "pass"),
    "stopped-beats-the-result": Inversion(
        f"{WORK}._end",
        "if self.canceled:\n            outcome = Canceled()\n"
        "        elif self._stopping is not None",
        "if False:\n            pass\n        elif False",
    ),
    "canceled-with-its-root": Inversion(
        f"{SIDECAR}._on_cancel", "or work.envelope.root in ids", ""
    ),
    # crashes
    "lost-goes-back": Inversion(
        f"{DECIDE}:decide",
        "if deaths >= DEATHS_MAX else []",
        "if True else []",
    ),
    "poison": Inversion(
        f"{DECIDE}:decide", "if deaths >= DEATHS_MAX else", "if deaths > DEATHS_MAX else"
    ),
    "suspects-run-alone": Inversion(
        f"{WORK}.__init__", "sidecar.is_suspected(envelope.id)", "False"
    ),
    "shared-crashes-suspect-nobody": Inversion(
        f"{WORK}.on_lost", "if suspects == 1", "if suspects >= 1"
    ),
    "crashed-twice-runs-alone": Inversion(f"{WORK}.__init__", "self.deaths > 1", "False"),
    "sigterm-takes-no-more": Inversion(
        "asya.sidecar.replica:Replica.open", "not self.terminating and ", ""
    ),
    "neighbours-are-not-blamed": Inversion(
        "asya.sidecar.replica:Replica.connection_lost", "0 if self.killed else ", ""
    ),
    "crashes-of-a-visit": Inversion(
        f"{DECIDE}:_leave", "out.headers.pop(DEATHS_HEADER, None)", "pass"
    ),
    "crashes-of-an-attempt": Inversion(
        f"{DECIDE}:_retry", "out.headers.pop(DEATHS_HEADER, None)", "pass"
    ),
    "crashes-of-an-end": Inversion(
        f"{DECIDE}:_end", "out.headers.pop(DEATHS_HEADER, None)", "pass"
    ),
    "drain-is-no-crash": Inversion(
        f"{SIDECAR}._give_back",
        "if work.deaths:\n            out.headers[DEATHS_HEADER] = raw_json(work.deaths)",
        "out.headers[DEATHS_HEADER] = raw_json(work.deaths + 1)",
    ),
    "drain-waits": Inversion(f"{SIDECAR}.drain", "self.loop_time() + grace_s", "self.loop_time()"),
    # dead letters
    "unknown-actor": Inversion(
        f"{DECIDE}:_undeliverable", "[wanted, *envelope.route.next]", "envelope.route.next"
    ),
    "foreign-envelope": Inversion(
        "asya.sidecar.outcome:mismatch", "body, envelope_id)", "body, None)"
    ),
    "unparsable": Inversion(f"{DECIDE}:_keep", "raw_json(_as_text(body))", "raw_json(None)"),
    "unparsable-once": Inversion(f"{DECIDE}:_keep", "0, _fingerprint(body))", "0, id(now))"),
    "route-to-an-end-actor": Inversion(
        "asya.envelope:route_problem", "if name in END_ACTORS", "if False"
    ),
    "payload-bound": Inversion(f"{WORK}.on_done", "if self._refused is not None", "if False"),
    "payload-bound-is-inclusive": Inversion(
        f"{WORK}.on_frame", "if size > limit", "if size >= limit"
    ),
    "blob-missing": Inversion(f"{DECIDE}:_failure", '"BlobMissing"', '"PolicyExhausted"'),
    "message-too-large": Inversion(
        f"{SIDECAR}._perform", "kept = origin if origin.id == sent.id else sent", "kept = sent"
    ),
    # the broker and the store
    "sent-until-confirmed": Inversion(
        f"{SIDECAR}._perform", "await asyncio.sleep(delay_s)", "return"
    ),
    "ack-after-confirm": Inversion(
        f"{SIDECAR}._finish",
        "await asyncio.gather(",
        "asyncio.gather(",
    ),
    "run-again-is-the-same": Inversion(
        f"{DECIDE}:_forward", 'f"{out.id}:{hop + 1}"', 'f"{out.id}:{hop + 1}:{now}"'
    ),
    "end-kept-by-the-broker": Inversion(
        f"{SIDECAR}._deliver",
        "await end.accept(send.envelope)\n                return",
        "await end.accept(send.envelope)\n            return",
    ),
    "neighbours-are-waited-for": Inversion(
        f"{SIDECAR}._perform", "and target not in self.config.neighbours", ""
    ),
    # values while the handler runs
    "flown-at-once": Inversion(f"{WORK}.on_fly", "self._fly_seq += 1", "pass"),
    "early-frames-above-the-bound": Inversion(f"{WORK}.on_frame", "> FRAMES_MAX", "> 1000"),
    "frames-are-held-back": Inversion(f"{WORK}.on_frame", "> FRAMES_MAX", "> FRAMES_MAX - 1"),
    "first-frame-waits": Inversion(f"{WORK}._open_the_flow", "kept[1:], start=1", "kept, start=0"),
}
"""The rules, each with the edit that inverts it. What a rule says is in its scenarios."""

SCENARIOS: Final = {str(path.relative_to(FOLDER)): load(path) for path in files()}


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_fails_when_its_rule_is_inverted(name: str) -> None:
    scenario = SCENARIOS[name]
    with RULES[scenario.rule].applied(), pytest.raises(Failed):
        check(scenario, name)


def test_each_rule_has_a_scenario_and_each_scenario_a_rule() -> None:
    assert {scenario.rule for scenario in SCENARIOS.values()} == RULES.keys()
