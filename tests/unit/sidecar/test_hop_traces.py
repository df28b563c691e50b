"""The trace context on its way through a mesh: every hop is a child of the one before."""

from __future__ import annotations

from typing import Any

from asya.events import HopStarted
from asya.resiliency import Policy, Resiliency
from asya.testing.box import MeshBox, play
from asya.tracecontext import parse, span_id

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
GIVEN = f"00-{TRACE}-00f067aa0ba902b7-01"
HEADERS = {"traceparent": GIVEN, "tracestate": "vendor=1"}


def spans(box: MeshBox) -> dict[tuple[str, int, int], str]:
    """Parent's span id by (envelope, hop, attempt)."""
    found = {}
    for event in box.ledger.events:
        if isinstance(event, HopStarted) and event.traceparent:
            trace = parse(event.traceparent)
            assert trace is not None
            assert trace.trace_id == TRACE
            found[event.id, event.n, event.attempt] = trace.span_id
    return found


def see(payload: Any) -> Any:
    seen = yield "GET", ".headers.traceparent"
    yield [*payload, seen]


def test_hops_are_children_of_one_another_and_handlers_see_their_own() -> None:
    async def scene(box: MeshBox) -> None:
        end = await box.run(["a", "b"], [], id="e", headers=HEADERS)
        first, second = span_id("e", 0, 1), span_id("e", 1, 1)
        assert spans(box) == {("e", 0, 1): "00f067aa0ba902b7", ("e", 1, 1): first}
        assert end.value == [f"00-{TRACE}-{first}-01", f"00-{TRACE}-{second}-01"]
        assert end.headers["tracestate"] == "vendor=1"

    play({"a": see, "b": see}, scene)


def test_the_children_of_a_fan_out_have_the_hop_that_made_them_as_parent() -> None:
    def fan(payload: Any) -> Any:
        yield 1
        yield 2

    async def scene(box: MeshBox) -> None:
        await box.run(["fan", "b"], 0, id="e", headers=HEADERS)
        child = next(e.id for e in box.ledger.events if e.id != "e")
        await box.end_of(child)
        fanned = span_id("e", 0, 1)
        assert {key: spans(box)[key] for key in (("e", 1, 1), (child, 1, 1))} == {
            ("e", 1, 1): fanned,
            (child, 1, 1): fanned,
        }

    play({"fan": fan, "b": lambda payload: payload}, scene)


def test_attempts_are_siblings_and_the_next_hop_follows_the_last() -> None:
    tries: list[int] = []

    def flaky(payload: Any) -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("not yet")
        return payload

    async def scene(box: MeshBox) -> None:
        await box.run(["a", "b"], 0, id="e", headers=HEADERS)
        assert spans(box) == {
            ("e", 0, 1): "00f067aa0ba902b7",
            ("e", 0, 2): "00f067aa0ba902b7",
            ("e", 1, 1): span_id("e", 0, 2),
        }

    twice = Resiliency(policies={"default": Policy("default", max_attempts=2)})
    play({"a": flaky, "b": lambda payload: payload}, scene, resiliency=twice)


def test_a_failed_envelope_keeps_the_header_as_it_was_sent() -> None:
    def broken(payload: Any) -> Any:
        raise ValueError("no")

    async def scene(box: MeshBox) -> None:
        end = await box.run(["a"], 0, headers=HEADERS)
        assert end.phase == "failed"
        assert end.headers["traceparent"] == GIVEN

    play({"a": broken}, scene)


def test_a_handler_may_name_a_span_of_its_own() -> None:
    other = f"00-{TRACE}-00000000000000aa-01"

    def own(payload: Any) -> Any:
        yield "SET", ".headers.traceparent", other
        yield payload

    async def scene(box: MeshBox) -> None:
        await box.run(["a", "b"], 0, id="e", headers=HEADERS)
        assert spans(box)["e", 1, 1] == "00000000000000aa"

    play({"a": own, "b": lambda payload: payload}, scene)


def test_what_is_no_traceparent_travels_on_untouched() -> None:
    async def scene(box: MeshBox) -> None:
        end = await box.run(["a"], 0, headers={"traceparent": "mine"})
        assert end.headers["traceparent"] == "mine"
        end = await box.run(["a"], 0)
        assert "traceparent" not in end.headers

    play({"a": lambda payload: payload}, scene)
