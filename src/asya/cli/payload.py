"""What the user gives as a payload: checked to be JSON, and sent as it is, byte for byte."""

from __future__ import annotations

import json
import sys
from typing import NoReturn

from asya.codes import Code
from asya.errors import UsageError


def read_payload(text: str) -> bytes:
    """The JSON of the argument, or of stdin where it is `-`.

    Raises:
        UsageError: It is not JSON.
    """
    if text == "-":
        return check_json(sys.stdin.buffer.read(), "what came on stdin")
    return check_json(text.encode("utf-8", "surrogateescape"), "the payload")


def check_json(data: bytes, where: str) -> bytes:
    """The bytes, when they are one JSON value.

    Raises:
        UsageError: They are not; the text says where and why.
    """

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} does not exist there")

    try:
        json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where} is not JSON: {error}", code=Code.PAYLOAD_NOT_JSON) from error
    return data
