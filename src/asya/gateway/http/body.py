"""Request bodies: read within bounds of size, time and memory, and checked to be JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Raw
from starlette.requests import Request

from asya.gateway.http.problems import HttpProblem
from asya.tasks.input_schema import member_path
from asya.tasks.refusals import Fault, Kind, Refusal

BODY_TIMEOUT_S: Final = 30.0
"""Seconds within which a body must have arrived."""

BODIES_MAX_BYTES: Final = 256 * 1024 * 1024
"""Bytes of all bodies that may be held at a time."""

T = TypeVar("T")
_decode_any = msgspec.json.Decoder().decode
_decode_raw = msgspec.json.Decoder(Raw).decode


class _Hold:
    """Bytes that one body has reserved."""

    def __init__(self, size: int) -> None:
        self.size = size


class Bodies:
    """Reads bodies, and bounds the memory that all of them take together.

    Args:
        body_max_bytes: The largest body.
    """

    def __init__(self, body_max_bytes: int) -> None:
        self._body_max = body_max_bytes
        self._all_max = max(BODIES_MAX_BYTES, body_max_bytes)
        self.held_bytes = 0

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The body, for the time of the block.

        Raises:
            HttpProblem: Not JSON by its media type, or too slow.
            Refusal: Too large, or no room now.
        """
        _check_media_type(request)
        announced = _announced(request)
        self._check_size(announced)
        self._reserve(announced)
        hold = _Hold(announced)
        try:
            data = await self._receive(request, hold)
            yield data
        finally:
            self.held_bytes -= hold.size

    async def _receive(self, request: Request, hold: _Hold) -> bytes:
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                async for chunk in request.stream():
                    size += len(chunk)
                    self._check_size(size)
                    if size > hold.size:
                        self._reserve(size - hold.size)
                        hold.size = size
                    parts.append(chunk)
        except TimeoutError:
            raise HttpProblem(
                "body-timeout", f"the body did not arrive within {BODY_TIMEOUT_S:.0f} seconds"
            ) from None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _check_size(self, size: int) -> None:
        if size > self._body_max:
            raise Refusal(Kind.TOO_LARGE, f"a body may have {self._body_max} bytes")

    def _reserve(self, size: int) -> None:
        if self.held_bytes + size > self._all_max:
            raise Refusal(
                Kind.UNAVAILABLE, "too many large bodies arrive at the same time", retry_after_s=1
            )
        self.held_bytes += size


def _check_media_type(request: Request) -> None:
    given = request.headers.get("content-type")
    if given is None:
        return
    kind = given.split(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and "+json" in kind):
        raise HttpProblem(
            "not-json-type",
            f"the body has the media type {kind or 'nothing'}; send JSON with the header "
            "`Content-Type: application/json`",
        )


def _announced(request: Request) -> int:
    given = request.headers.get("content-length", "0")
    return int(given) if given.isascii() and given.isdigit() and len(given) < 16 else 0


def parse(data: bytes, *, values: bool = True) -> tuple[Any, Raw]:
    """A JSON text as values and as raw bytes, surrounding white space left out.

    A payload is any JSON value, also one that Python has no value for (`1e400`). So the text is
    only validated unless values are wanted, which takes a thirtieth of the time.

    Args:
        data: The text.
        values: Whether the values are wanted; without, they are None.

    Raises:
        HttpProblem: It is not JSON.
        Refusal: With `values`, a number is too large to be compared.
    """
    try:
        if not data.isascii():
            data.decode()
        raw = _decode_raw(data)
        return (_built(data) if values else None), raw
    except RecursionError:
        raise HttpProblem("not-json", "the JSON is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise HttpProblem("not-json", f"the body is not UTF-8: {error.reason}") from error
    except msgspec.DecodeError as error:
        detail = str(error) if data.strip() else "the body is empty; send a JSON value"
        raise HttpProblem("not-json", detail) from error


def _built(data: bytes) -> Any:
    """The values of a text that is JSON."""
    try:
        return _decode_any(data)
    except msgspec.ValidationError as error:
        # The path in msgspec's message has no keys.
        path = _path_of_overflow(data)
        said = "the number is too large for a schema to be applied"
        raise Refusal(
            Kind.INVALID_PAYLOAD,
            f"the payload cannot be compared with the input schema: {path}: {said}",
            faults=[Fault(path, said)],
        ) from error


def _path_of_overflow(data: bytes) -> str:
    """The path of the first number that is too large for a float, or has too many digits."""
    loaded = json.loads(data, parse_int=_int_or_infinity)
    left: list[tuple[str, Any]] = [("$", loaded)]
    while left:
        path, value = left.pop()
        if isinstance(value, dict):
            left += [(member_path(path, key), each) for key, each in reversed(value.items())]
        elif isinstance(value, list):
            left += [(f"{path}[{i}]", value[i]) for i in reversed(range(len(value)))]
        elif isinstance(value, float) and math.isinf(value):
            return path
    return "$"


def _int_or_infinity(digits: str) -> float:
    try:
        return int(digits)
    except ValueError:  # more digits than Python converts
        return math.inf


def parse_as(kind: type[T], data: bytes) -> T:
    """A JSON text as a struct.

    Raises:
        HttpProblem: Not JSON.
        Refusal: A field is missing, unknown or of a wrong type.
    """
    parse(data, values=False)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `")
        fault = Fault(path.rstrip("`") or "$", message)
        raise Refusal(Kind.INVALID, str(error), faults=[fault]) from error
