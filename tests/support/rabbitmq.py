"""A RabbitMQ of one's own for tests: private node, free ports, its own folder.

It never touches a server that the machine runs, and ends everything it started, its `epmd`
included. The methods block (a start takes 8 to 12 s): call them by `asyncio.to_thread` where a
loop runs. Called by the contract tests, the soak and the benchmarks.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

HOST = "127.0.0.1"
READY_S = 120.0
"""The most that a start may take; a loaded machine needs several times the usual 10 s."""
STOP_S = 30.0
COMMAND_S = 60.0
HAND_ON_MS = 15_000
"""RabbitMQ's own default is three minutes."""

_FOLDERS = ("/usr/lib/rabbitmq/bin", "/opt/homebrew/sbin", "/usr/local/sbin")
_PATH = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")
_GREETING = b"AMQP\x00\x00\x09\x01"


def find_programs() -> Path | None:
    """The folder of `rabbitmq-server` and `rabbitmqctl`; None when there is no RabbitMQ."""
    # Debian's programs on the PATH insist on the user rabbitmq, or root; those in the folder do not.
    for folder in _FOLDERS:
        if (Path(folder) / "rabbitmq-server").exists():
            return Path(folder)
    found = shutil.which("rabbitmq-server")
    return Path(found).resolve().parent if found else None


class RabbitServer:
    """One node.

    Attributes:
        port: Where clients connect.
        management_port: Of the HTTP API; 0 without the plugin.
        user: Its administrator.
        password: The administrator's.
        epmd: The process of its `epmd`, while it runs.
    """

    def __init__(
        self,
        folder: Path,
        *,
        management: bool = False,
        config: str = "",
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare.

        Args:
            folder: For its data, logs and home; made if it is not there.
            management: Whether to run the management plugin.
            config: More lines for `rabbitmq.conf`.
            say: Told what happens, for people who wait.
        """
        programs = find_programs()
        if programs is None:
            raise FileNotFoundError("there is no rabbitmq-server; apt-get install rabbitmq-server")
        self._programs = programs
        self.folder = folder.absolute()
        self._say = say or (lambda text: None)
        self.user, self.password = "asya-test", secrets.token_hex(8)
        self.port, self._distribution_port, self._epmd_port = (_free_port() for _ in range(3))
        self.management_port = _free_port() if management else 0
        self.node = f"asya-{secrets.token_hex(4)}@localhost"
        self._extra = config
        self._server: subprocess.Popen[bytes] | None = None
        self.epmd: subprocess.Popen[bytes] | None = None

    def url(
        self, *, vhost: str = "", user: str = "", password: str = "", port: int = 0, query: str = ""
    ) -> str:
        """The address for clients, credentials included; of the administrator without others."""
        name, word = quote(user or self.user), quote(password or self.password)
        place = f"{HOST}:{port or self.port}"
        return f"amqp://{name}:{word}@{place}/{quote(vhost, safe='')}" + (query and f"?{query}")

    @property
    def management(self) -> str:
        """The HTTP API's address."""
        return f"http://{HOST}:{self.management_port}"

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._server is not None and self._server.poll() is None

    @property
    def pid(self) -> int:
        """The Erlang machine's process."""
        return int((self.folder / "pid").read_text())

    @property
    def log(self) -> str:
        """The server's log so far."""
        found = sorted((self.folder / "log").glob("*.log"))
        return "".join(path.read_text(errors="replace") for path in found)

    def start(self) -> None:
        """Start the node; returns when it takes connections. Does nothing while it runs."""
        if self.running:
            return
        began = time.monotonic()
        for name in ("home", "mnesia", "log"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        plugins = "[rabbitmq_management]." if self.management_port else "[]."
        (self.folder / "plugins").write_text(plugins)
        (self.folder / "rabbitmq.conf").write_text(self._config())
        (self.folder / "pid").unlink(missing_ok=True)
        self._start_epmd()
        with (self.folder / "out.log").open("ab") as out:
            self._server = subprocess.Popen(
                [str(self._programs / "rabbitmq-server")],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            self._wait_ready(began)
        except BaseException:
            self.close()
            raise
        self._say(f"RabbitMQ is up on port {self.port} after {time.monotonic() - began:.1f} s")

    def stop(self) -> None:
        """End the node in its own time, as an operator would."""
        if self.running:
            os.kill(self.pid, signal.SIGTERM)
        self._reap()

    def kill(self) -> None:
        """End the node at once, by SIGKILL to the whole Erlang machine."""
        if self.running:
            os.kill(self.pid, signal.SIGKILL)
        self._reap()

    def restart(self) -> None:
        """Stop and start on the same ports, with the same data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Kill the node, and end everything else that was started."""
        if self.running:
            with contextlib.suppress(OSError, ValueError):
                os.kill(self.pid, signal.SIGKILL)
        self._reap()
        epmd, self.epmd = self.epmd, None
        if epmd is not None:
            epmd.kill()
            epmd.wait()

    def ctl(self, *arguments: str) -> str:
        """What `rabbitmqctl` prints; takes a second or two.

        Raises:
            RuntimeError: The command failed; with what it said.
        """
        done = subprocess.run(
            [str(self._programs / "rabbitmqctl"), "--quiet", *arguments],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {arguments[0]}: {done.stderr or done.stdout}")
        return done.stdout

    def _start_epmd(self) -> None:
        # A node that finds none starts one itself, as a daemon that outlives everything.
        if self.epmd is not None and self.epmd.poll() is None:
            return
        self.epmd = subprocess.Popen(
            ["epmd", "-port", str(self._epmd_port), "-address", HOST],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until = time.monotonic() + READY_S
        while not _listens(self._epmd_port):
            if self.epmd.poll() is not None or time.monotonic() > until:
                self.close()
                raise RuntimeError(f"epmd does not listen on port {self._epmd_port}")
            time.sleep(0.02)

    def _wait_ready(self, began: float) -> None:
        assert self._server is not None
        told = began
        while not _greets(self.port) or not (self.folder / "pid").exists():
            if self._server.poll() is not None:
                raise RuntimeError(f"RabbitMQ ended while it started: {self._tail()}")
            now = time.monotonic()
            if now - began > READY_S:
                raise RuntimeError(f"RabbitMQ does not come up: {self._tail()}")
            if now - told > 5:
                told = now
                self._say(f"RabbitMQ is starting ({now - began:.0f} s)")
            time.sleep(0.1)

    def _reap(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        try:
            server.wait(STOP_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()

    def _environment(self) -> dict[str, str]:
        folder = self.folder
        erlang = shutil.which("erl")
        places = [*([str(Path(erlang).parent)] if erlang else []), *_PATH]
        return {
            "LANG": "C.UTF-8",
            "PATH": os.pathsep.join(places),
            "TMPDIR": tempfile.gettempdir(),
            "HOME": str(folder / "home"),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_CRASH_DUMP_SECONDS": "0",  # it would lie in whatever folder the tests run in
            # Idle schedulers that spin would take the processor from the tests.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none "
            # What it hands on to itself when it is killed it hands on again after this time.
            f"-rabbit dead_letter_worker_publisher_confirm_timeout {HAND_ON_MS}",
        }

    def _config(self) -> str:
        management = ""
        if self.management_port:
            management = f"""management.tcp.ip = {HOST}
management.tcp.port = {self.management_port}
collect_statistics_interval = 1000
"""
        return f"""# Written at every start.
listeners.tcp.1 = {HOST}:{self.port}
default_user = {self.user}
default_pass = {self.password}
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.absolute = 2GB
{management}{self._extra}
"""

    def _tail(self) -> str:
        return (self.folder / "out.log").read_text(errors="replace")[-2000:] + self.log[-2000:]


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), 2):
        return True
    return False


def _greets(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), 2) as connection:
        connection.sendall(_GREETING)
        return bool(connection.recv(8))
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
