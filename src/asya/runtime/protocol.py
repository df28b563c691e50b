"""The frames on the Unix socket between sidecar and runtime: packing and parsing, no input/output.

A frame is a 4-byte length N of what follows, a 4-byte length H, H bytes of a JSON object (the
header), then raw parts; all lengths big-endian. `header["parts"]` lists the sizes of the parts and
`sum(parts) + H + 4 == N`. Both ends ignore kinds (`header["k"]`) that they do not know.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Sequence, Tuple, Union

    Frame = Tuple[Dict[str, Any], List[bytes]]

VERSION = 1
"""Of the protocol, as said in `hello`."""

FRAME_MAX = 256 * 1024 * 1024
"""Bytes after the first length. A longer frame is refused by both ends."""

LENGTH_SIZE = 4
EXIT_NOT_LOADED = 3
"""Exit code of a runtime whose handler could not be loaded; it has said `failed` before."""

HELLO = "hello"
FAILED = "failed"
FRAME = "frame"
FLY = "fly"
DONE = "done"
ERROR = "error"
CANCELED = "canceled"
TERMINATING = "terminating"
FILES = "files"
CALL = "call"
CANCEL = "cancel"
BYE = "bye"
KIND_HANDLE = "handle"

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


class FrameError(ValueError):
    """The bytes are no frame of this protocol, or the frame is over `FRAME_MAX`."""


def pack(header: Dict[str, Any], parts: Sequence[bytes] = ()) -> bytes:
    """One frame. `parts` are listed in the header by this function.

    Raises:
        FrameError: The frame would be over `FRAME_MAX`.
    """
    if parts:
        header = dict(header, parts=[len(part) for part in parts])
    # A lone surrogate can only stand in a text about an error; the peer must still be able to read.
    return pack_text(_encode(header).encode("utf-8", "replace"), parts)


def pack_text(header: bytes, parts: Sequence[bytes] = ()) -> bytes:
    """One frame whose header is JSON already, with `parts` listed in it.

    Raises:
        FrameError: The frame would be over `FRAME_MAX`.
    """
    size = len(header)
    length = LENGTH_SIZE + size + sum(map(len, parts))
    if length > FRAME_MAX:
        raise FrameError(f"{length} bytes do not fit into a frame, which holds {FRAME_MAX}")
    return b"".join((length.to_bytes(4, "big"), size.to_bytes(4, "big"), header, *parts))


def parse(body: Union[bytes, memoryview]) -> Frame:
    """Header and parts of a frame, from the bytes that follow its first length.

    Raises:
        FrameError: The lengths do not add up, or the header is no JSON object.
    """
    start = LENGTH_SIZE + int.from_bytes(body[:LENGTH_SIZE], "big")
    if start > len(body):
        raise FrameError(f"a header of {start - LENGTH_SIZE} bytes in a frame of {len(body)}")
    try:
        header = _decode(str(body[LENGTH_SIZE:start], "utf-8"))
    except (ValueError, RecursionError) as error:
        raise FrameError(f"the header of a frame is no JSON: {error}") from error
    if type(header) is not dict:
        raise FrameError("the header of a frame is no JSON object")
    parts = []
    for size in header.get("parts", ()):
        if type(size) is not int or size < 0:
            raise FrameError(f"{size!r} is no size of a part")
        parts.append(bytes(body[start : start + size]))
        start += size
    if start != len(body):
        raise FrameError(f"parts that end at byte {start} in a frame of {len(body)}")
    return header, parts


class FrameParser:
    """Cuts a stream of bytes into frames.

    Holds at most one incomplete frame; memory is bounded by `FRAME_MAX` and the size of a read.
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self._missing = 0

    def feed(self, data: Union[bytes, bytearray]) -> List[Frame]:
        """The frames that `data` completes, in their order.

        Raises:
            FrameError: See `parse`; the stream cannot be read on after it.
        """
        if self._pending:
            self._pending += data
            if len(self._pending) < self._missing:
                return []
            data, self._pending = self._pending, bytearray()
        frames = []
        at = 0
        size = len(data)
        while size - at >= LENGTH_SIZE:
            length = int.from_bytes(data[at : at + LENGTH_SIZE], "big")
            if not LENGTH_SIZE <= length <= FRAME_MAX:
                raise FrameError(f"a frame of {length} bytes; allowed are 4 to {FRAME_MAX}")
            end = at + LENGTH_SIZE + length
            if end > size:
                self._missing = end - at
                break
            # a view, so that a payload of megabytes is copied once
            frames.append(parse(memoryview(data)[at + LENGTH_SIZE : end]))
            at = end
        else:
            self._missing = LENGTH_SIZE
        self._pending += data[at:]
        return frames
