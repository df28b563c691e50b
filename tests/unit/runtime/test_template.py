"""The template's process, spoken to as the supervisor does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asya.runtime.protocol import FrameParser, pack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="templates are for Linux")

CODE = "import atexit, os\natexit.register(print, 'at exit')\ndef f(payload):\n    return payload\n"


class Supervisor:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sidecar = socket.socket(socket.AF_UNIX)
        self.sidecar.bind(str(folder / "s"))
        self.sidecar.listen()
        self.sidecar.settimeout(30)
        self.socket, self._its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(30)
        self.process: subprocess.Popen[bytes]

    def start(self, code: str = CODE, *, age_s: float = 60) -> None:
        path = self.folder / "handlers.py"
        path.write_text(code)
        changed = time.time() - age_s
        os.utime(path, (changed, changed))
        fd = self._its.fileno()
        environ = {
            "PYTHONPATH": ":".join(sys.path),
            "ASYA_SOCKET": str(self.folder / "s"),
            "ASYA_HANDLER": "handlers.f",
            "ASYA_PATH": str(self.folder),
            "ASYA_FORKS": str(fd),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "asya.runtime"],
            cwd=self.folder,
            env=environ,
            pass_fds=[fd],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._its.close()

    def told(self) -> tuple[dict[str, Any], list[int]]:
        data, fds, _, _ = socket.recv_fds(self.socket, 65536, 1)
        return json.loads(data), fds

    def fork(self, number: int) -> int:
        """Ask for a replica; gives the end of the pipe that it prints to."""
        out, end = os.pipe()
        socket.send_fds(self.socket, [json.dumps({"k": "fork", "n": number}).encode()], [end])
        os.close(end)
        return out


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    made = Supervisor(tmp_path)
    yield made
    made.socket.close()
    made.sidecar.close()
    with made.process as process:
        process.wait(30)


def test_a_replica_is_forked_greets_and_its_end_is_told(supervisor: Supervisor) -> None:
    supervisor.start()
    assert supervisor.told()[0] == {"k": "ready"}
    out = supervisor.fork(7)
    told, (pidfd,) = supervisor.told()
    assert (told["k"], told["n"]) == ("forked", 7)
    connection, _ = supervisor.sidecar.accept()
    (header, _), *_ = FrameParser().feed(connection.recv(65536))
    assert (header["k"], header["pid"]) == ("hello", told["pid"])
    assert os.getsid(told["pid"]) == told["pid"] != supervisor.process.pid
    connection.sendall(pack({"k": "bye"}))
    assert supervisor.told()[0] == {"k": "ended", "pid": told["pid"], "code": 0}
    # what Python does at exit is done in the replica, and not in the template
    with os.fdopen(out) as printed:
        assert printed.read() == "at exit\n"
    supervisor.socket.close()
    assert supervisor.process.wait(30) == 0
    assert supervisor.process.stdout is not None
    assert supervisor.process.stdout.read() == b""
    os.close(pidfd)
    connection.close()


def test_code_that_changed_is_not_forked(supervisor: Supervisor) -> None:
    supervisor.start()
    assert supervisor.told()[0] == {"k": "ready"}
    path = supervisor.folder / "handlers.py"
    path.write_text(CODE + "\n")
    os.close(supervisor.fork(1))
    assert supervisor.told()[0] == {"k": "stale", "n": 1, "file": str(path)}
    assert supervisor.process.wait(30) == 0


def test_code_that_changes_while_it_is_imported_is_not_trusted(supervisor: Supervisor) -> None:
    supervisor.start(age_s=-5)
    assert supervisor.told()[0]["k"] == "stale"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import missing", "raised ModuleNotFoundError: No module named 'missing'"),
        ("raise SystemExit(3)", "raised SystemExit: 3"),
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
         "the module has started 1 threads"),
        ("import os\nheld = os.pipe()", "the module holds a pipe"),
    ],
)  # fmt: skip
def test_what_cannot_be_shared_is_named(code: str, why: str, supervisor: Supervisor) -> None:
    supervisor.start(code)
    told = supervisor.told()[0]
    assert told["k"] == "off"
    assert why in told["why"]
    assert supervisor.process.wait(30) == 0
