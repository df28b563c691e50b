"""One runtime, as the sidecar sees it: the connection, its calls, and what they emit.

The runtime dials in; frames are those of `asya.runtime.protocol` (docs/explanation/socket.md).
This file knows frames and calls, not envelopes' rules: it hands whole outcomes to its `Owner`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol, cast

import msgspec
from msgspec import Raw

from asya.envelope import Envelope, ErrorInfo, route_problem
from asya.errors import ProtocolError
from asya.runtime.protocol import FRAME_MAX, VERSION
from asya.sidecar.outcome import NO_CHANGES, Changes, Frame
from asya.tracecontext import headers_of_call

log = logging.getLogger(__name__)

ECHO_S: Final = 0.1
"""How long after a call's end what its replica prints is still taken for that call's."""

APART_BYTES: Final = 64 * 1024
"""A larger payload is handed to the socket, and cut out of what came, without further copies."""

_HEAD: Final = struct.Struct(">II")


class _Header(msgspec.Struct):
    k: str
    id: int = 0
    parts: list[int] = []
    v: int = 0
    pid: int = 0
    token: str = ""
    concurrency: int = 1
    frames: int = 0
    cooperative: bool = False
    next: list[str] | None = None
    set: dict[str, Raw] | None = None
    del_: list[str] | None = msgspec.field(default=None, name="del")
    status: dict[str, Raw] | None = None
    error: ErrorInfo | None = None
    files: list[str] = []


class _CallEnvelope(msgspec.Struct, omit_defaults=True):
    id: str
    route: Any
    headers: Mapping[str, Raw]
    status: Any
    parent_id: str | None = None


class _CallHeader(msgspec.Struct):
    k: str
    id: int
    kind: str
    envelope: _CallEnvelope
    parts: list[int]


_decode_header = msgspec.json.Decoder(_Header).decode
_encode = msgspec.json.Encoder().encode


def pack(header: Any, *parts: bytes | Raw) -> bytes:
    """One frame: lengths, header, parts."""
    head = _encode(header)
    body = b"".join(parts)
    return _HEAD.pack(4 + len(head) + len(body), len(head)) + head + body


class CallEvents(Protocol):
    """What a call tells the work it belongs to, always in the event loop."""

    def on_frame(self, frame: Frame) -> None:
        """The handler emitted a payload."""

    def on_fly(self, data: Raw) -> None:
        """The handler streamed a value to those who watch."""

    def on_running(self) -> None:
        """The runtime begins to work on it, as far as can be known from here."""

    def on_done(self, changes: Changes) -> None:
        """The handler ended well; `changes` are those in effect at its end."""

    def on_error(self, error: ErrorInfo) -> None:
        """The handler raised."""

    def on_canceled(self) -> None:
        """The handler gave way to a cancel."""

    def on_lost(self, suspects: int) -> None:
        """The runtime is gone.

        Args:
            suspects: How many calls it died of, this one among them; 0 means that this one is not
                to blame: the runtime had not begun it, or its end was our doing.
        """


class Owner(Protocol):
    """Whoever the replicas belong to."""

    def replica_ready(self, replica: Replica) -> None:
        """The handler is loaded."""

    def replica_failed(self, pid: int, error: ErrorInfo) -> None:
        """The handler cannot be loaded; the runtime ends."""

    def replica_freed(self, replica: Replica) -> None:
        """A call ended, or the replica wants no more calls."""

    def replica_gone(self, replica: Replica) -> None:
        """The connection is over. Its calls have been told."""

    def replica_files(self, replica: Replica, files: list[str]) -> None:
        """The source files that its process has imported."""

    def now(self) -> datetime:
        """The wall time."""


@dataclass(slots=True)
class _Call:
    events: CallEvents
    envelope_id: str
    running: bool = False


@dataclass(eq=False)
class Replica(asyncio.Protocol):
    """A connected runtime.

    Attributes:
        token: What its hello must say, where one is given.
        pid: Of its process; 0 before the hello.
        concurrency: Calls it works on at a time.
        cooperative: Its handler is async and can be asked to stop.
        terminating: It wants no more calls.
        reserved: Kept free for a message that must run alone.
        expected: Calls that it is kept for, whose payloads are being read.
        since: When it became busy or idle.
    """

    owner: Owner
    token: str = ""
    pid: int = 0
    concurrency: int = 1
    cooperative: bool = False
    ready: bool = False
    terminating: bool = False
    reserved: bool = False
    expected: int = 0
    killed: bool = False
    since: datetime | None = None
    _calls: dict[int, _Call] = field(default_factory=dict)
    _last_call: int = 0
    _unwritten: list[bytes] = field(default_factory=list)
    _buffer: bytearray = field(default_factory=bytearray)
    _transport: asyncio.Transport | None = None
    _gone: asyncio.Event = field(default_factory=asyncio.Event)
    _holds: int = 0
    _last_id: str = ""

    # -- what the sidecar asks of it --------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Calls that were given, or will be at once, and are not answered."""
        return len(self._calls) + self.expected

    @property
    def open(self) -> bool:
        """Whether calls may be given to it."""
        return self.ready and not self.terminating and not self.killed

    def working_on(self) -> str | None:
        """The envelope that it works on, or has just worked on.

        None where that cannot be told: it is idle, or takes several at a time.
        """
        if self.concurrency > 1:
            return None
        if self._calls:
            return next(iter(self._calls.values())).envelope_id
        if not self._last_id or self.since is None:
            return None
        idle_s = (self.owner.now() - self.since).total_seconds()
        return self._last_id if idle_s <= ECHO_S else None

    def call(self, envelope: Envelope, events: CallEvents) -> int:
        """Give it an envelope; returns the number of the call."""
        assert self._transport is not None
        self._last_call += 1
        number = self._last_call
        if not self._calls:
            self.since = self.owner.now()
        self._calls[number] = _Call(events, envelope.id)
        status: Any = envelope.status
        if envelope.status_extra:
            status = msgspec.to_builtins(status) | envelope.status_extra
        about = _CallEnvelope(
            envelope.id, envelope.route, headers_of_call(envelope), status, envelope.parent_id
        )
        size = len(envelope.payload)
        header = _CallHeader("call", number, "handle", about, [size])
        if size > APART_BYTES:
            head = _encode(header)
            self._write(_HEAD.pack(4 + len(head) + size, len(head)) + head)
            self._write_out()
            self._transport.write(memoryview(envelope.payload))
        else:
            self._write(pack(header, envelope.payload))
        self._promote()
        return number

    def cancel(self, number: int) -> None:
        """Ask an async handler to stop."""
        self._send({"k": "cancel", "id": number})

    def bye(self) -> None:
        """Tell it that its last call is done: it ends."""
        self.terminating = True
        self._send({"k": "bye"})

    def mark_killed(self) -> None:
        """Its end is our doing: nobody but the culprit is blamed, and nothing more is given."""
        self.killed = True
        if self._holds and self._transport is not None and not self._gone.is_set():
            # its end is seen by reading on; what it still emits is nobody's any more
            self._transport.resume_reading()
        self._holds = 0

    def hold(self) -> None:
        """Stop reading from it until as many `release` calls: what it emits waits in the socket."""
        self._holds += 1
        if self._holds == 1 and self._transport is not None:
            self._transport.pause_reading()

    def release(self) -> None:
        """Undo one `hold`."""
        if not self._holds:
            return
        self._holds -= 1
        if self._holds == 0 and self._transport is not None and not self._gone.is_set():
            self._transport.resume_reading()

    def abandon(self) -> None:
        """Break the connection."""
        if self._transport is not None:
            self._transport.abort()

    async def wait_gone(self) -> None:
        """Until the connection is over."""
        await self._gone.wait()

    def _send(self, header: dict[str, Any]) -> None:
        self._write(pack(header))
        self._write_out()

    def _write(self, frame: bytes) -> None:
        """Write what one turn of the loop gives in one go: each write wakes the runtime."""
        if not self._unwritten:
            asyncio.get_running_loop().call_soon(self._write_out)
        self._unwritten.append(frame)

    def _write_out(self) -> None:
        frames, self._unwritten = self._unwritten, []
        if frames and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(frames))

    def _promote(self) -> None:
        """The oldest `concurrency` calls are those it works on: it takes them in order."""
        for call in itertools.islice(self._calls.values(), self.concurrency):
            if not call.running:
                call.running = True
                call.events.on_running()

    # -- what the connection tells it -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A runtime has dialled in."""
        # uvloop's transports have the methods but not the base class
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The runtime is gone."""
        self._gone.set()
        self.terminating = True
        calls, self._calls = self._calls, {}
        suspects = 0 if self.killed else sum(call.running for call in calls.values())
        for call in calls.values():
            call.events.on_lost(suspects if call.running else 0)
        self.owner.replica_gone(self)

    def data_received(self, data: bytes) -> None:
        """Cut the stream into frames."""
        buffer = self._buffer
        buffer += data
        at, size = 0, len(buffer)
        try:
            while size - at >= 8:
                length, head_length = _HEAD.unpack_from(buffer, at)
                if length > FRAME_MAX or head_length + 4 > length:
                    raise ProtocolError(f"a frame of {length} bytes (header {head_length})")
                if size - at < 4 + length:
                    break
                start = at + 8
                header = _decode_header(buffer[start : start + head_length])
                self._dispatch(header, _cut(buffer, start + head_length, at + 4 + length))
                at += 4 + length
        except (ProtocolError, msgspec.DecodeError) as error:
            self._refuse(error)
            return
        del buffer[:at]

    def _refuse(self, error: Exception) -> None:
        self._buffer.clear()
        info = ErrorInfo(type="asya.errors.ProtocolError", message=str(error))
        self.owner.replica_failed(self.pid, info)
        self.abandon()

    def _dispatch(self, header: _Header, parts: bytes) -> None:
        match header.k:
            case "frame":
                self._on_frame(header, parts)
            case "done":
                self._on_done(header)
            case "fly":
                self._on_fly(header, parts)
            case "error":
                self._on_error(header)
            case "canceled":
                self._end_call(header.id, lambda events: events.on_canceled())
            case "hello":
                self._on_hello(header)
            case "failed":
                self._on_failed(header)
            case "terminating":
                self.terminating = True
                self.owner.replica_freed(self)
            case "files":
                self.owner.replica_files(self, header.files)
            case _:
                """A later version's kind: ignored, as the protocol says."""

    def _on_hello(self, header: _Header) -> None:
        if header.v != VERSION:
            raise ProtocolError(f"protocol version {header.v}, expected {VERSION}")
        if self.token and header.token != self.token:
            # Begun by a supervisor that was killed before it could note it: nobody here can end it.
            log.warning("the process %d is no replica of this run; it was sent away", header.pid)
            self.abandon()
            return
        self.pid = header.pid
        self.concurrency = max(1, header.concurrency)
        self.cooperative = header.cooperative
        self.ready = True
        self.since = self.owner.now()
        self.owner.replica_ready(self)

    def _on_failed(self, header: _Header) -> None:
        self.pid = header.pid
        self.owner.replica_failed(header.pid, header.error or ErrorInfo(type="unknown"))

    def _on_frame(self, header: _Header, parts: bytes) -> None:
        call = self._calls.get(header.id)
        if call is not None:
            call.events.on_frame(Frame(Raw(parts), _changes(header)))

    def _on_fly(self, header: _Header, parts: bytes) -> None:
        call = self._calls.get(header.id)
        if call is not None:
            call.events.on_fly(Raw(parts))

    def _on_done(self, header: _Header) -> None:
        changes = _changes(header)
        self._end_call(header.id, lambda events: events.on_done(changes))

    def _on_error(self, header: _Header) -> None:
        error = header.error or ErrorInfo(type="unknown", message="no error was given")
        self._end_call(header.id, lambda events: events.on_error(error))

    def _end_call(self, number: int, tell: Callable[[CallEvents], None]) -> None:
        call = self._calls.pop(number, None)
        if call is None:
            return
        tell(call.events)
        self._promote()
        if not self._calls:
            self.since = self.owner.now()
            self._last_id = call.envelope_id
        self.owner.replica_freed(self)


def _cut(buffer: bytearray, start: int, end: int) -> bytes:
    if end - start <= APART_BYTES:
        return bytes(buffer[start:end])
    with memoryview(buffer) as whole, whole[start:end] as part:
        return bytes(part)


def _changes(header: _Header) -> Changes:
    if header.next is None and header.set is None and header.del_ is None and not header.status:
        return NO_CHANGES
    if header.next is not None and (problem := route_problem(header.next)):
        raise ProtocolError(f"a runtime sent a route that its own check should refuse: {problem}")
    return Changes(header.next, header.set or {}, header.del_ or [], header.status or {})
