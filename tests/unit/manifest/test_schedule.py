"""`kind: Schedule`, and what a flow says of keys."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from asya.errors import ManifestError
from asya.manifest import json_schema, load
from asya.manifest.loading import Manifests

HEAD = "apiVersion: asya.sh/v1alpha1\nkind: Schedule\nmetadata: {name: nightly}\nspec:\n"
WINDOW = "startsAt: 2026-01-01T13:00:00Z\nendsAt: 2026-01-02T11:00:00Z"


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Loads one schedule of these lines."""
    monkeypatch.chdir(tmp_path)

    def read_spec(spec: str, more: str = "") -> Manifests:
        text = HEAD + "".join(f"  {line}\n" for line in spec.splitlines())
        (tmp_path / "a.yaml").write_text(text + more)
        return load(["a.yaml"])

    return read_spec


def test_a_schedule_loads_with_its_defaults(read: Callable[..., Any]) -> None:
    (found,) = read("route: [a, b]\nevery: 15m").schedules
    assert (found.name, found.namespace, found.spec.route) == ("nightly", "default", ["a", "b"])
    spec = found.spec
    assert (spec.missed_runs, spec.concurrency_policy, spec.suspended) == ("last", "allow", False)
    assert (spec.payload, spec.timezone, spec.timeout) == (None, "UTC", None)
    assert spec.timetable().every_s == 900.0


def test_every_field_is_read(read: Callable[..., Any]) -> None:
    found = read(
        "flow: search\npayload: {day: today}\ncron: '30 6 * * MON-FRI'\ntimezone: Europe/Berlin\n"
        "missedRuns: all\nconcurrencyPolicy: forbid\nsuspended: true\ntimeout: 5m\n"
        "startsAt: 2026-01-01T00:00:00Z\nendsAt: 2027-01-01T00:00:00+01:00"
    )
    (schedule,) = found.schedules
    assert schedule.spec.payload == {"day": "today"}
    timetable = schedule.spec.timetable()
    first = timetable.next_after(datetime(2025, 1, 1, tzinfo=UTC))
    assert first == datetime(2026, 1, 1, 5, 30, tzinfo=UTC)
    assert timetable.ends_at == datetime(2026, 12, 31, 23, tzinfo=UTC)
    assert found.warnings == [
        'a.yaml:5: spec.flow: no flow "search" among these manifests',
    ]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("route: [a]\ncron: 0 0 30 2 *", "spec.cron: '0 0 30 2 *' never fires"),
        ("route: [a]\ncron: '60 * * * *'", "spec.cron: bad minute in '60 * * * *'"),
        ("route: [a]\ncron: '@hourlie'", "did you mean @hourly?"),
        ("route: [a]\ncron: '* * * * * *'", "expected five fields"),
        ("route: [a]", "spec: expected `cron` or `every`, got neither"),
        ("route: [a]\ncron: '* * * * *'\nevery: 5m", "spec.every: expected `cron` or `every`"),
        ("every: 5m", "spec: expected `flow` or `route`, got neither"),
        ("every: 5m\nflow: f\nroute: [a]", "spec.route: expected `flow` or `route`, got both"),
        ("route: [a]\nevery: 5m\ntimezone: Europe/Berlin", "spec.timezone: "),
        ("route: [a]\ncron: '* * * * *'\ntimezone: Europe/Berlim", "did you mean 'Europe/Berlin'"),
        ("route: [a]\nevery: 100ms", "expected a duration of at least 1s"),
        ("route: [a]\nevery: 5", "write the unit"),
        ("route: [a]\nevery: 5m\nstartsAt: tomorrow", "expected a time with an offset"),
        ("route: [a]\nevery: 5m\nstartsAt: 2026-01-01T00:00:00", "expected a time with an offset"),
        (
            "route: [a]\ncron: '0 12 * * *'\n" + WINDOW,
            "spec.endsAt: ",
        ),
        ("route: [a]\nevery: 5m\nmissedRuns: none", "spec.missedRuns"),
        ("route: [a]\nevery: 5m\nsuspend: true", "did you mean 'suspended'?"),
        ("route: [x-sink]\nevery: 5m", "spec.route[0]: x-sink"),
        ("route: [a]\nevery: 5m\npayload: .nan", "spec.payload"),
    ],
)
def test_what_is_wrong_is_named(read: Callable[..., Any], spec: str, said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read(spec)
    assert any(said in str(problem) for problem in caught.value.problems), caught.value.problems


FLOW = """---
apiVersion: asya.sh/v1alpha1
kind: Flow
metadata: {name: search}
spec:
  route: [a]
  inputSchema: {type: object, properties: {query: {type: string}}, required: [query]}
"""


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ("{query: 7}", "a.yaml:7: spec.payload.query: "),
        ("{}", "a.yaml:7: spec.payload: "),
    ],
)
def test_a_payload_that_its_flow_would_refuse_is_an_error(
    read: Callable[..., Any], payload: str, said: str
) -> None:
    with pytest.raises(ManifestError) as caught:
        read(f"flow: search\nevery: 5m\npayload: {payload}", FLOW)
    (problem,) = caught.value.problems
    assert said in str(problem)
    assert read("flow: search\nevery: 5m\npayload: {query: x}", FLOW).schedules


def test_two_schedules_of_one_name_are_an_error(read: Callable[..., Any]) -> None:
    with pytest.raises(ManifestError, match="another Schedule"):
        read("route: [a]\nevery: 5m", "---\n" + HEAD + "  route: [a]\n  every: 1h\n")


def test_a_flow_says_what_keys_mean(tmp_path: Path) -> None:
    head = "apiVersion: asya.sh/v1alpha1\nkind: Flow\nmetadata: {name: f}\nspec:\n  route: [a]\n"
    file = tmp_path / "flow.yaml"
    for said, policy, life in (
        ("", "return-existing", timedelta(hours=24)),
        ("  idempotency: {policy: replace, life: active}\n", "replace", None),
        ("  idempotency: {life: 90s}\n", "return-existing", timedelta(seconds=90)),
    ):
        file.write_text(head + said)
        (flow,) = load([file]).flows
        rules = flow.spec.idempotency
        assert rules.policy == policy
        assert rules.life == (None if life is None else life.total_seconds())
    for wrong in ("{policy: keep}", "{life: forever}", "{life: 0s}"):
        file.write_text(head + f"  idempotency: {wrong}\n")
        with pytest.raises(ManifestError, match=r"spec\.idempotency"):
            load([file])


def test_the_schema_tells_of_all_fields() -> None:
    fields = json_schema("Schedule")["$defs"]["ScheduleSpec"]["properties"]
    assert {"cron", "every", "missedRuns", "concurrencyPolicy", "startsAt", "payload"} <= set(
        fields
    )
