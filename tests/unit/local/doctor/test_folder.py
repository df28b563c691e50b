"""Checks of the data folder, the ports, and the mesh that runs there or was killed."""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from asya.codes import Code
from asya.local.doctor import folder
from asya.local.leftovers import ChildRecord
from asya.local.lock import FolderLock

Part = namedtuple("Part", "mountpoint fstype")  # noqa: PYI024  as psutil's own
Usage = namedtuple("Usage", "free")  # noqa: PYI024  as shutil's own


def announce(project: Path, url: str, pid: int) -> None:
    (project / ".asya").mkdir(exist_ok=True)
    record = {
        "pid": pid, "url": url, "started_at": "2026-01-01T00:00:00Z",
        "data": str(project), "logs": str(project), "actors": [],
    }  # fmt: skip
    (project / ".asya" / "mesh.json").write_text(json.dumps(record))


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


@pytest.fixture
def answering() -> Iterator[tuple[str, list[tuple[int, bytes]]]]:
    """A gateway that answers what the list says."""
    answers = [(200, b'{"status": "ok"}')]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers[-1]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", answers
        server.shutdown()
        thread.join()


def test_a_data_folder_that_will_be_made(project: Path, make: Any, seen: Any) -> None:
    (found,) = seen(folder.check_data, make())
    assert (found.state, found.text) == ("ok", f"{project}/.asya, which `asya up` will make")
    assert not (project / ".asya").exists()


def test_a_data_folder_that_is_there(project: Path, make: Any, seen: Any) -> None:
    (project / ".asya").mkdir()
    assert seen(folder.check_data, make())[0].text == f"{project}/.asya"
    assert list((project / ".asya").iterdir()) == []


def test_a_file_in_the_way(project: Path, make: Any, seen: Any) -> None:
    (project / "here").write_text("")
    (found,) = seen(folder.check_data, make(data=str(project / "here" / "data")))
    assert (found.state, found.code) == ("fail", Code.DATA_UNUSABLE)


def test_no_permission(
    project: Path, make: Any, seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    (found,) = seen(folder.check_data, make())
    assert (found.state, found.code) == ("fail", Code.DATA_UNUSABLE)
    assert "no permission" in found.text


@pytest.mark.parametrize(("kind", "state"), [("ext4", "ok"), ("nfs4", "fail"), ("CIFS", "fail")])
def test_the_file_system_of_the_nearest_mount_counts(
    project: Path, make: Any, seen: Any, monkeypatch: pytest.MonkeyPatch, kind: Any, state: Any
) -> None:
    parts = [Part("/", "nfs" if state == "ok" else "ext4"), Part(str(project.resolve()), kind)]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: parts)  # noqa: A006  psutil's name
    assert seen(folder.check_file_system, make())[0].state == state


def test_a_system_that_tells_no_file_system(
    make: Any, seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: [])  # noqa: A006  psutil's name
    assert seen(folder.check_file_system, make())[0].state == "skip"


@pytest.mark.parametrize(("free", "state"), [(0, "fail"), (500 * 2**20, "warn"), (2**34, "ok")])
def test_room_on_the_disk(
    make: Any, seen: Any, monkeypatch: pytest.MonkeyPatch, free: Any, state: Any
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(free))
    assert seen(folder.check_space, make())[0].state == state


def test_blobs_lie_in_the_data_folder_or_where_the_settings_say(
    project: Path, make: Any, seen: Any
) -> None:
    assert seen(folder.check_blobs, make())[0].text == "in the data folder"
    (found,) = seen(folder.check_blobs, make(blob_store=str(project / "big")))
    assert (found.state, found.text) == ("ok", f"{project}/big")
    assert list(project.iterdir()) == []


def test_a_blob_store_that_cannot_be_written_to(project: Path, make: Any, seen: Any) -> None:
    (project / "big").write_text("")
    (found,) = seen(folder.check_blobs, make(blob_store=str(project / "big")))
    assert (found.state, found.code) == ("fail", Code.BLOB)


def test_an_object_store_needs_its_library(
    make: Any, seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = make(blob_store="s3://bucket/prefix")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert seen(folder.check_blobs, setup)[0].state == "skip"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (found,) = seen(folder.check_blobs, setup)
    assert (found.state, found.code) == ("fail", Code.EXTRA_MISSING)


def test_blobs_that_would_not_live_long_enough(project: Path, make: Any, seen: Any) -> None:
    (project / "a.yaml").write_text(
        "apiVersion: asya.sh/v1alpha1\nkind: AsyncActor\nmetadata: {name: a}\nspec:\n"
        "  handler: a.b\n  resiliency: {policies: {default: {maxAttempts: 3, "
        "initialDelay: 900h, maxInterval: 900h}}}\n"
    )
    (found,) = seen(folder.check_blobs, make())
    assert (found.state, found.code) == ("fail", Code.SETTINGS_CONTRADICT)
    assert "raise blobRetention above it" in found.text


def test_a_free_port(make: Any, seen: Any, free_port: Any) -> None:
    (found,) = seen(folder.check_ports, make(port=free_port))
    assert (found.state, found.text) == ("ok", f"{free_port} on 127.0.0.1 is free")


def test_any_port(make: Any, seen: Any) -> None:
    assert seen(folder.check_ports, make(port=0))[0].state == "ok"


def test_a_port_in_use_names_who_has_it(make: Any, seen: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        setup = make(port=0, metrics_port=held.getsockname()[1])
        free, taken = seen(folder.check_ports, setup)
    assert free.state == "ok"
    assert (taken.state, taken.code) == ("fail", Code.PORT_UNUSABLE)
    assert f"in use by process {os.getpid()}" in taken.text


def test_a_port_that_our_mesh_holds_is_well(project: Path, make: Any, seen: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        announce(project, f"http://127.0.0.1:{port}", os.getpid())
        (found,) = seen(folder.check_ports, make(port=port))
    assert (found.state, f"(pid {os.getpid()})" in found.text) == ("ok", True)


def test_no_mesh(make: Any, seen: Any) -> None:
    assert seen(folder.check_mesh, make())[0].text == "none runs here"


def test_a_mesh_that_is_ready(project: Path, make: Any, seen: Any, answering: Any) -> None:
    announce(project, answering[0], os.getpid())
    (found,) = seen(folder.check_mesh, make())
    assert (found.state, found.text) == ("ok", f"pid {os.getpid()} at {answering[0]} is ready")


def test_a_mesh_that_is_not_ready_says_why(
    project: Path, make: Any, seen: Any, answering: Any
) -> None:
    announce(project, answering[0], os.getpid())
    answering[1].append((503, b'{"detail": "the broker is gone"}'))
    (found,) = seen(folder.check_mesh, make())
    assert (found.state, found.code) == ("fail", Code.UNAVAILABLE)
    assert found.text.endswith("is not ready: the broker is gone")


def test_a_mesh_that_does_not_answer(project: Path, make: Any, seen: Any, free_port: Any) -> None:
    announce(project, f"http://127.0.0.1:{free_port}", os.getpid())
    (found,) = seen(folder.check_mesh, make())
    assert (found.state, found.code) == ("fail", Code.MESH_UNREACHABLE)


def test_a_mesh_whose_record_is_gone_is_no_killed_one(project: Path, make: Any, seen: Any) -> None:
    """Given a mesh that holds the folder, when its record was removed, its children are its own."""
    lock = FolderLock(project / ".asya")
    lock.acquire()
    ChildRecord(project / ".asya" / "children.jsonl").add(os.getpid(), "embedder")
    try:
        (mesh,) = seen(folder.check_mesh, make())
        (left,) = seen(folder.check_leftovers, make())
    finally:
        lock.release()
    assert (mesh.state, mesh.code) == ("fail", Code.MESH_UNREACHABLE)
    assert mesh.text.startswith(f"pid {os.getpid()} runs on {project / '.asya'}")
    assert "--url" in mesh.text
    assert left.state == "ok"
    assert seen(folder.check_mesh, make())[0].text == "none runs here"


def test_what_a_killed_mesh_left_is_named_and_left_alone(
    project: Path, make: Any, seen: Any
) -> None:
    (project / ".asya").mkdir()
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(sleep, start_new_session=True) as child:
        ChildRecord(project / ".asya" / "children.jsonl").add(child.pid, "embedder")
        (found,) = seen(folder.check_leftovers, make())
        assert child.poll() is None
        child.kill()
    assert (found.state, found.code) == ("warn", Code.MESH_LEFTOVERS)
    assert f"embedder (pid {child.pid}) left behind" in found.text
    assert seen(folder.check_leftovers, make())[0].text == "none"
