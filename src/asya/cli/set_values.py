"""`--set PATH=VALUE`: what the user wrote, as path and JSON value."""

from __future__ import annotations

import json
from typing import Any

from asya.errors import UsageError
from asya.runtime.paths import parse_path


def read_assignment(text: str) -> dict[str, Any]:
    """`.payload.x=1` as `{"path": ".payload.x", "value": 1}`; what is no JSON is a text.

    Raises:
        UsageError: There is no path, or no `=` after it.
    """
    at = text.find("=")
    problem = "it has no ="
    while at >= 0:
        path = text[:at]
        try:
            parse_path(path)
        except ValueError as error:  # the = may stand in quotes
            problem = str(error)
        else:
            return {"path": path, "value": _value(text[at + 1 :])}
        at = text.find("=", at + 1)
    raise UsageError(f"--set {text!r}: expected PATH=VALUE such as .payload.x=1; {problem}")


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=lambda constant: constant)
    except (ValueError, RecursionError):
        return text
