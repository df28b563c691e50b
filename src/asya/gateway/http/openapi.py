"""The OpenAPI 3.1 document.

It is made from the table of operations, and from the structs of `requests` and `views`.
`docs/reference/openapi.json` is this document; `python -m asya.gateway.http.openapi` prints it and a
test fails when the file is another.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import msgspec

import asya
from asya.gateway.http import views
from asya.gateway.http.operations import COMMON_PROBLEMS, EVENT_MODELS, OPERATIONS, Operation
from asya.gateway.http.problems import PROBLEM_TYPES
from asya.gateway.http.query import entry, parameters
from asya.gateway.http.requests import PATH_PARAMETERS

_REF: Final = "#/components/schemas/{name}"
_IN_PATH: Final = re.compile(r"{(\w+)}")
_PROBLEM: Final = "application/problem+json"


def document() -> dict[str, Any]:
    """The whole document as JSON values."""
    models = _models()
    _, schemas = msgspec.json.schema_components(models, ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Asya gateway",
            "version": asya.__version__,
            "description": "Send envelopes into the mesh, follow them, cancel them. Every error "
            "is a problem document (RFC 9457).",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.items()))},
    }


def _models() -> list[Any]:
    models: list[Any] = [views.Problem, *EVENT_MODELS]
    for operation in OPERATIONS:
        models += [model for _, model in operation.answers.values()]
        models.append(operation.body)
    structs = [model for model in models if isinstance(model, msgspec.StructMeta)]
    return list(dict.fromkeys(structs))


def _operation(operation: Operation) -> dict[str, Any]:
    made: dict[str, Any] = {"operationId": operation.name, "summary": operation.summary}
    declared = [
        *(entry(name, "path", PATH_PARAMETERS[name]) for name in _IN_PATH.findall(operation.path)),
        *parameters(operation.query, "query"),
        *parameters(operation.headers, "header"),
    ]
    if declared:
        made["parameters"] = declared
    if operation.body is not None:
        made["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _schema(operation.body)}},
        }
    responses: dict[str, Any] = {}
    for status, (description, model) in operation.answers.items():
        responses[str(status)] = {"description": description}
        if model is not None:
            responses[str(status)]["content"] = {operation.media: {"schema": _schema(model)}}
    responses |= _problems(operation)
    made["responses"] = dict(sorted(responses.items()))
    return made


def _schema(model: Any) -> dict[str, Any]:
    if model is Any:
        return {"description": "Any JSON value"}
    if isinstance(model, dict):
        return model
    return {"$ref": _REF.format(name=model.__name__)}


def _problems(operation: Operation) -> dict[str, Any]:
    names: dict[int, list[str]] = {}
    strict = ("invalid",) if operation.strict else ()
    for name in (*operation.problems, *strict, *COMMON_PROBLEMS):
        names.setdefault(PROBLEM_TYPES[name][0], []).append(name)
    schema = {"$ref": _REF.format(name="Problem")}
    made: dict[str, Any] = {}
    for status, kinds in sorted(names.items()):
        titles = "; ".join(f"`{name}`: {PROBLEM_TYPES[name][1]}" for name in dict.fromkeys(kinds))
        made[str(status)] = {"description": titles, "content": {_PROBLEM: {"schema": schema}}}
        if status in {429, 503, 507}:
            made[str(status)]["headers"] = {
                "Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}
            }
    return made


def text() -> str:
    """The document as it stands in the docs."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(text())
