"""JSON answers from structs, and problem documents."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from asya.gateway.http.problems import HttpProblem, problem_of
from asya.tasks.refusals import Refusal

_encode = msgspec.json.Encoder().encode


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A struct as JSON; raw fields go out as they are."""
    return Response(_encode(value), status, headers, media_type="application/json")


def problem_response(
    error: Refusal | HttpProblem, headers: dict[str, str] | None = None
) -> Response:
    """The problem document of a refusal."""
    all_headers = dict(headers or {})
    if error.retry_after_s is not None:
        all_headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, HttpProblem) and error.allow is not None:
        all_headers["Allow"] = error.allow
    document = problem_of(error)
    if document.status in {408, 413}:  # the rest of the body will not be read
        all_headers["Connection"] = "close"
    return Response(
        _encode(document), document.status, all_headers, media_type="application/problem+json"
    )
