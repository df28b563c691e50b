"""The NATS server that a mesh on one machine starts: one process on a data folder.

The server belongs to the folder, which has its configuration, log, port and process id. So the next
supervisor uses the same port, and ends a server that a killed supervisor left behind. It never ends
a process that merely has the same pid. Nothing here speaks NATS except the wait for its greeting.
Restarting after `on_exit` is the caller's choice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import psutil

from asya.codes import Code
from asya.errors import TransportUnavailable, UsageError, how_to_install

HOST: Final = "127.0.0.1"
MAX_PAYLOAD: Final = 8 * 1024 * 1024
LOG_MAX_BYTES: Final = 4 * 1024 * 1024
LOG_FILES_MAX: Final = 3
RESERVE_BYTES: Final = 64 * 1024 * 1024
"""Free bytes below which the broker counts as full. It does not recover from a full disk by itself."""
READY_S: Final = 60.0
"""A server reads its whole store before it answers. A million messages take seconds."""
STOP_S: Final = 5.0
"""How long a stop may take, before SIGKILL, which loses nothing. Each queue takes 10 ms."""
POLL_S: Final = 0.005
STARTS_MAX: Final = 5
DISK_FULL: Final = b"no space left on device"

_CREATED_TOLERANCE_S: Final = 2.0


@dataclass(frozen=True)
class _Record:
    """What is written down about the server: which process it is, and how to reach it."""

    pid: int
    created: float
    port: int
    token: str


class NatsServer:
    """A `nats-server` process on the folder `data`, which belongs to it alone.

    Attributes:
        on_exit: Called in the event loop with the return code (negative: the signal) when the
            server ends without having been asked to.
    """

    def __init__(
        self,
        data: Path,
        *,
        port: int = 0,
        binary: str | Path | None = None,
        reserve_bytes: int = RESERVE_BYTES,
        on_exit: Callable[[int], None] | None = None,
    ) -> None:
        """Prepare.

        Args:
            data: Its folder; made with mode 0700 if it is not there.
            port: On the loopback address; 0 is the one of the last run, or a free one.
            binary: The program; None looks on the PATH and beside the Python interpreter.
            reserve_bytes: How much room on the disk `disk_problem` insists on.
            on_exit: See above.
        """
        self.on_exit = on_exit
        self._data = data.absolute()
        self._fixed_port = port
        self._binary = binary
        self._reserve_bytes = reserve_bytes
        self._config = self._data / "nats.conf"
        self._log = self._data / "nats.log"
        self._state = self._data / "nats.json"
        self._record: _Record | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._log_seen = 0
        self._wedged = False
        self._changing = asyncio.Lock()

    @property
    def url(self) -> str:
        """Where clients connect, with the token: not for logs. Known after `start`."""
        if self._record is None:
            raise UsageError("the NATS server was not started: its address is not known")
        return f"nats://{self._record.token}@{HOST}:{self._record.port}"

    @property
    def port(self) -> int:
        """The port on the loopback address; 0 before the first `start`."""
        return self._record.port if self._record is not None else 0

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.returncode is None

    @property
    def log_path(self) -> Path:
        """The server's log; older parts of it stand beside it."""
        return self._log

    async def start(self) -> None:
        """Start the server; returns when it takes connections. Does nothing while it runs.

        A server that a killed supervisor left on this folder is ended first.

        Raises:
            UsageError: There is no `nats-server`, the folder cannot be written, or the fixed port
                is in use.
            TransportUnavailable: The disk is full; or the server ended or gave no answer, and the
                text ends with its log.
        """
        async with self._changing:
            if self.running:
                return
            binary = find_binary(self._binary)
            self._make_folder()
            try:
                await self._start(binary)
            except OSError as error:
                raise TransportUnavailable(
                    f"cannot start {binary} on {self._data}: {error.strerror or error}; "
                    "a full disk needs some space first",
                    code=Code.BROKER_GONE,
                ) from error

    async def _start(self, binary: str) -> None:
        previous = _read_record(self._state)
        await _end_leftover(self._config, previous)
        _trim_log(self._log)
        token = previous.token if previous is not None else secrets.token_urlsafe(24)
        port = self._fixed_port or (previous.port if previous is not None else 0)
        for attempt in range(STARTS_MAX):
            if port == 0 or not _is_free(port):
                if self._fixed_port:
                    raise UsageError(
                        f"port {port} on {HOST} is in use; give another for NATS",
                        code=Code.PORT_UNUSABLE,
                    )
                port = _free_port()
            if await self._try_start(binary, port, token, last=attempt == STARTS_MAX - 1):
                return
            port = 0

    async def stop(self) -> None:
        """End the server: SIGTERM, and SIGKILL if it does not end in time. Idempotent."""
        async with self._changing:
            process, self._process = self._process, None
            watch, self._watch = self._watch, None
            if watch is not None and watch is not asyncio.current_task():
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
            if process is not None:
                await _end_process(process)

    async def restart(self) -> None:
        """Stop and start on the same port: what a server needs after its disk was full."""
        await self.stop()
        await self.start()

    def disk_problem(self) -> str | None:
        """Why the broker cannot store messages now, and what to do; None when it can.

        Cheap: asks the file system, and reads what was added to the log. After a full disk the
        server stays unable to store, with room again or not, until `restart`; so does this.
        """
        try:
            free = shutil.disk_usage(self._data).free
        except OSError as error:
            return f"the broker's folder {self._data} cannot be read: {error}"
        if free < self._reserve_bytes:
            return (
                f"the disk of {self._data} is full: {free // 2**20} MiB are free and the broker "
                f"needs {self._reserve_bytes // 2**20} MiB; free some space"
            )
        self._read_log()
        if self._wedged:
            return (
                f"the disk of {self._data} was full, and the broker stores nothing until it is "
                f"restarted; see {self._log}"
            )
        return None

    async def _try_start(self, binary: str, port: int, token: str, *, last: bool) -> bool:
        self._write_config(port, token)
        self._log_seen = self._log.stat().st_size if self._log.exists() else 0
        self._wedged = False
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                binary,
                "-c",
                str(self._config),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            created = _created(process.pid)
            self._record = _Record(process.pid, created, port, token)
            _write_private(self._state, json.dumps(asdict(self._record)))
            ready = await self._wait_ready(process, port)
        except BaseException:
            await _end_process(process)
            raise
        if ready:
            self._process = process
            self._watch = asyncio.get_running_loop().create_task(self._report_exit(process))
            return True
        await _end_process(process)
        tail = _tail(self._log, self._log_seen)
        if "address already in use" in tail and not last and not self._fixed_port:
            return False
        raise TransportUnavailable(
            f"nats-server did not come up (return code {process.returncode}); the end of its log "
            f"{self._log}:\n{tail}",
            code=Code.BROKER_GONE,
        )

    async def _wait_ready(self, process: asyncio.subprocess.Process, port: int) -> bool:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + READY_S
        while process.returncode is None and loop.time() < give_up:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1.0):
                    if await _greets(port):
                        return True
            await asyncio.sleep(POLL_S)
        return False

    async def _report_exit(self, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        if self.on_exit is not None:
            self.on_exit(code)

    def _read_log(self) -> None:
        with contextlib.suppress(OSError), self._log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            if size < self._log_seen:
                self._log_seen = 0
            # Overlap, since the last read may have ended in the middle of the text we look for.
            begin = max(self._log_seen - len(DISK_FULL) + 1, 0, size - 2**16)
            log.seek(begin if self._log_seen else max(0, size - 2**16))
            self._wedged = self._wedged or DISK_FULL in log.read(2**17)
            self._log_seen = size

    def _make_folder(self) -> None:
        try:
            self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"cannot make the broker's folder {self._data}: {error}", code=Code.DATA_UNUSABLE
            ) from error
        if not os.access(self._data, os.W_OK | os.X_OK):
            raise UsageError(
                f"no permission to write into the broker's folder {self._data}",
                code=Code.DATA_UNUSABLE,
            )

    def _write_config(self, port: int, token: str) -> None:
        # A JSON string is a string of the server's format, too. The store's own limit is out of
        # reach on purpose: the disk is the limit, and `disk_problem` watches it.
        text = f"""# Written at every start.
server_name: asya
listen: "{HOST}:{port}"
authorization {{ token: {json.dumps(token)} }}
max_payload: {MAX_PAYLOAD}
jetstream {{
  store_dir: {json.dumps(str(self._data / "store"))}
  max_file_store: 1TB
  sync_interval: "1s"
}}
log_file: {json.dumps(str(self._log))}
logfile_size_limit: {LOG_MAX_BYTES}
logfile_max_num: {LOG_FILES_MAX}
"""
        _write_private(self._config, text)


def left_running(data: Path) -> list[int]:
    """The pids of servers that run on the folder `data`, whoever started them."""
    folder = data.absolute()
    found = _leftovers(str(folder / "nats.conf"), _read_record(folder / "nats.json"))
    return [process.pid for process in found]


def find_binary(given: str | Path | None = None) -> str:
    """The `nats-server` program: the given one, or from the PATH, or beside the interpreter.

    Raises:
        UsageError: There is none; the text says how to get it.
    """
    if given is not None:
        found = shutil.which(str(given))
        if found is None:
            raise UsageError(
                f"{given} cannot be run; give the path of a nats-server program",
                code=Code.BROKER_MISSING,
            )
        return found
    beside = Path(sys.executable).with_name("nats-server")
    found = shutil.which("nats-server") or shutil.which(str(beside))
    if found is None:
        raise UsageError(
            "nats-server was not found on the PATH, nor beside the Python interpreter "
            f"({beside.parent}); install it with: {how_to_install('local')}",
            code=Code.BROKER_MISSING,
        )
    return found


def _read_record(path: Path) -> _Record | None:
    try:
        fields = json.loads(path.read_text())
        return _Record(
            int(fields["pid"]), float(fields["created"]), int(fields["port"]), str(fields["token"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_private(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(text)
    fresh.replace(path)


def _created(pid: int) -> float:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


async def _end_leftover(config: Path, record: _Record | None) -> None:
    """End the server of an earlier supervisor on this folder: two servers would ruin the store."""
    if not config.exists():
        return
    for process in _leftovers(str(config), record):
        with contextlib.suppress(psutil.Error):
            process.terminate()
            if not await _gone(process, STOP_S):
                process.kill()
                await _gone(process, STOP_S)


async def _gone(process: psutil.Process, within_s: float) -> bool:
    """Wait for the end of a process that is not our child.

    A zombie counts as ended. Its parent may take seconds to reap it, but it holds no port and no file.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if loop.time() > until:
            return False
        await asyncio.sleep(POLL_S)
    return True


def _leftovers(config: str, record: _Record | None) -> list[psutil.Process]:
    if record is not None:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(record.pid)
            same = abs(process.create_time() - record.created) < _CREATED_TOLERANCE_S
            if same and config in process.cmdline():
                return [process]
    # A supervisor that was killed right after it started a server has not recorded it.
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name().startswith("nats-server") and config in process.cmdline():
                found.append(process)
    return found


async def _end_process(process: asyncio.subprocess.Process) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            break
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await process.wait()


async def _greets(port: int) -> bool:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        return (await reader.readline()).startswith(b"INFO")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # The server does the same: a port with connections in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _trim_log(log: Path) -> None:
    """Put a large log aside; the one before goes. The server itself bounds it while it runs."""
    with contextlib.suppress(OSError):
        if log.stat().st_size > LOG_MAX_BYTES:
            log.replace(log.with_suffix(".log.old"))


def _tail(log: Path, begin: int) -> str:
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(begin if begin <= size else 0, size - 2000))
            return file.read().decode(errors="replace").strip() or "(empty)"
    except OSError as error:
        return f"(cannot be read: {error})"
