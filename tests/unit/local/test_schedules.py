"""From Schedule manifests to what the gateway fires."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asya.errors import UsageError
from asya.local.schedules import schedule_specs
from asya.manifest import load

TEXT = """
apiVersion: asya.sh/v1alpha1
kind: Flow
metadata: {name: daily}
spec: {route: [a, b], timeout: 5m, expose: {http: false}}
---
apiVersion: asya.sh/v1alpha1
kind: Schedule
metadata: {name: nightly}
spec:
  flow: daily
  cron: "@daily"
  timezone: Europe/Berlin
  payload: {n: 1.50, text: "ä"}
  concurrencyPolicy: replace
---
apiVersion: asya.sh/v1alpha1
kind: Schedule
metadata: {name: tick}
spec: {route: [c], every: 90s, timeout: 10s, missedRuns: all, suspended: true}
"""


@pytest.fixture
def manifests(tmp_path: Path) -> Any:
    """The manifests of a text."""

    def make(text: Any) -> Any:
        (tmp_path / "a.yaml").write_text(text)
        return load([tmp_path])

    return make


def test_flows_are_looked_up_and_payloads_are_json(manifests: Any) -> None:
    nightly, tick = schedule_specs(manifests(TEXT), "default")
    # a flow that HTTP does not show can be scheduled all the same
    assert (nightly.name, nightly.flow, nightly.route) == ("nightly", "daily", ("a", "b"))
    assert bytes(nightly.payload) == '{"n":1.5,"text":"ä"}'.encode()
    assert (nightly.timeout_s, nightly.text, nightly.timezone) == (300.0, "@daily", "Europe/Berlin")
    assert nightly.key is not None
    assert (tick.flow, tick.route, tick.text, tick.timeout_s) == (None, ("c",), "every 1m30s", 10.0)
    assert (bytes(tick.payload), tick.missed_runs, tick.suspended) == (b"null", "all", True)
    assert tick.key is None


def test_all_that_cannot_be_scheduled_is_told_at_once(manifests: Any) -> None:
    text = TEXT.replace("flow: daily", "flow: dialy").replace(
        "{name: tick}", "{name: tick, namespace: x}"
    )
    with pytest.raises(UsageError) as caught:
        schedule_specs(manifests(text), "default")
    first, second = str(caught.value).splitlines()
    assert "schedule nightly sends into the flow 'dialy'" in first
    assert first.endswith("did you mean 'daily'?")
    assert "schedule tick is in the namespace x; this mesh runs default" in second
