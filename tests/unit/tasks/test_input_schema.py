"""Payloads against a flow's JSON Schema: which places are named, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from asya.tasks import input_schema
from asya.tasks.input_schema import Schemas, member_path
from asya.tasks.mesh import FlowSpec
from asya.tasks.refusals import Kind, Refusal


def faults(schema: Mapping[str, Any], payload: Any) -> set[tuple[str, str]]:
    return {
        (fault.path, fault.message)
        for fault in Schemas().faults(FlowSpec("f", ("a",), input_schema=schema), payload)
    }


def test_faults_name_deep_paths() -> None:
    schema = {
        "properties": {"rows": {"items": {"required": ["id", "odd name"]}}, "n": {"maximum": 3}}
    }
    assert faults(schema, {"rows": [{"id": 1, "odd name": 2}], "n": 3}) == set()
    assert faults(schema, {"rows": [{"id": 1, "odd name": 2}, {}], "n": 4}) == {
        ("$.rows[1].id", "'id' is required"),
        ("$.rows[1]['odd name']", "'odd name' is required"),
        ("$.n", "4 is greater than the maximum of 3"),
    }


def test_faults_are_bounded() -> None:
    schema = {"items": {"type": "string"}}
    assert len(faults(schema, list(range(1000)))) == 20


@pytest.mark.parametrize(
    "schema", [{"type": "strnig"}, {"$ref": "#/nowhere"}, {"$ref": "http://127.0.0.1:9/schema"}]
)
def test_a_schema_that_cannot_be_used_is_the_meshs_fault(schema: Mapping[str, Any]) -> None:
    with pytest.raises(Refusal, match="the input schema of the flow f cannot be used") as caught:
        faults(schema, 1)
    assert caught.value.kind is Kind.INTERNAL


@pytest.mark.parametrize("size_bytes", [10, input_schema.INLINE_MAX_BYTES + 1])
async def test_a_payload_that_does_not_fit_is_refused_with_its_places(size_bytes: int) -> None:
    flow = FlowSpec("f", ("a",), input_schema={"required": ["q"]})
    schemas = Schemas()
    await schemas.check(flow, {"q": 1}, size_bytes)
    with pytest.raises(Refusal) as caught:
        await schemas.check(flow, {}, size_bytes)
    assert caught.value.kind is Kind.INVALID_PAYLOAD
    assert [fault.path for fault in caught.value.faults] == ["$.q"]


async def test_a_flow_without_a_schema_takes_anything() -> None:
    await Schemas().check(FlowSpec("f", ("a",)), object(), 1)


def test_a_schema_that_was_changed_is_read_again() -> None:
    schemas = Schemas()
    assert schemas.faults(FlowSpec("f", ("a",), input_schema={"type": "string"}), "x") == []
    assert schemas.faults(FlowSpec("f", ("a",), input_schema={"type": "integer"}), "x") != []


@pytest.mark.parametrize(
    ("name", "path"), [("id", "$.id"), ("odd name", "$['odd name']"), ("1", "$['1']")]
)
def test_paths_of_members(name: str, path: str) -> None:
    assert member_path("$", name) == path
