"""The OpenAPI document: true to the code, whole, and the same as in the docs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from asya.gateway.http.openapi import document, text
from asya.gateway.http.operations import OPERATIONS, Operation
from asya.gateway.http.problems import PROBLEM_TYPES

DOCS = Path(__file__).parents[4] / "docs" / "reference"


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_the_docs_hold_this_document() -> None:
    """`python -m asya.gateway.http.openapi > docs/reference/openapi.json` makes it anew."""
    assert (DOCS / "openapi.json").read_text() == text()


def test_every_reference_leads_somewhere() -> None:
    made = document()
    for reference in references(made):
        target: Any = made
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


def test_every_schema_is_one() -> None:
    made = document()
    for schema in made["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation_is_whole(operation: Operation) -> None:
    made = document()["paths"][operation.path][operation.method.lower()]
    in_path = set(re.findall(r"{(\w+)}", operation.path))
    assert (
        {p["name"] for p in made["parameters"] if p["in"] == "path"} == in_path if in_path else True
    )
    assert made["operationId"] == operation.name
    assert ("requestBody" in made) == (operation.body is not None)
    for status, response in made["responses"].items():
        if int(status) >= 400:
            assert "application/problem+json" in response["content"]


def test_every_problem_and_operation_is_explained() -> None:
    page = (DOCS / "http.md").read_text()
    for name, (status, _, code) in PROBLEM_TYPES.items():
        assert f"| `{name}` | `{code}` | {status} |" in page
    for operation in OPERATIONS:
        assert f"`{operation.method} {operation.path}`" in page
