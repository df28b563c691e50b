"""The life of a replica: dial in, load, say hello, work on calls, end at `bye`.

Plain handlers run in threads without an event loop (`ThreadServer`; one of them is the main
thread), asynchronous ones as tasks of the main thread's loop (`LoopServer`). Both work on at most
`concurrency` calls at a time, in the order of their arrival, and read no further than they need.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque

from asya.runtime import UnknownCallKind, protocol
from asya.runtime.channel import CLOSE_S, EXIT_ORPHANED, Channel, Watcher, WirePort, connect
from asya.runtime.driver import Call, drive, drive_async
from asya.runtime.errors import describe, render
from asya.runtime.lasting import MainLoop, ThreadLoop
from asya.runtime.loading import ClassFailed, Handler, HandlerError, extend_path, load
from asya.runtime.protocol import FrameError, FrameParser, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from typing import Any, Callable, Deque, Dict, List, Optional, Set, Tuple

    from asya.runtime.protocol import Frame, Part

BACKLOG_MAX = 1024
"""Calls that wait in an asynchronous replica; at this number it stops to read."""

EXIT_SOCKET = 1


class Options:
    """How to run, read once from the environment by the entry point.

    Attributes:
        socket: Path of the Unix socket that the sidecar listens on.
        handler: `module.function` or `module.Class.method`.
        actor: Name of the actor.
        concurrency: Calls at a time, from 1.
        token: Said in `hello`, where given.
        path: Folders that come first on `sys.path`, before the working folder.
        tells_files: Say which files below `path` were imported, and say it again when more were.
    """

    def __init__(
        self,
        socket: str,
        handler: str,
        *,
        actor: str = "",
        concurrency: int = 1,
        token: str = "",
        path: Tuple[str, ...] = (),
        tells_files: bool = False,
    ) -> None:
        self.socket = socket
        self.handler = handler
        self.actor = actor
        self.concurrency = concurrency
        self.token = token
        self.path = path
        self.tells_files = tells_files


def serve(options: Options) -> int:
    """Run a replica to its end; gives back the exit code of the process."""
    prepare_stdio()
    try:
        channel = Channel(connect(options.socket))
    except OSError as error:
        print(f"asya runtime: no sidecar on {options.socket}: {error}", file=sys.stderr)
        return EXIT_SOCKET
    watcher = Watcher(channel)
    if options.tells_files:
        from asya.runtime.sources import Teller

        teller = Teller(options.path)
        watcher.on_tick = teller.tick
    watcher.start()
    loops = Loops()
    extend_path(options.path)
    try:
        handler = loops.load(options.handler)
    except HandlerError as error:
        failure = describe(error, error.__cause__)
        print(f"asya runtime: {failure['message']}\n{failure['traceback']}", file=sys.stderr)
        channel.send(pack({"k": protocol.FAILED, "pid": os.getpid(), "error": failure}))
        return protocol.EXIT_NOT_LOADED
    server: Any = (
        LoopServer(handler, channel, options.concurrency, loops.main)
        if loops.main is not None
        else ThreadServer(handler, channel, options.concurrency, loops.thread)
    )
    greeted = threading.Event()

    def terminating() -> None:
        greeted.wait()
        server.terminating()

    watcher.busy = server.busy
    watcher.on_terminate = terminating
    watcher.catch_signals()
    channel.send(pack(_hello(options, handler.is_async)))
    greeted.set()
    if options.tells_files:
        teller.start(server.tell)
    try:
        server.serve()
    except FrameError as error:
        print(f"asya runtime: what the sidecar sent is no frame: {error}", file=sys.stderr)
        os._exit(EXIT_ORPHANED)
    loops.close(handler)
    _exit_within(CLOSE_S)
    return 0


def _exit_within(seconds: float) -> None:
    """End the process even where a thread that the user's code left behind would keep it."""

    def leave() -> None:
        time.sleep(seconds)
        os._exit(0)

    threading.Thread(target=leave, name="asya-exit", daemon=True).start()


def prepare_stdio() -> None:
    """What the handler prints leaves at the end of each line, in UTF-8, whatever the locale."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Optional[Callable[..., None]] = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)


def _hello(options: Options, cooperative: bool) -> Dict[str, Any]:
    hello: Dict[str, Any] = {
        "k": protocol.HELLO,
        "v": protocol.VERSION,
        "pid": os.getpid(),
        "actor": options.actor,
        "handler": options.handler,
        "concurrency": options.concurrency,
        "python": ".".join(map(str, sys.version_info[:3])),
        "cooperative": cooperative,
    }
    if options.token:
        hello["token"] = options.token
    return hello


class Loops:
    """The event loops of a replica, and the handler's way into them.

    Attributes:
        main: The loop of an asynchronous handler; None for a plain one.
        thread: The loop for whatever is awaitable in a plain one.
    """

    def __init__(self) -> None:
        self.main: Optional[MainLoop] = None
        self.thread = ThreadLoop()

    def load(self, name: str) -> Handler:
        """Load a handler, make its class in its loop, and enter it.

        Raises:
            HandlerError: See `loading`; also where a context manager fails as it is entered.
        """
        handler = load(name, self._make)
        if handler.is_async:
            self._need_main()
        try:
            handler.enter(self.run)
        except BaseException as error:
            raise ClassFailed(
                f"the handler {name!r} cannot be entered as a context manager: "
                f"{type(error).__name__}: {error}"
            ) from error
        return handler

    def run(self, awaitable: Any) -> Any:
        """Run an awaitable to its end on the replica's loop."""
        return self.thread.run(awaitable) if self.main is None else self.main.run(awaitable)

    def close(self, handler: Handler) -> None:
        """Close the handler, then the loops. What fails is printed and stops nothing."""
        steps: List[Callable[[], None]] = [lambda: handler.close(self.run), self._close_loops]
        for step in steps:
            try:
                step()
            except BaseException as error:
                print(render(error), file=sys.stderr, end="")

    def _close_loops(self) -> None:
        self.thread.close()
        if self.main is not None:
            self.main.close()

    def _make(self, kind: Callable[[], Any], in_loop: bool) -> Any:
        return self._need_main().make(kind) if in_loop else kind()

    def _need_main(self) -> MainLoop:
        if self.main is None:
            self.main = MainLoop()
        return self.main


def open_call(frame: Frame, port: WirePort) -> Optional[Call]:
    """The call that a frame asks for; None where it was refused, and answered so.

    Raises:
        FrameError: The frame is no call as the protocol has it.
    """
    header, parts = frame
    call_id = header.get("id")
    if type(call_id) is not int:
        raise FrameError("a call without an id")
    kind = header.get("kind", protocol.KIND_HANDLE)
    if kind != protocol.KIND_HANDLE:
        refusal = UnknownCallKind(f"this runtime knows no calls of the kind {kind!r}")
        port.error(call_id, describe(refusal))
        return None
    envelope = header.get("envelope")
    if type(envelope) is not dict or not parts:
        raise FrameError("a call without an envelope or a payload")
    route = envelope.setdefault("route", {})
    for name, default in (("prev", []), ("curr", ""), ("next", [])):
        route.setdefault(name, default)
    envelope.setdefault("headers", {})
    envelope.setdefault("status", {})
    return Call(call_id, envelope, parts[0], port)


class ThreadServer:
    """Runs a plain handler in `concurrency` threads that take turns to read the next call."""

    def __init__(
        self, handler: Handler, channel: Channel, concurrency: int, loop: ThreadLoop
    ) -> None:
        self._handler = handler
        self._channel = channel
        self._concurrency = concurrency
        self._loop = loop
        self._port = WirePort(channel, channel.send)
        self._parser = FrameParser()
        self._inbox: Deque[Frame] = deque()
        self._turn = threading.Lock()
        self._running: Set[int] = set()
        self._ended = False
        self._failure: Optional[FrameError] = None

    def serve(self) -> None:
        """Work until `bye`.

        Raises:
            FrameError: The sidecar sent what is no frame.
        """
        threads = [
            threading.Thread(target=self._work, name=f"asya-{at}", daemon=True)
            for at in range(1, self._concurrency)
        ]
        for thread in threads:
            thread.start()
        self._work()
        for thread in threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def busy(self) -> bool:
        """Whether a handler runs."""
        return bool(self._running)

    def terminating(self) -> None:
        """Tell the sidecar to send no more calls."""
        self.tell({"k": protocol.TERMINATING})

    def tell(self, header: Dict[str, Any]) -> None:
        """Send a frame that belongs to no call; from any thread."""
        self._channel.send(pack(header))

    def _work(self) -> None:
        while True:
            with self._turn:
                try:
                    call = self._next()
                except FrameError as error:
                    self._ended, self._failure = True, error
                    return
            if call is None:
                return
            drive(self._handler, call, self._loop.run)
            self._running.discard(call.id)

    def _next(self) -> Optional[Call]:
        while not self._ended:
            while self._inbox:
                frame = self._inbox.popleft()
                kind = frame[0].get("k")
                if kind == protocol.CALL:
                    call = open_call(frame, self._port)
                    if call is not None:
                        self._running.add(call.id)
                        return call
                elif kind == protocol.BYE:
                    self._ended = True
                    return None
            self._inbox.extend(self._channel.receive(self._parser))
        return None


class LoopServer:
    """Runs an asynchronous handler as tasks of the main thread's loop, `concurrency` at a time."""

    def __init__(
        self, handler: Handler, channel: Channel, concurrency: int, main: MainLoop
    ) -> None:
        self._handler = handler
        self._channel = channel
        self._concurrency = concurrency
        self._main = main
        self._writer = LoopWriter(channel, main.loop)
        self._port = LoopPort(channel, self._writer)
        self._parser = FrameParser()
        self._backlog: Deque[Call] = deque()
        self._running: Dict[int, Tuple[Call, asyncio.Task[None]]] = {}
        self._reading = False
        self._failure: Optional[FrameError] = None

    def serve(self) -> None:
        """Work until `bye`.

        Raises:
            FrameError: The sidecar sent what is no frame.
        """
        self._channel.sock.setblocking(False)
        self._read(True)
        self._main.serve()
        self._read(False)
        self._channel.sock.setblocking(True)
        self._writer.finish()
        if self._failure is not None:
            raise self._failure

    def busy(self) -> bool:
        """Whether a handler runs."""
        return bool(self._running)

    def terminating(self) -> None:
        """Tell the sidecar to send no more calls; from any thread."""
        self.tell({"k": protocol.TERMINATING})

    def tell(self, header: Dict[str, Any]) -> None:
        """Send a frame that belongs to no call; from any thread."""
        message = pack(header)
        try:  # noqa: SIM105  contextlib is slow to import
            self._main.loop.call_soon_threadsafe(self._writer.send, message)
        except RuntimeError:
            pass  # the loop is closed: `bye` came first

    def _read(self, wanted: bool) -> None:
        if wanted and not self._reading:
            self._main.loop.add_reader(self._channel.sock.fileno(), self._readable)
        elif self._reading and not wanted:
            self._main.loop.remove_reader(self._channel.sock.fileno())
        self._reading = wanted

    def _readable(self) -> None:
        try:
            frames = self._channel.receive(self._parser)
            self._take(frames)
        except BlockingIOError:
            return
        except FrameError as error:
            self._failure = error
            self._main.stop()

    def _take(self, frames: List[Frame]) -> None:
        for frame in frames:
            kind = frame[0].get("k")
            if kind == protocol.CALL:
                call = open_call(frame, self._port)
                if call is not None:
                    self._backlog.append(call)
            elif kind == protocol.CANCEL:
                self._cancel(frame[0].get("id"))
            elif kind == protocol.BYE:
                self._main.stop()
        self._start()
        if len(self._backlog) >= BACKLOG_MAX:
            self._read(False)

    def _start(self) -> None:
        while self._backlog and len(self._running) < self._concurrency:
            call = self._backlog.popleft()
            task = self._main.loop.create_task(self._run(call))
            self._running[call.id] = (call, task)
        if not self._reading and len(self._backlog) < BACKLOG_MAX and not self._main.stopping:
            self._read(True)

    async def _run(self, call: Call) -> None:
        await drive_async(self._handler, call)
        self._end(call)

    def _end(self, call: Call) -> None:
        self._running.pop(call.id, None)
        self._start()

    def _cancel(self, call_id: Any) -> None:
        for call in self._backlog:
            if call.id == call_id:
                self._backlog.remove(call)
                self._port.canceled(call.id)
                return
        if call_id not in self._running:
            return
        call, task = self._running[call_id]
        call.canceled = True

        def ended(task: asyncio.Task[None]) -> None:
            if task.cancelled():  # before its first step; the driver never saw it
                self._port.canceled(call.id)
                self._end(call)

        task.add_done_callback(ended)
        task.cancel()


class LoopWriter:
    """Writes to the socket from a running loop; what the peer does not take yet waits here.

    Whoever emits awaits `drained` after it, so at most one emission per call waits.
    """

    def __init__(self, channel: Channel, loop: asyncio.AbstractEventLoop) -> None:
        self._channel = channel
        self._loop = loop
        self._waiting: Deque[memoryview] = deque()
        self._drained: Optional[asyncio.Future[None]] = None

    def send(self, *pieces: Part) -> None:
        """Write `pieces`, or keep what cannot be written now."""
        if self._channel.forked:
            self._channel.gone()
        for piece in pieces:
            sent = 0 if self._waiting else self._write(piece)
            if sent < len(piece):
                if not self._waiting:
                    self._loop.add_writer(self._channel.sock.fileno(), self._writable)
                self._waiting.append(memoryview(piece)[sent:])

    async def drained(self) -> None:
        """Wait until nothing waits."""
        while self._waiting:
            if self._drained is None:
                self._drained = self._loop.create_future()
            import asyncio

            await asyncio.shield(self._drained)

    def finish(self) -> None:
        """Write the rest, blocking; the loop does not run any more."""
        if self._waiting:
            self._loop.remove_writer(self._channel.sock.fileno())
            self._channel.send(*self._waiting)
            self._waiting.clear()

    def _write(self, data: Any) -> int:
        try:
            return self._channel.sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self._channel.gone()

    def _writable(self) -> None:
        first = self._waiting.popleft()
        sent = self._write(first)
        if sent < len(first):
            self._waiting.appendleft(first[sent:])
        if not self._waiting:
            self._loop.remove_writer(self._channel.sock.fileno())
            if self._drained is not None:
                self._drained.set_result(None)
                self._drained = None


class LoopPort(WirePort):
    """A port whose writes never block the loop."""

    def __init__(self, channel: Channel, writer: LoopWriter) -> None:
        super().__init__(channel, writer.send)
        self._writer = writer

    async def drained(self) -> None:
        """Wait until the peer has taken what was emitted."""
        await self._writer.drained()
