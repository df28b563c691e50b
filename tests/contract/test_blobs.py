"""The blob stores against their contract, and what each has of its own."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asya.blobs import folder as folder_module
from asya.blobs.base import BlobRef
from asya.blobs.folder import FolderBlobs
from asya.blobs.memory import MemoryBlobs
from asya.blobs.object_store import ObjectBlobs, object_blobs
from asya.errors import BlobMissing, BlobUnavailable, UsageError
from asya.testing.blob_contract import BODY, DAY_S, BlobContract, sweep


class TestMemory(BlobContract):
    @pytest.fixture
    def blobs(self) -> MemoryBlobs:
        return MemoryBlobs()

    @pytest.fixture
    def damage(self, blobs: Any) -> Callable[..., Any]:
        async def change(ref: Any, body: Any) -> None:
            if body is None:
                del blobs.blobs[ref.sha256]
            else:
                blobs.blobs[ref.sha256] = body

        return change

    @pytest.fixture
    def age(self, blobs: Any) -> Callable[..., Any]:
        async def older(ref: Any, seconds: Any) -> None:
            blobs._times[ref.sha256] -= timedelta(seconds=seconds)

        return older


class TestFolder(BlobContract):
    @pytest.fixture
    async def blobs(self, tmp_path: Path) -> FolderBlobs:
        store = FolderBlobs(tmp_path / "blobs")
        await store.open()
        return store

    @pytest.fixture
    def damage(self, blobs: Any) -> Callable[..., Any]:
        async def change(ref: Any, body: Any) -> None:
            path = blobs.path(ref)
            path.unlink() if body is None else path.write_bytes(body)

        return change

    @pytest.fixture
    def age(self, blobs: Any) -> Callable[..., Any]:
        async def older(ref: Any, seconds: Any) -> None:
            at = blobs.path(ref).stat().st_mtime - seconds
            os.utime(blobs.path(ref), (at, at))

        return older

    async def test_only_the_owner_can_read(self, blobs: Any) -> None:
        ref = await blobs.put(BODY)
        path = blobs.path(ref)
        assert [p.stat().st_mode & 0o077 for p in (path, path.parent, blobs.folder)] == [0, 0, 0]

    async def test_a_second_put_writes_nothing(
        self, blobs: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await blobs.put(BODY)
        monkeypatch.setattr(folder_module, "_write", None)
        await blobs.put(BODY)

    async def test_a_full_disk_leaves_nothing_behind_and_can_be_tried_again(
        self, blobs: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = os.write

        def full(file: Any, data: Any) -> Any:
            if len(data) < len(BODY):
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(file, memoryview(data)[:1000])

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(BlobUnavailable, match=r"disk is full.*make room"):
            await blobs.put(BODY)
        monkeypatch.undo()
        assert [p for p in blobs.folder.rglob("*") if p.is_file()] == [blobs.folder / "lock"]
        assert await blobs.get(await blobs.put(BODY)) == BODY

    async def test_a_read_only_folder_is_refused_with_the_remedy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def read_only(path: Any, *args: Any, **kwargs: Any) -> None:
            raise OSError(errno.EROFS, "Read-only file system", str(path))

        monkeypatch.setattr(Path, "mkdir", read_only)
        with pytest.raises(UsageError, match=r"Read-only file system.*make it writable"):
            await FolderBlobs(tmp_path / "blobs").open()

    async def test_a_kill_nine_in_a_put_leaves_no_blob_and_the_sweep_clears_up(
        self, blobs: Any
    ) -> None:
        code = (
            "import asyncio, os, signal, sys; from pathlib import Path\n"
            "from asya.blobs.folder import FolderBlobs\n"
            "os.write = lambda file, data: os.kill(os.getpid(), signal.SIGKILL)\n"
            "asyncio.run(FolderBlobs(Path(sys.argv[1])).put(b'x' * 1000))\n"
        )
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", code, str(blobs.folder)], check=False
        )
        assert done.returncode == -9
        (left,) = (blobs.folder / "tmp").iterdir()
        assert await sweep(blobs, DAY_S) == 0
        assert left.exists()
        os.utime(left, (time.time() - 7200,) * 2)
        await sweep(blobs, DAY_S)
        assert not left.exists()
        assert await blobs.get(await blobs.put(b"x" * 1000)) == b"x" * 1000

    async def test_time_in_which_nothing_ran_does_not_count(self, blobs: Any, age: Any) -> None:
        ref = await blobs.put(BODY)
        await age(ref, 30 * DAY_S)
        at = time.time() - 29 * DAY_S
        os.utime(blobs.folder / "lock", (at, at))
        again = FolderBlobs(blobs.folder)
        await again.open()
        assert await sweep(again, 2 * DAY_S) == 0
        assert await sweep(again, 0.5 * DAY_S) == 1

    async def test_a_reference_from_outside_cannot_leave_the_folder(self) -> None:
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(
                b'{"sha256":"../../../etc/passwd","size":1,"store":"folder"}', type=BlobRef
            )


obstore = pytest.importorskip("obstore")


class TestObjects(BlobContract):
    """Through obstore, on a folder: there a test can make objects older."""

    @pytest.fixture
    def objects(self, tmp_path: Path) -> Any:
        from obstore.store import LocalStore

        return LocalStore(tmp_path / "objects", mkdir=True)

    @pytest.fixture
    async def blobs(self, objects: Any) -> AsyncIterator[ObjectBlobs]:
        store = ObjectBlobs(objects, "objects", 4 * DAY_S)
        await store.open()
        yield store
        await store.close()

    @pytest.fixture
    def damage(self, objects: Any) -> Callable[..., Any]:
        async def change(ref: Any, body: Any) -> None:
            path = f"{ref.sha256[:2]}/{ref.sha256}"
            if body is None:
                await obstore.delete_async(objects, path)
            else:
                await obstore.put_async(objects, path, body)

        return change

    @pytest.fixture
    def age(self, tmp_path: Path) -> Callable[..., Any]:
        async def older(ref: Any, seconds: Any) -> None:
            path = tmp_path / "objects" / ref.sha256[:2] / ref.sha256
            at = path.stat().st_mtime - seconds
            os.utime(path, (at, at))

        return older

    async def test_one_that_is_used_soon_after_is_not_written_again(
        self, blobs: Any, objects: Any
    ) -> None:
        ref = await blobs.put(BODY)
        path = f"{ref.sha256[:2]}/{ref.sha256}"
        before = obstore.head(objects, path)["e_tag"]
        await blobs.put(BODY)
        await blobs.get(ref)
        assert obstore.head(objects, path)["e_tag"] == before


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A server that speaks S3; gives its address."""
    pytest.importorskip("moto.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "from moto.server import main; main()"
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        give_up = time.monotonic() + 20
        while True:
            try:
                request = urllib.request.Request(f"{url}/bucket", method="PUT")
                urllib.request.urlopen(request, timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < give_up
                time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()


class TestS3:
    @pytest.fixture(autouse=True)
    def credentials(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")

    async def test_blobs_in_a_bucket_under_a_prefix(self, s3: Any) -> None:
        store = object_blobs(f"s3://bucket/mesh/one?endpoint={s3}&region=us-east-1", 10 * DAY_S)
        await store.open()
        assert store.name == "s3://bucket/mesh/one"
        refs = await asyncio.gather(*(store.put(BODY) for _ in range(3)))
        ref = refs[0]
        assert (len(set(refs)), ref.store) == (1, "s3://bucket/mesh/one")
        assert await store.get(ref) == BODY
        assert b"".join([piece async for piece in store.stream(ref)]) == BODY
        await store.touch(ref)
        with pytest.raises(BlobMissing, match="is not in the blob store s3://bucket/mesh/one"):
            await store.get(BlobRef("ab" * 32, 5, store.name))
        assert await sweep(store, DAY_S) == 0
        assert await sweep(store, -DAY_S) == 1
        with pytest.raises(BlobMissing):
            await store.get(ref)

    async def test_a_bucket_that_is_not_there_refuses_the_start(self, s3: Any) -> None:
        store = object_blobs(f"s3://nowhere/p?endpoint={s3}&region=us-east-1", DAY_S)
        with pytest.raises(UsageError, match=r"s3://nowhere/p cannot be used.*credentials"):
            await store.open()

    async def test_a_store_that_does_not_answer_can_be_asked_again(self) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        store = object_blobs(f"s3://bucket?endpoint={url}&region=us-east-1", DAY_S)
        with pytest.raises(BlobUnavailable, match="s3://bucket cannot be used now"):
            await store.put(BODY)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://b?secret_access_key=x", "secret_access_key does not belong into an address"),
        ("s3://b?colour=red", "s3://b"),
    ],
)
def test_addresses_that_cannot_be_used(url: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        object_blobs(url, DAY_S)


def test_a_bucket_of_google_needs_no_more_than_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    assert object_blobs("gs://bucket/mesh", DAY_S).name == "gs://bucket/mesh"
