"""The frames on the Unix socket between sidecar and runtime: packing and parsing, no input/output.

A frame is a 4-byte length N of what follows, a 4-byte length H, H bytes of a JSON object (the
header), then raw parts; all lengths big-endian. `header["parts"]` lists the sizes of the parts and
`sum(parts) + H + 4 == N`. Both ends ignore kinds (`header["k"]`) that they do not know.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

    Part = Union[bytes, memoryview]
    Frame = Tuple[Dict[str, Any], List[Part]]

VERSION = 1
"""Of the protocol, as said in `hello`."""

FRAME_MAX = 256 * 1024 * 1024
"""Bytes after the first length. A longer frame is refused by both ends."""

LONG = 64 * 1024
"""A frame or a part of more bytes is not copied where that can be helped."""

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
    return pack_text(header_text(header), parts)


def header_text(header: Dict[str, Any]) -> bytes:
    """A header as JSON."""
    # A lone surrogate can only stand in a text about an error; the peer must still be able to read.
    return _encode(header).encode("utf-8", "replace")


def pack_text(header: bytes, parts: Sequence[bytes] = ()) -> bytes:
    """One frame whose header is JSON already, with `parts` listed in it.

    Raises:
        FrameError: The frame would be over `FRAME_MAX`.
    """
    return b"".join((_lengths(len(header), sum(map(len, parts))), header, *parts))


def pack_pieces(header: bytes, part: bytes) -> Tuple[bytes, ...]:
    """The same with one part, to be written piece by piece: joining a long one would copy it.

    Raises:
        FrameError: The frame would be over `FRAME_MAX`.
    """
    if len(part) > LONG:
        return _lengths(len(header), len(part)) + header, part
    return (pack_text(header, (part,)),)


def _lengths(header: int, parts: int) -> bytes:
    length = LENGTH_SIZE + header + parts
    if length > FRAME_MAX:
        raise FrameError(f"{length} bytes do not fit into a frame, which holds {FRAME_MAX}")
    return length.to_bytes(4, "big") + header.to_bytes(4, "big")


def parse(body: Union[bytes, memoryview]) -> Frame:
    """Header and parts of a frame, from the bytes that follow its first length.

    Of a view, parts over `LONG` are views, too.

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
    parts: List[Part] = []
    for size in header.get("parts", ()):
        if type(size) is not int or size < 0:
            raise FrameError(f"{size!r} is no size of a part")
        part = body[start : start + size]
        parts.append(part if size > LONG else bytes(part))
        start += size
    if start != len(body):
        raise FrameError(f"parts that end at byte {start} in a frame of {len(body)}")
    return header, parts


class FrameParser:
    """Cuts a stream of bytes into frames.

    Holds at most one incomplete frame; memory is bounded by `FRAME_MAX` and the size of a read. The
    rest of a frame over `LONG` can be read right into its place: see `room`.
    """

    def __init__(self) -> None:
        self._pending = bytearray()
        self._missing = 0
        self._long: Optional[memoryview] = None
        self._filled = 0

    def room(self) -> Optional[memoryview]:
        """Where the rest of a long frame belongs: fill some of it and call `filled`.

        None where no long frame is under way: read anew, and call `feed`.
        """
        return None if self._long is None else self._long[self._filled :]

    def filled(self, count: int) -> List[Frame]:
        """The long frame, once the `count` bytes that were put into `room` complete it.

        Raises:
            FrameError: See `parse`.
        """
        assert self._long is not None
        self._filled += count
        if self._filled < len(self._long):
            return []
        whole, self._long = self._long, None
        return [parse(whole[LENGTH_SIZE:])]

    def feed(self, data: Union[bytes, bytearray]) -> List[Frame]:
        """The frames that `data` completes, in their order.

        Raises:
            FrameError: See `parse`; the stream cannot be read on after it.
        """
        room = self.room()
        if room is not None:
            count = min(len(room), len(data))
            room[:count] = data[:count]
            done = self.filled(count)
            return done + self.feed(data[count:]) if count < len(data) else done
        if self._pending:
            self._pending += data
            if len(self._pending) < self._missing:
                return []
            data, self._pending = self._pending, bytearray()
        frames: List[Frame] = []
        at = 0
        size = len(data)
        while size - at >= LENGTH_SIZE:
            length = int.from_bytes(data[at : at + LENGTH_SIZE], "big")
            if not LENGTH_SIZE <= length <= FRAME_MAX:
                raise FrameError(f"a frame of {length} bytes; allowed are 4 to {FRAME_MAX}")
            end = at + LENGTH_SIZE + length
            if end > size:
                if length > LONG:
                    self._begin_long(end - at, data[at:])
                    return frames
                self._missing = end - at
                break
            # a view, so that a payload of megabytes is not copied
            frames.append(parse(memoryview(data)[at + LENGTH_SIZE : end]))
            at = end
        else:
            self._missing = LENGTH_SIZE
        self._pending += data[at:]
        return frames

    def _begin_long(self, size: int, begin: Union[bytes, bytearray]) -> None:
        self._long = memoryview(bytearray(size))
        self._long[: len(begin)] = begin
        self._filled = len(begin)
