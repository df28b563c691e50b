"""A process that has imported the handler's module, and forks replicas. Linux only.

The supervisor starts it like a replica, with a socket (SEQPACKET) as an open descriptor. Messages are
JSON objects:

    to the supervisor    {"k": "ready"} | {"k": "off", "why"} | {"k": "stale", "n"?, "file"}
                         {"k": "forked", "n", "pid"} with a pidfd | {"k": "refused", "n", "why"}
                         {"k": "ended", "pid", "code"}
    from the supervisor  {"k": "fork", "n"} with the descriptor that the replica prints to

It makes no instance of the handler's class, enters no context and starts no thread. If the imported
module has made something that processes must not share, it says `off` and ends. It says `stale` and
ends if a source file has changed, so that code that is no longer on the disk is never forked. When
the socket is closed it ends at once, without Python's exit handlers, which are for the replicas.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import socket
import sys
import threading
import time

from asya.runtime import loading, sources
from asya.runtime.serve import prepare_stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Set

    from asya.runtime.serve import Options

MESSAGE_MAX = 64 * 1024
"""Bytes of a message."""

_WRITES = os.O_WRONLY | os.O_RDWR


class Template:
    """The process, from its import to its end.

    Args:
        options: Of the replicas.
        fd: The socket to the supervisor.
    """

    def __init__(self, options: Options, fd: int) -> None:
        self._options = options
        self._sock = socket.socket(fileno=fd)
        self._sock.set_inheritable(False)
        self._stamps: sources.Stamps = {}
        self._children: Dict[int, int] = {}
        self._poller = select.poll()

    def run(self) -> bool:
        """Fork replicas until there is no more need; True in a replica, which is to serve then."""
        prepare_stdio()
        began_ns = time.time_ns()
        before = _descriptors()
        why = self._prepare() or _unshareable(before)
        if why:
            self._say({"k": "off", "why": why})
            return False
        files = sources.imported(self._options.path)
        self._stamps = sources.stamps(files)
        for path, (changed_ns, _) in self._stamps.items():
            if changed_ns >= began_ns:
                self._say({"k": "stale", "file": path})
                return False
        gc.collect()
        gc.freeze()
        self._say({"k": "ready"})
        return self._serve()

    def _prepare(self) -> Optional[str]:
        loading.extend_path(self._options.path)
        try:
            loading.prepare(self._options.handler)
        except loading.HandlerError as error:
            return str(error)
        except BaseException as error:
            return f"{type(error).__name__}: {error}"
        return None

    def _serve(self) -> bool:
        self._poller.register(self._sock, select.POLLIN)
        while True:
            for fd, _ in self._poller.poll():
                if fd in self._children:
                    self._reap(fd)
                    continue
                try:
                    data, fds, _, _ = socket.recv_fds(self._sock, MESSAGE_MAX, 1)
                except OSError:
                    return False
                if not data:
                    return False
                asked = json.loads(data)
                path = sources.changed(self._stamps)
                if path is not None:
                    self._say({"k": "stale", "n": asked["n"], "file": path})
                    return False
                if self._fork(asked["n"], fds[0]):
                    return True

    def _fork(self, number: int, out: int) -> bool:
        _flush()
        ours, its = socket.socketpair()
        try:
            pid = os.fork()
        except OSError as error:
            self._say({"k": "refused", "n": number, "why": str(error)})
            for each in (ours, its):
                each.close()
            os.close(out)
            return False
        if pid == 0:
            ours.close()
            self._become_replica(its, out)
            return True
        its.close()
        os.close(out)
        # Wait until it leads a session of its own: before that, a signal to its group would hit us.
        ours.recv(1)
        pidfd = os.pidfd_open(pid)
        self._say({"k": "forked", "n": number, "pid": pid}, [pidfd])
        _release(ours)
        self._children[pidfd] = pid
        self._poller.register(pidfd, select.POLLIN)
        return False

    def _become_replica(self, parent: socket.socket, out: int) -> None:
        os.setsid()
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.close(out)
        self._sock.close()
        for pidfd in self._children:
            os.close(pidfd)
        parent.send(b"s")
        if not parent.recv(1):
            os._exit(1)  # the template ended first, so no supervisor knows this process
        parent.close()
        _reseed()

    def _reap(self, pidfd: int) -> None:
        pid = self._children.pop(pidfd)
        self._poller.unregister(pidfd)
        os.close(pidfd)
        code: Optional[int] = None
        with contextlib.suppress(ChildProcessError):  # the module may reap children itself
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._say({"k": "ended", "pid": pid, "code": code})

    def _say(self, message: Dict[str, Any], fds: Optional[List[int]] = None) -> None:
        try:
            socket.send_fds(self._sock, [json.dumps(message).encode()[:MESSAGE_MAX]], fds or [])
        except OSError:
            leave()


def leave() -> None:
    """End the template without Python's exit handlers, which are for the replicas."""
    _flush()
    os._exit(0)


def _release(child: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may have ended already
        child.send(b"g")
    child.close()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a closed stream has nothing to flush
            stream.flush()


def _reseed() -> None:
    """Seed numpy's global generator. Python's own is seeded anew in a child; numpy's is not."""
    random: Any = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()


def _descriptors() -> Set[str]:
    listed = os.listdir("/proc/self/fd")
    # The listing's own is closed by now.
    return {fd for fd in listed if os.path.exists(f"/proc/self/fd/{fd}")}


def _unshareable(before: Set[str]) -> Optional[str]:
    """What the module has made as it was imported that replicas must not share, or None."""
    if threading.active_count() > 1:
        return f"the module has started {threading.active_count() - 1} threads"
    # Libraries that are safe to fork (OpenBLAS) end their threads before a fork by themselves.
    _try_fork()
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        return f"the module has started {threads - 1} threads outside of Python"
    for fd in sorted(_descriptors() - before):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
            with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
                flags = int(file.read().split("flags:")[1].split()[0], 8)
        except OSError:
            continue  # that of the listing itself
        if target.startswith(("socket:", "pipe:")):
            return f"the module holds a {target.partition(':')[0]}"
        if flags & _WRITES and target != os.devnull:
            return f"the module holds {target} open for writing"
    if "weakref" in sys.modules:
        finalizers = getattr(sys.modules["weakref"].finalize, "_registry", {})
        if any(each.atexit for each in finalizers):
            return "the module has made something that is removed at exit, as a temporary folder"
    return None


def _try_fork() -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pid = os.fork()
    if pid == 0:
        os._exit(0)
    with contextlib.suppress(ChildProcessError):  # the module may reap children itself
        os.waitpid(pid, 0)
