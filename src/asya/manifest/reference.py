"""JSON Schema of the kinds, and the field tables of the docs, both from the model.

Called by `asya schema` and by `docs/generate.py`, which renders the schemas of settings and
envelope by the same `markdown`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from asya import envelope
from asya.manifest.model import KINDS

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of `AsyncActor`, `Flow`, `Schedule` or `Envelope`.

    Raises:
        KeyError: Another kind.
    """
    if kind == "Envelope":
        return envelope.json_schema()
    schema = KINDS[kind].model_json_schema(by_alias=True, mode="validation")
    body = {key: _tidy(value) for key, value in schema.items()}
    return {"$schema": DIALECT, "title": kind} | body | {"title": kind}


def _tidy(value: Any) -> Any:
    """Without the titles that pydantic makes up, and with one way to say "or null"."""
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _tidy(item)
        for key, item in value.items()
        if not (key == "title" and isinstance(item, str))
    }


def reference_markdown(kind: str) -> str:
    """The field table of a kind, for the docs."""
    return markdown(json_schema(kind))


def markdown(schema: dict[str, Any]) -> str:
    """A table of all fields of a schema, nested ones by their path."""
    lines = ["| field | type | default | meaning |", "|---|---|---|---|"]
    lines += _rows(schema, schema, "")
    return "\n".join(lines) + "\n"


def _rows(schema: dict[str, Any], root: dict[str, Any], prefix: str) -> Iterator[str]:
    required = schema.get("required", ())
    for name, given in schema.get("properties", {}).items():
        field = _plain(given, root)
        path = f"{prefix}{name}"
        default = "required" if name in required else _default(field)
        meaning = _meaning(given, field)
        yield f"| `{path}` | {_type(field, root)} | {default} | {meaning} |"
        yield from _rows(*_inside(field, root, path))


def _inside(field: dict[str, Any], root: dict[str, Any], path: str) -> tuple[Any, Any, str]:
    if "properties" in field:
        return field, root, f"{path}."
    if field.get("type") == "array":
        return _plain(field.get("items", {}), root), root, f"{path}[]."
    extra = field.get("additionalProperties")
    if isinstance(extra, dict):
        return _plain(extra, root), root, f"{path}.*."
    return {}, root, path


def _plain(field: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """A field with its reference followed and `or null` taken off."""
    choices = [c for c in field.get("anyOf", ()) if c.get("type") != "null"]
    if len(choices) == 1:
        rest = {key: value for key, value in field.items() if key != "anyOf"}
        field = choices[0] | rest
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        rest = {key: value for key, value in field.items() if key != "$ref"}
        field = root["$defs"][name] | rest
    return field


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    if value is None or value in ({}, [], ""):
        return ""
    if isinstance(value, dict):
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _type(field: dict[str, Any], root: dict[str, Any]) -> str:
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{choice}`" for choice in field["enum"])
    kind = field.get("type")
    if kind == "array":
        return f"list of {_type(_plain(field.get('items', {}), root), root)}"
    if kind == "object":
        return "mapping"
    if kind == "string":
        return "duration" if "ns|us" in field.get("pattern", "") else "text"
    if kind == "integer":
        return "whole number" + _bounds(field)
    names = {"number": "number", "boolean": "true, false", "null": "nothing"}
    if isinstance(kind, list):
        return " or ".join(names.get(str(item), str(item)) for item in kind)
    return names.get(str(kind), "any value")


def _bounds(field: dict[str, Any]) -> str:
    low, high = field.get("minimum"), field.get("maximum")
    if low is None:
        return ""
    return f" ≥ {low}" if high is None else f" {low} to {high}"


def _meaning(given: dict[str, Any], field: dict[str, Any]) -> str:
    text = given.get("description") or field.get("description") or ""
    return " ".join(text.split()).replace("|", "\\|")
