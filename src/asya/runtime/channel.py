"""The connection to the sidecar, and what must hold for it whatever the handler does.

The socket never reaches another process: it is closed in children that the handler forks, and such
a child ends as soon as it would answer. A watcher thread ends this process when the sidecar is
gone, also while a handler runs, and passes SIGTERM on. The loops that read and write are in
`serve`.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time

from asya.runtime import protocol
from asya.runtime.protocol import header_text, pack, pack_pieces, pack_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, NoReturn, Optional, Tuple

    from asya.runtime.protocol import Frame, FrameParser, Part

CONNECT_S = 30.0
"""How long a runtime tries to reach a sidecar that does not listen yet."""

CLOSE_S = 10.0
"""How long a runtime may take to close its handler when the sidecar is gone already, and to end
when the handler is closed but threads of the user's still run."""

TICK_S = 0.25
"""Between two calls of a watcher's `on_tick`."""

EXIT_ORPHANED = 4
"""Exit code of a runtime whose sidecar is gone."""

_READ_SIZE = 256 * 1024
_HANG_UP = select.POLLHUP | select.POLLERR | select.POLLNVAL | getattr(select, "POLLRDHUP", 0)


def connect(path: str) -> socket.socket:
    """A connection to the sidecar that listens, or will soon, on the Unix socket `path`.

    Raises:
        OSError: It does not within `CONNECT_S`.
    """
    deadline = time.monotonic() + CONNECT_S
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)
            return sock
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


class Channel:
    """The connected socket, safe against forks of the handler.

    Attributes:
        sock: For the loops that read and write; blocking.
        forked: This process is a child that the handler forked; it may say nothing.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.forked = False
        self._lock = threading.Lock()
        self._masks: Dict[int, Any] = {}
        os.register_at_fork(
            before=self._hold_signals,
            after_in_parent=self._release_signals,
            after_in_child=self._in_child,
        )

    def receive(self, parser: FrameParser) -> List[Frame]:
        """The frames that the next bytes complete; ends the process where none will come.

        Raises:
            BlockingIOError: Nothing has come, and the socket does not wait.
            FrameError: The bytes are no frame.
        """
        room = parser.room()
        count, data = 0, b""
        try:
            if room is None:
                data = self.sock.recv(_READ_SIZE)
            else:
                count = self.sock.recv_into(room)
        except BlockingIOError:
            raise
        except OSError:
            self.gone()
        if not data and not count:
            self.gone()
        return parser.feed(data) if room is None else parser.filled(count)

    def send(self, *pieces: Part) -> None:
        """Write all of `pieces`, and wait for the peer to take them; from any thread."""
        if self.forked:
            leave_child(0)
        try:
            with self._lock:
                for piece in pieces:
                    self.sock.sendall(piece)
        except OSError:
            self.gone()

    def gone(self) -> NoReturn:
        """End the process at once, since its sidecar has."""
        if self.forked:
            leave_child(0)
        os._exit(EXIT_ORPHANED)

    def _in_child(self) -> None:
        self.forked = True
        self.sock.close()
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
        except ValueError:
            pass  # a fork in an interpreter that has no main thread: nothing to put back
        self._release_signals()

    def _hold_signals(self) -> None:
        """A signal to a child that has our handlers still would be taken for one to us."""
        held = (signal.SIGTERM, signal.SIGINT)
        self._masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, held)

    def _release_signals(self) -> None:
        mask = self._masks.pop(threading.get_ident(), None)
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def leave_child(code: int) -> NoReturn:
    """End a process that the handler forked: nothing of the runtime may run in it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            code = code or 1
    os._exit(code)


class WirePort:
    """Packs what calls emit, and hands it to `send` (a `driver.Port`).

    Args:
        send: Takes the bytes of whole frames, in pieces where they are long.
    """

    def __init__(self, channel: Channel, send: Callable[..., None]) -> None:
        self._channel = channel
        self._send = send

    def frame(self, call_id: int, changes: Dict[str, Any], payload: bytes) -> None:
        """One emitted frame."""
        self._send(*_frame(call_id, changes, payload))

    def fly(self, call_id: int, event: bytes) -> None:
        """One FLY event."""
        self._send(pack({"k": protocol.FLY, "id": call_id}, (event,)))

    def result(self, call_id: int, changes: Dict[str, Any], payload: bytes) -> None:
        """The one frame of a call, and its end, in one write where it is short."""
        pieces, done = _frame(call_id, changes, payload), _done(call_id, changes, 1)
        if len(pieces) == 1:
            self._send(pieces[0] + done)
        else:
            self._send(*pieces, done)

    def done(self, call_id: int, changes: Dict[str, Any], frames: int) -> None:
        """The end of a call that went well."""
        self._send(_done(call_id, changes, frames))

    def error(self, call_id: int, error: Dict[str, Any]) -> None:
        """The end of a call whose handler raised."""
        self._send(pack({"k": protocol.ERROR, "id": call_id, "error": error}))

    def canceled(self, call_id: int) -> None:
        """The end of a call that was cancelled."""
        self._send(pack({"k": protocol.CANCELED, "id": call_id}))

    async def drained(self) -> None:
        """Nothing to wait for: `send` waits."""

    def check_process(self, error: BaseException) -> None:
        """End a forked child with the exit code that Python would give it for `error`."""
        if not self._channel.forked:
            return
        code = 1
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        else:
            from asya.runtime.errors import render

            print(render(error), file=sys.stderr, end="")
        leave_child(code & 0xFF)


def _frame(call_id: int, changes: Dict[str, Any], payload: bytes) -> Tuple[bytes, ...]:
    if changes:
        header = {"k": protocol.FRAME, "id": call_id, **changes, "parts": [len(payload)]}
        return pack_pieces(header_text(header), payload)
    return pack_pieces(b'{"k":"frame","id":%d,"parts":[%d]}' % (call_id, len(payload)), payload)


def _done(call_id: int, changes: Dict[str, Any], frames: int) -> bytes:
    if changes:
        return pack({"k": protocol.DONE, "id": call_id, "frames": frames, **changes})
    return pack_text(b'{"k":"done","id":%d,"frames":%d}' % (call_id, frames))


class Watcher:
    """A thread that ends the process when the sidecar is gone, and tells of SIGTERM.

    It works while a handler holds the main thread, as long as that lets other threads run.

    Attributes:
        busy: Whether a hang-up must end the process now; otherwise the reading loop is left
            `CLOSE_S` to find out by itself, since a `bye` may still be in the socket.
        on_terminate: Called in the watcher's thread, once, at the first SIGTERM.
        on_tick: Called in the watcher's thread every `TICK_S`, or None.
    """

    def __init__(self, channel: Channel) -> None:
        self.busy: Callable[[], bool] = lambda: True
        self.on_terminate: Callable[[], None] = lambda: None
        self.on_tick: Optional[Callable[[], None]] = None
        self._channel = channel
        self._told = False
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_in, False)
        self._signals = {int(signal.SIGTERM)}

    def start(self) -> None:
        """Begin to watch for the end of the sidecar."""
        threading.Thread(target=self._run, name="asya-watcher", daemon=True).start()

    def catch_signals(self) -> None:
        """From now on SIGTERM means `on_terminate`; SIGINT too, except in a session of our own.

        In a session of its own a replica is a supervisor's, which alone answers to Ctrl-C.
        Handlers are real ones, never SIG_IGN, so that programs which the user's code starts get the
        default. The byte is written twice, by C and by Python: the first works while the main
        thread is in C code, the second where a library has taken the wake-up descriptor.
        """
        if os.getsid(0) != os.getpid():
            self._signals.add(int(signal.SIGINT))
        signal.signal(signal.SIGTERM, self._caught)
        signal.signal(signal.SIGINT, self._caught)
        signal.set_wakeup_fd(self._wake_in, warn_on_full_buffer=False)

    def _caught(self, number: int, _frame: Any) -> None:
        try:  # noqa: SIM105  contextlib is slow to import
            os.write(self._wake_in, bytes((number,)))
        except OSError:
            pass  # full: a byte that waits is enough

    def _run(self) -> None:
        poller = select.poll()
        socket_fd = self._channel.sock.fileno()
        poller.register(socket_fd, _HANG_UP)
        poller.register(self._wake_out, select.POLLIN)
        while True:
            found = poller.poll(None if self.on_tick is None else TICK_S * 1000)
            if self.on_tick is not None:
                self.on_tick()
            for fd, _ in found:
                if fd == socket_fd:
                    self._leave()
                elif self._signals.intersection(os.read(fd, 64)) and not self._told:
                    self._told = True
                    self.on_terminate()

    def _leave(self) -> NoReturn:
        deadline = time.monotonic() + CLOSE_S
        while not self.busy() and time.monotonic() < deadline:
            time.sleep(0.02)
        self._channel.gone()
