"""A runtime without a process: it speaks the real protocol to a sidecar, inside one event loop.

`LoopbackRuntime` passes real frames to and from a `Replica`; what it does with a call is up to the
coroutine function it is given. `MeshBox` gives it one that drives handlers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from asya.runtime import protocol
from asya.sidecar import Sidecar
from asya.sidecar.replica import Replica

EXCEPTION_MRO: Final = ["Exception", "BaseException", "object"]


class LoopbackCall:
    """One call under way.

    Attributes:
        envelope: id, route, headers and status, as a handler sees them.
        payload: The decoded payload.
    """

    def __init__(self, runtime: LoopbackRuntime, header: dict[str, Any], payload: bytes) -> None:
        self._runtime = runtime
        self.number: int = header["id"]
        self.envelope: dict[str, Any] = header["envelope"]
        self.body = payload
        self.frames = 0

    @property
    def payload(self) -> Any:
        """The decoded payload."""
        return json.loads(self.body)

    def frame(self, payload: Any, **changes: Any) -> None:
        """Emit a frame; `changes`: `next`, `set`, `del`, `status`."""
        self.frame_raw(json.dumps(payload).encode(), **changes)

    def frame_raw(self, payload: bytes, **changes: Any) -> None:
        """Emit a frame whose payload is JSON already."""
        self.frames += 1
        self._reply({"k": protocol.FRAME, **changes}, payload)

    def fly(self, data: dict[str, Any]) -> None:
        """Stream a value."""
        self.fly_raw(json.dumps(data).encode())

    def fly_raw(self, data: bytes) -> None:
        """Stream a value that is JSON already."""
        self._reply({"k": protocol.FLY}, data)

    def done(self, **changes: Any) -> None:
        """End well."""
        self._reply({"k": protocol.DONE, "frames": self.frames, **changes})

    def fail(self, kind: str = "ValueError", message: str = "no", **fields: Any) -> None:
        """End with an error."""
        self.error({"type": kind, "message": message, "mro": [kind, *EXCEPTION_MRO], **fields})

    def error(self, error: dict[str, Any]) -> None:
        """End with an error in the form of the wire."""
        self._reply({"k": protocol.ERROR, "error": error})

    def canceled(self) -> None:
        """Give way to a cancel."""
        self._reply({"k": protocol.CANCELED})

    def _reply(self, header: dict[str, Any], *parts: bytes) -> None:
        self._runtime.send({**header, "id": self.number}, parts)


Handle = Callable[[LoopbackCall], Awaitable[None]]


class LoopbackRuntime(asyncio.Transport):
    """The far end of a `Replica`, in the same loop.

    Attributes:
        calls: Numbers of the calls under way.
        paused: The sidecar does not read for now.
    """

    def __init__(
        self,
        handle: Handle,
        *,
        pid: int = 1,
        concurrency: int = 1,
        cooperative: bool = False,
        token: str = "",
    ) -> None:
        super().__init__()
        self.pid = pid
        self.paused = False
        self.said_bye = False
        self._handle = handle
        self._concurrency = asyncio.Semaphore(concurrency)
        self._hello = {
            "k": protocol.HELLO,
            "v": protocol.VERSION,
            "pid": pid,
            "concurrency": concurrency,
            "cooperative": cooperative,
            "token": token,
        }
        self._replica: Replica | None = None
        self._inbox = bytearray()
        self._held_back: list[bytes] = []
        self.calls: dict[int, asyncio.Task[None]] = {}

    def dial(self, sidecar: Sidecar) -> LoopbackRuntime:
        """Connect to a sidecar and say hello."""
        self._replica = sidecar.connect()
        self._replica.connection_made(self)
        self.send(self._hello)
        return self

    def die(self) -> None:
        """End as a killed process would: in the middle of whatever runs."""
        for task in self.calls.values():
            task.cancel()
        self.calls.clear()
        replica, self._replica = self._replica, None
        if replica is not None:
            replica.connection_lost(None)

    def send(self, header: dict[str, Any], parts: tuple[bytes, ...] = ()) -> None:
        """Send one frame to the sidecar."""
        data = protocol.pack(header, parts)
        if self.paused:
            self._held_back.append(data)
        elif self._replica is not None:
            self._replica.data_received(data)

    def terminating(self) -> None:
        """Say that SIGTERM came."""
        self.send({"k": protocol.TERMINATING})

    # -- asyncio.Transport ------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Take bytes from the sidecar."""
        self._inbox += data
        while len(self._inbox) >= protocol.LENGTH_SIZE:
            size = int.from_bytes(self._inbox[: protocol.LENGTH_SIZE], "big")
            end = protocol.LENGTH_SIZE + size
            if len(self._inbox) < end:
                return
            header, parts = protocol.parse(bytes(self._inbox[protocol.LENGTH_SIZE : end]))
            del self._inbox[:end]
            self._on_frame(header, list(map(bytes, parts)))

    def _on_frame(self, header: dict[str, Any], parts: list[bytes]) -> None:
        if header["k"] == protocol.CALL:
            call = LoopbackCall(self, header, parts[0])
            task = asyncio.get_running_loop().create_task(self._run(call))
            self.calls[call.number] = task
            task.add_done_callback(lambda _: self.calls.pop(call.number, None))
        elif header["k"] == protocol.CANCEL:
            task_or_none = self.calls.get(header["id"])
            if task_or_none is not None:
                task_or_none.cancel()
        elif header["k"] == protocol.BYE:
            self.said_bye = True
            asyncio.get_running_loop().call_soon(self.die)

    async def _run(self, call: LoopbackCall) -> None:
        try:
            async with self._concurrency:
                await self._handle(call)
        except asyncio.CancelledError:
            call.canceled()

    def abort(self) -> None:
        """The sidecar broke the connection."""
        asyncio.get_running_loop().call_soon(self.die)

    def close(self) -> None:
        """The sidecar closed the connection."""
        self.abort()

    def is_closing(self) -> bool:
        """Whether the connection is over."""
        return self._replica is None

    def pause_reading(self) -> None:
        """The sidecar stops reading."""
        self.paused = True

    def resume_reading(self) -> None:
        """The sidecar reads on."""
        self.paused = False
        held_back, self._held_back = self._held_back, []
        for data in held_back:
            if self.paused:
                self._held_back.append(data)
            elif self._replica is not None:
                self._replica.data_received(data)
