"""Checks of what clients ask for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import Raw
from tests.support.task_service import ListMesh

from asya.errors import TransportUnavailable
from asya.tasks.admission import (
    Gate,
    begin_time,
    check_headers,
    check_id,
    check_payload,
    check_route,
    digest,
    find_flow,
    seconds,
)
from asya.tasks.mesh import FlowSpec
from asya.tasks.refusals import Kind, Refusal

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "found"), [("30s", 30), ("500ms", 0.5), ("1.5", 1.5), (2, 2), (0.25, 0.25), ("0", 0)]
)
def test_a_duration_is_a_text_or_a_number(given: Any, found: float) -> None:
    assert seconds(given, "?wait") == found


@pytest.mark.parametrize("given", ["", "soon", "-1s", "1e3", "9" * 50, -0.1, 1e12, float("nan")])
def test_what_is_no_duration_is_refused(given: Any) -> None:
    with pytest.raises(Refusal, match=r"\?wait"):
        seconds(given, "?wait")


async def test_a_queue_that_was_full_is_asked_again_soon(
    mesh: ListMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a full queue, when it has drained and half a second has passed, then it is open."""
    now = [100.0]
    monkeypatch.setattr("asya.tasks.admission.time.monotonic", lambda: now[0])
    gate = Gate(mesh, queue_max=5)
    mesh.depths["a"] = 5
    with pytest.raises(Refusal):
        await gate.check(["a"])
    mesh.depths["a"] = 0
    now[0] += 0.4
    with pytest.raises(Refusal):
        await gate.check(["a"])
    now[0] += 0.2
    await gate.check(["a"])
    assert mesh.asked == 2


async def test_a_queue_whose_depth_is_not_known_is_open(
    mesh: ListMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unknown(actor: str) -> int:
        raise TransportUnavailable("no answer")

    monkeypatch.setattr(mesh, "ready", unknown)
    await Gate(mesh, queue_max=0).check(["a"])


def test_begin_times() -> None:
    assert begin_time(None, None, NOW, "?") is None
    assert begin_time("10m", None, NOW, "?") == NOW + timedelta(minutes=10)
    assert begin_time(None, "10m", NOW, "?") == NOW + timedelta(minutes=10)
    assert begin_time(None, 2.5, NOW, "?") == NOW + timedelta(seconds=2.5)
    assert begin_time("2026-02-01T00:00:00+01:00", None, NOW, "?") == datetime(
        2026, 1, 31, 23, tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("not_before", "delay", "said"),
    [
        ("10m", "10m", "not both"),
        ("tomorrow", None, "RFC 3339"),
        ("2026-02-01T00:00:00", None, "with an offset"),
        ("2028-01-01T00:00:00Z", None, "within the next year"),
        ("0001-01-01T00:00:00+23:59", None, "RFC 3339"),
        (None, "never", "expected a duration"),
        (None, -1.0, "expected 0 to"),
    ],
)
def test_a_begin_time_that_cannot_be_used_is_refused(
    not_before: str | None, delay: str | float | None, said: str
) -> None:
    with pytest.raises(Refusal) as caught:
        begin_time(not_before, delay, NOW, "?")
    assert said in caught.value.text


def test_a_flow_that_does_not_exist_is_refused_with_the_nearest() -> None:
    flows = {"search": FlowSpec("search", ("a",))}
    assert find_flow(flows, "search").route == ("a",)
    with pytest.raises(Refusal) as caught:
        find_flow(flows, "serach")
    assert (caught.value.kind, caught.value.nearest) == (Kind.UNKNOWN_FLOW, "search")


@pytest.mark.parametrize(
    ("refused", "path"),
    [
        (lambda: check_id("a b"), "$.id"),
        (lambda: check_id("-a"), "$.id"),
        (lambda: check_id("x" * 129), "$.id"),
        (lambda: check_route([]), "$.route"),
        (lambda: check_route(["A"]), "$.route"),
        (lambda: check_headers({"X-Asya-Hop": 1}), "$.headers"),
    ],
)
def test_what_cannot_be_admitted_names_its_place(refused: Callable[[], None], path: str) -> None:
    with pytest.raises(Refusal) as caught:
        refused()
    assert caught.value.kind is Kind.INVALID
    assert [fault.path for fault in caught.value.faults] == [path]


def test_a_payload_over_the_limit_is_refused() -> None:
    check_payload(Raw(b"123"), 3)
    with pytest.raises(Refusal) as caught:
        check_payload(Raw(b"1234"), 3)
    assert caught.value.kind is Kind.TOO_LARGE


def test_a_digest_tells_routes_and_payloads_apart() -> None:
    same = digest(["a", "b"], Raw(b"1"))
    assert same == digest(("a", "b"), Raw(b"1"))
    assert len({same, digest(["a"], Raw(b"1")), digest(["a", "b"], Raw(b"1 "))}) == 3
