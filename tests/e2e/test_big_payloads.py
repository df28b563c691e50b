"""Payloads that do not fit into a message, through a whole mesh: what users and their data see."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Mesh

pytestmark = pytest.mark.slow

HANDLERS = """
import hashlib, json, os, signal

def echo(payload):
    return payload

def digest(payload):
    return hashlib.sha256(payload["text"].encode()).hexdigest()

def twenty(payload):
    for _ in range(20):
        yield payload

def make(size):
    return {"text": "y" * size}

def die_once(payload):
    try:
        os.close(os.open("died", os.O_CREAT | os.O_EXCL))
        os.kill(os.getpid(), signal.SIGKILL)
    except FileExistsError:
        return payload
"""

TEN_MB = 10_000_000


@pytest.fixture
def big(mesh: Mesh) -> Mesh:
    """A mesh with an actor for each handler."""
    mesh.code(HANDLERS)
    for name in ("echo", "digest", "twenty", "make", "die_once"):
        mesh.actor(name.replace("_", "-"), f"handlers.{name}", scaling={"queueLength": 1})
    return mesh


def blobs(mesh: Any) -> list[Path]:
    return [path for path in (mesh.data / "blobs").glob("??/*") if path.is_file()]


def test_ten_megabytes_pass_two_actors_and_come_back_whole(big: Any) -> None:
    big.up()
    text = "ä" * (TEN_MB // 2)
    payload = {"text": text, "number": 1.50}
    end = big.call(["echo", "digest"], payload)
    assert end["status"] == "succeeded", end["error"]
    assert end["result"] == hashlib.sha256(text.encode()).hexdigest()
    whole = big.call(["echo", "echo"], payload)
    assert (whole["status"], whole["result"]) == ("succeeded", payload)
    assert len(blobs(big)) <= 2  # what came, and what Python's json made of it
    assert whole["hops"][0]["in"]["size"] > TEN_MB


def test_a_fan_out_of_twenty_stores_one_blob(big: Any, wait_until: Callable[..., None]) -> None:
    big.up()
    root = big.send(["twenty", "digest"], {"text": "z" * 1_000_000})
    big.ended(root)

    def done() -> bool:
        page = big.get(f"/v1/envelopes?root={root}&limit=100")[1]["envelopes"]
        return len(page) == 20 and all(one["status"] == "succeeded" for one in page)

    wait_until(done, 60)
    assert len(blobs(big)) == 2  # as it was sent, and as the handler wrote it


def test_kill_nine_of_a_replica_and_of_the_mesh_lose_nothing(big: Any) -> None:
    big.up()
    end = big.call(["die-once", "digest"], {"text": "k" * 2_000_000}, wait_s=60)
    assert end["result"] == hashlib.sha256(b"k" * 2_000_000).hexdigest()
    sent = [big.send(["echo", "make", "digest"], 2_000_000 + n) for n in range(5)]
    big.kill()
    big.up()
    for number, one in enumerate(sent):
        text = b"y" * (2_000_000 + number)
        assert big.ended(one, 60)["result"] == hashlib.sha256(text).hexdigest()


def test_a_missing_blob_fails_its_envelope_and_nothing_else(big: Any) -> None:
    big.up("--blob-threshold", "8KiB")
    end = big.call("echo", {"text": "x" * 100_000})
    assert end["result"] == {"text": "x" * 100_000}
    shutil.rmtree(next(iter(blobs(big))).parent)
    for path in blobs(big):
        path.unlink()
    status, problem = big.ask("GET", f"/v1/envelopes/{end['id']}")
    assert (status, problem["title"]) == (410, "The result is not in the blob store any more")

    damaged = big.send("echo", {"text": "d" * 100_000}, not_before="2s")
    (path,) = blobs(big)
    path.write_bytes(b"D" * path.stat().st_size)
    failed = big.ended(damaged)
    assert (failed["status"], failed["error"]["reason"]) == ("failed", "BlobMissing")
    assert "is damaged" in failed["error"]["message"]
    assert big.call("echo", 1)["result"] == 1


def test_the_limits_are_clear_errors(big: Any) -> None:
    big.up("--payload-max", "1MiB", "--body-max", "2MiB")
    failed = big.call("make", 3 * 1024 * 1024)
    assert failed["status"] == "failed"
    assert "the limit is 1048576 bytes" in failed["error"]["message"]
    status, problem = big.ask(
        "POST", "/v1/envelopes", {"route": ["echo"], "payload": "x" * 1_500_000}
    )
    assert (status, "1048576" in problem["detail"]) == (413, True)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_refuses_the_start(big: Any) -> None:
    folder = big.folder / "blobs"
    folder.mkdir(mode=0o500)
    process = big.popen("--blob-store", str(folder))
    assert process.wait(20) == 2
    assert "blobStore" in big.said()


def test_a_folder_that_is_a_file_refuses_the_start(big: Any) -> None:
    (big.folder / "blobs").write_text("I am a file")
    process = big.popen("--blob-store", str(big.folder / "blobs"))
    assert process.wait(20) == 2
    assert "cannot be used" in big.said()
    assert "blobStore" in big.said()


def test_a_retention_under_the_retries_refuses_the_start(big: Any) -> None:
    big.actor(
        "patient",
        "handlers.echo",
        resiliency={
            "policies": {
                "default": {"maxAttempts": 3, "initialDelay": "400h", "maxInterval": "400h"}
            }
        },
    )
    process = big.popen()
    assert process.wait(20) == 2
    assert "raise blobRetention above it" in big.said()


def test_the_command_line_sends_and_prints_big_payloads(big: Any) -> None:
    big.up()
    payload = {"text": "c" * 3_000_000}
    (big.folder / "payload.json").write_text(json.dumps(payload) + "\n")
    printed = big.command("call", "echo", "-f", "payload.json")
    assert json.loads(printed) == payload
