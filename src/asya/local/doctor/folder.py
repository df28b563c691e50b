"""Checks of the data folder, the ports, and a mesh that runs there or was killed there."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from asya.codes import Code
from asya.errors import UsageError, how_to_install
from asya.local import run_file
from asya.local.doctor.checks import Seen
from asya.local.doctor.set_up import SetUp
from asya.local.lock import holder
from asya.local.run_file import RunFile

REMOTE: Final = frozenset({
    "9p", "afs", "ceph", "cifs", "fuse.s3fs", "fuse.sshfs", "glusterfs", "lustre", "ncpfs", "nfs",
    "nfs4", "smb3", "smbfs", "webdav",
})  # fmt: skip
"""File systems whose locks and syncs a database cannot trust."""

FREE_MIN_BYTES: Final = 64 * 2**20
FREE_LOW_BYTES: Final = 2**30
"""Below the first the broker stores nothing. Below the second a busy mesh fills the disk in an hour."""

READY_TIMEOUT_S: Final = 1.5


def check_data(setup: SetUp) -> Seen:
    """Whether the data folder can be written to, or made."""
    place = _nearest_that_exists(setup.data)
    if not place.is_dir():
        yield "fail", f"{place} is not a folder; give another with --data", Code.DATA_UNUSABLE
    elif not os.access(place, os.W_OK | os.X_OK):
        text = f"no permission to write into {place}; make it writable, or give another folder with --data"
        yield "fail", text, Code.DATA_UNUSABLE
    else:
        new = "" if place == setup.data else ", which `asya up` will make"
        yield "ok", f"{setup.data}{new}"


def check_file_system(setup: SetUp) -> Seen:
    """Whether the data folder is on a disk of this machine."""
    import psutil

    place = _nearest_that_exists(setup.data).resolve()
    mounts = [
        part
        for part in psutil.disk_partitions(all=True)
        if place.is_relative_to(part.mountpoint) and part.fstype
    ]
    if not mounts:
        yield "skip", "the system does not say which file system this is"
        return
    kind = max(mounts, key=lambda part: len(part.mountpoint)).fstype
    if kind.lower() in REMOTE:
        text = f"{setup.data} is on {kind}; give a folder on a local disk with --data"
        yield "fail", text, Code.DATA_UNUSABLE
    else:
        yield "ok", f"{kind}, on this machine"


def check_space(setup: SetUp) -> Seen:
    """Room on the disk of the data folder."""
    free = shutil.disk_usage(_nearest_that_exists(setup.data)).free
    text = f"{free / 2**30:.1f} GiB are free"
    if free < FREE_MIN_BYTES:
        yield "fail", f"{text}; the broker stores nothing, free some space", Code.BROKER_DISK_FULL
    elif free < FREE_LOW_BYTES:
        yield "warn", f"{text}, which is not much", Code.BROKER_DISK_FULL
    else:
        yield "ok", text


def check_blobs(setup: SetUp) -> Seen:
    """Whether the store of big payloads can be used, as far as can be told without writing."""
    from asya.local.blobs import check_retention

    check_retention(setup.actors, setup.settings.blobs_kept_s)
    where = setup.settings.blob_store
    if where is None:
        yield "ok", "in the data folder"
    elif isinstance(where, Path):
        place = _nearest_that_exists(where.absolute())
        if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
            yield "ok", f"{where}"
        else:
            text = (
                f"{where} cannot be written to; make it writable, or give another with --blob-store"
            )
            yield "fail", text, Code.BLOB
    elif importlib.util.find_spec("obstore") is None:
        text = f"obstore missing, which {where} needs; {how_to_install('blobs')}"
        yield "fail", text, Code.EXTRA_MISSING
    else:
        yield "skip", f"{where} is asked when the mesh starts"


def check_ports(setup: SetUp) -> Seen:
    """Whether the ports of the gateway and of the metrics can be taken."""
    from asya.gateway.server import bind

    mesh = _mesh(setup)
    for port in (setup.settings.port, setup.settings.metrics_port):
        if port is None:
            continue
        if mesh is not None and (port == 0 or urlsplit(mesh.url).port == port):
            yield "ok", f"{port or 'its port'} is held by this folder's mesh (pid {mesh.pid})"
        elif port == 0:
            yield "ok", "a free one will be taken"
        else:
            try:
                bind(setup.settings.host, port).close()
            except UsageError as error:
                yield "fail", str(error), error.code
            else:
                yield "ok", f"{port} on {setup.settings.host} is free"


def check_mesh(setup: SetUp) -> Seen:
    """Whether a mesh runs here, and answers."""
    mesh = _mesh(setup)
    if mesh is None:
        pid = holder(setup.data)
        if pid is None:
            yield "ok", "none runs here"
        else:
            text = (
                f"pid {pid} runs on {setup.data}, but its run file {run_file.FILE} is gone, so commands "
                "do not find it; pass --url to them, or restart the mesh"
            )
            yield "fail", text, Code.MESH_UNREACHABLE
        return
    try:
        status, said = _ask_ready(mesh.url)
    except (OSError, http.client.HTTPException) as error:
        text = f"pid {mesh.pid} at {mesh.url} does not answer ({error}); asya logs x-mesh"
        yield "fail", text, Code.MESH_UNREACHABLE
        return
    if status == http.client.OK:
        yield "ok", f"pid {mesh.pid} at {mesh.url} is ready"
    else:
        text = f"pid {mesh.pid} at {mesh.url} is not ready: {said}"
        yield "fail", text, Code.UNAVAILABLE


def check_leftovers(setup: SetUp) -> Seen:
    """What a mesh that was killed has left running."""
    from asya.local.broker import left_running
    from asya.local.leftovers import ChildRecord, still_alive

    if _mesh(setup) is not None or holder(setup.data) is not None:
        yield "ok", "the mesh runs, and sees to its own"
        return
    left = [
        f"{child.name} (pid {child.pid})"
        for child in still_alive(ChildRecord(setup.data / "children.jsonl").read())
    ]
    left += [f"nats-server (pid {pid})" for pid in left_running(setup.data / "nats")]
    if left:
        text = f"{', '.join(left)} left behind by a killed mesh; `asya up` ends them and goes on"
        yield "warn", text, Code.MESH_LEFTOVERS
    else:
        yield "ok", "none"


def _mesh(setup: SetUp) -> RunFile | None:
    return run_file.read(setup.data / run_file.FILE)


def _nearest_that_exists(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.exists())


def _ask_ready(url: str) -> tuple[int, str]:
    """The status of /readyz, and what it says."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=READY_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    try:
        return answer.status, str(json.loads(body).get("detail", ""))
    except (ValueError, AttributeError):
        return answer.status, ""
