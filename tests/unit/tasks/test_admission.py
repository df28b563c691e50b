"""Checks of what clients ask for."""

from __future__ import annotations

import pytest

from asya.errors import TransportUnavailable
from asya.tasks.admission import Gate, seconds
from asya.tasks.input_schema import Schemas
from asya.tasks.mesh import FlowSpec
from asya.tasks.refusals import Kind, Refusal


@pytest.mark.parametrize(
    ("given", "found"), [("30s", 30), ("500ms", 0.5), ("1.5", 1.5), (2, 2), (0.25, 0.25), ("0", 0)]
)
def test_a_duration_is_a_text_or_a_number(given, found):
    assert seconds(given, "?wait") == found


@pytest.mark.parametrize("given", ["", "soon", "-1s", "1e3", "9" * 50, -0.1, 1e12, float("nan")])
def test_what_is_no_duration_is_refused(given):
    with pytest.raises(Refusal, match=r"\?wait"):
        seconds(given, "?wait")


async def test_a_queue_that_was_full_is_asked_again_soon(mesh, monkeypatch):
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


async def test_a_queue_whose_depth_is_not_known_is_open(mesh, monkeypatch):
    async def unknown(actor):
        raise TransportUnavailable("no answer")

    monkeypatch.setattr(mesh, "ready", unknown)
    await Gate(mesh, queue_max=0).check(["a"])


def faults(schema, payload) -> set[tuple[str, str]]:
    return {
        (fault.path, fault.message)
        for fault in Schemas().faults(FlowSpec("f", ("a",), input_schema=schema), payload)
    }


def test_faults_name_deep_paths():
    schema = {
        "properties": {"rows": {"items": {"required": ["id", "odd name"]}}, "n": {"maximum": 3}}
    }
    assert faults(schema, {"rows": [{"id": 1, "odd name": 2}], "n": 3}) == set()
    assert faults(schema, {"rows": [{"id": 1, "odd name": 2}, {}], "n": 4}) == {
        ("$.rows[1].id", "'id' is required"),
        ("$.rows[1]['odd name']", "'odd name' is required"),
        ("$.n", "4 is greater than the maximum of 3"),
    }


def test_faults_are_bounded():
    schema = {"items": {"type": "string"}}
    assert len(faults(schema, list(range(1000)))) == 20


@pytest.mark.parametrize(
    "schema", [{"type": "strnig"}, {"$ref": "#/nowhere"}, {"$ref": "http://127.0.0.1:9/schema"}]
)
def test_a_schema_that_cannot_be_used_is_the_meshs_fault(schema):
    with pytest.raises(Refusal, match="the input schema of the flow f cannot be used") as caught:
        faults(schema, 1)
    assert caught.value.kind is Kind.INTERNAL
