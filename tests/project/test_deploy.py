"""Dashboard and alert rules ask for metrics and labels that exist, and leave none out."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from asya.telemetry import catalog

METRICS = {metric.name: metric for metric in catalog.METRICS}
EVERYWHERE = {"namespace", "job", "instance"}
VALUES = {
    "outcome": {"succeeded", "failed", "retried", "canceled"},
    "state": {"starting", "idle", "busy", "terminating", "ready", "in_flight", "delayed"},
}
"""Labels that take fixed words."""

SELECTOR = re.compile(r"\b([a-z][a-z0-9_]*_[a-z0-9_]+|up)\b(?!\s*\()(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
GROUPING = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
DURATION = re.compile(r"\d+(ms|s|m|h|d)")

ASKED_FOR = {
    "AsyaDeadLettersGrow", "AsyaQueueNotDraining", "AsyaNoReplicas", "AsyaErrorRatio",
    "AsyaSlowHandler", "AsyaBrokerDown", "AsyaStoreFailing", "AsyaEventsDropped",
}  # fmt: skip


def known(name: str) -> catalog.Metric | None:
    """The metric that a series belongs to."""
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    if base in METRICS and METRICS[base].kind == "histogram":
        return METRICS[base] if name != base else None
    return METRICS.get(name)


def selectors(expression: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Names of series with their matchers; `by (…)` and the like are left out."""
    bare = GROUPING.sub("", expression)
    for name, inside in SELECTOR.findall(bare):
        yield name, MATCHER.findall(inside or "")


def faults(expression: str) -> Iterator[str]:
    """What is wrong with a PromQL expression, as far as the catalog can tell."""
    labels = {"le"} | EVERYWHERE
    for name, matchers in selectors(expression):
        if name == "up" or name.startswith("process_"):
            continue
        metric = known(name)
        if metric is None:
            yield f"there is no series {name}"
            continue
        labels |= set(metric.labels)
        for label, how, value in matchers:
            if label not in {*metric.labels, *EVERYWHERE}:
                yield f"{name} has no label {label}"
            words = set(value.split("|")) if "~" in how else {value}
            if label in VALUES and words - VALUES[label]:
                yield f"{label} is never {sorted(words - VALUES[label])}"
        if metric.kind == "gauge" and re.search(rf"(rate|increase)\(\s*{name}\b", expression):
            yield f"{name} is a gauge, which has no rate"
    for group in GROUPING.findall(expression):
        wrong = {each.strip() for each in group.split(",")} - labels
        if wrong:
            yield f"nothing here has the labels {sorted(wrong)}"
    for opening, closing in ("()", "{}", "[]"):
        if expression.count(opening) != expression.count(closing):
            yield f"{opening}{closing} do not match"


@pytest.fixture(scope="session")
def rules(root: Path) -> list[dict[str, Any]]:
    document = yaml.safe_load((root / "deploy/prometheus/alerts.yaml").read_text("utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


@pytest.fixture(scope="session")
def dashboard(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "deploy/grafana/asya.json").read_text("utf-8"))
    return found


def expressions(dashboard: dict[str, Any]) -> list[str]:
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", ())]
    variables = [
        v["query"]["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"
    ]
    asked = [re.sub(r"^label_values\((.*), (\w+)\)$", r"sum by (\2) (\1)", v) for v in variables]
    return [target["expr"] for target in targets] + asked


@pytest.mark.parametrize(
    "wrong",
    [
        "asya_nothing_total",
        "rate(asya_actor_handler_seconds[5m])",
        'asya_actor_replicas{status="idle"}',
        'asya_actor_replicas{state="sleeping"}',
        "sum by (flow) (asya_ready)",
        "rate(asya_actor_in_flight[5m])",
        "sum(rate(asya_actor_retries_total[5m])",
    ],
)
def test_this_check_finds_what_is_wrong(wrong: str) -> None:
    assert list(faults(wrong))


def test_alert_rules_ask_for_what_exists(rules: list[dict[str, Any]]) -> None:
    assert [f"{rule['alert']}: {text}" for rule in rules for text in faults(rule["expr"])] == []


def test_alert_rules_are_whole(rules: list[dict[str, Any]]) -> None:
    names = [rule["alert"] for rule in rules]
    assert len(set(names)) == len(names)
    assert set(names) >= ASKED_FOR
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"Asya[A-Z][A-Za-z]+", rule["alert"])
        assert DURATION.fullmatch(rule.get("for", "1m"))
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}
        assert re.search(r"[<>=]|absent", rule["expr"]), "an alert compares"
        used = re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))
        grouped = {each.strip() for g in GROUPING.findall(rule["expr"]) for each in g.split(",")}
        metric = next((known(name) for name, _ in selectors(rule["expr"]) if known(name)), None)
        there = grouped or {*(metric.labels if metric else ()), *EVERYWHERE}
        assert set(used) <= there, rule["alert"]


def test_prometheus_itself_takes_the_rules(root: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; the rules are checked by their parts")
    subprocess.run([promtool, "check", "rules", root / "deploy/prometheus/alerts.yaml"], check=True)


def test_the_dashboard_asks_for_what_exists(dashboard: dict[str, Any]) -> None:
    found = expressions(dashboard)
    assert len(found) > 20
    assert [f"{each}: {text}" for each in found for text in faults(each)] == []


def test_every_metric_is_on_the_dashboard(dashboard: dict[str, Any]) -> None:
    shown = {
        m.name for each in expressions(dashboard) for n, _ in selectors(each) if (m := known(n))
    }
    assert set(METRICS) - shown == set()


def test_the_dashboard_is_whole(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert {panel["type"] for panel in panels} == {"row", "stat", "timeseries"}
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    text = json.dumps(dashboard)
    used = set(re.findall(r"\$\{?(\w+)", text)) - {"__rate_interval", "__all"}
    assert used == variables
    for panel in panels:
        assert panel["title"]
        references = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(references)) == len(references)
        assert bool(references) == (panel["type"] != "row")
    boxes = [panel["gridPos"] for panel in panels]
    assert all(box["x"] + box["w"] <= 24 for box in boxes)
    assert not [
        (a, b)
        for a, b in combinations(boxes, 2)
        if a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"]
        and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]
    ]  # fmt: skip
    assert all(a["y"] <= b["y"] for a, b in pairwise(boxes))
