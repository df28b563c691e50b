"""Blobs in a folder: `FOLDER/ab/ab12…`, one file per blob, named by its SHA-256.

A blob is written beside its place and renamed into it, so a file that stands under its name is
whole: a kill -9 leaves at most a file in `tmp/`, which the sweep removes. Files are not synced to
the disk, as the embedded broker does not sync its own after every message: what survives a kill -9
of everything survives here too, and after a power cut a file that is not whole is found by its hash.

A blob's age is its file's modification time. Only the time in which somebody used the folder
counts: `open` moves all times on by as long as nobody did, so that what waits in queues while the
machine is off still finds its payload. A lock file (`flock`) keeps a sweep from removing what a put
has just found; several processes may use one folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

from asya.blobs.base import CHUNK_BYTES, BlobRef, BlobStore, Swept, corrupt, digest_of, missing
from asya.codes import Code
from asya.errors import BlobUnavailable, UsageError

SHARDS: Final = 256
"""Folders that blobs are spread over, by the first byte of the digest."""

TEMPORARY_AGE_S: Final = 3600.0
"""How old an unfinished file must be for the sweep to call it left behind, in seconds."""

AWAY_MIN_S: Final = 3600.0
"""A shorter time without a sign of life is not made up for, in seconds."""

_T = TypeVar("_T")


class FolderBlobs(BlobStore):
    """See the module's text.

    Args:
        folder: Made where it is not there, for its owner alone.
    """

    def __init__(self, folder: Path) -> None:
        self.name = "folder"
        self.folder = folder
        self._temporary = folder / "tmp"
        self._lock = folder / "lock"
        self._shard = 0

    async def open(self) -> None:
        """See `BlobStore`."""
        await asyncio.to_thread(self._open)

    async def close(self) -> None:
        """Nothing is held open."""

    async def put(self, body: bytes | memoryview) -> BlobRef:
        """See `BlobStore`."""
        return await self._in_thread(self._put, body)

    async def get(self, ref: BlobRef) -> bytes:
        """See `BlobStore`."""
        return await self._in_thread(self._get, ref)

    async def stream(self, ref: BlobRef) -> AsyncIterator[bytes]:
        """See `BlobStore`."""
        file = await self._in_thread(self._open_blob, ref)
        seen = hashlib.sha256()
        try:
            while chunk := await self._in_thread(_read, file, seen):
                yield chunk
        finally:
            os.close(file)
        if seen.hexdigest() != ref.sha256:
            raise corrupt(ref, self, f"its SHA-256 is {seen.hexdigest()}")

    async def touch(self, ref: BlobRef) -> None:
        """See `BlobStore`."""
        if not await self._in_thread(self._refresh, self.path(ref)):
            raise missing(ref, self)

    async def sweep(self, before: datetime, limit: int) -> Swept:
        """See `BlobStore`."""
        return await self._in_thread(self._sweep, before.timestamp(), limit)

    def path(self, ref: BlobRef) -> Path:
        """Where a blob's file is."""
        return self._path(ref.sha256)

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest

    # -- in threads -------------------------------------------------------------------------------

    async def _in_thread(self, call: Callable[..., _T], *args: object) -> _T:
        try:
            return await asyncio.to_thread(call, *args)
        except OSError as error:
            raise BlobUnavailable(self._trouble(error)) from error

    def _trouble(self, error: OSError) -> str:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return f"the blob store's disk is full ({self.folder}): make room there"
        return f"the blob store {self.folder} cannot be used: {error.strerror or error}"

    def _open(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._temporary.mkdir(mode=0o700, exist_ok=True)
            os.close(self._open_lock())
            probe = self._temporary / f"probe-{uuid.uuid4()}"
            probe.write_bytes(b"asya")
            probe.unlink()
        except OSError as error:
            raise UsageError(
                f"{self._trouble(error)}; big payloads are kept there: make it writable, or name "
                "another one (blobStore, ASYA_BLOB_STORE, --blob-store)",
                code=Code.BLOB,
            ) from error
        self._make_up_for_absence()

    def _put(self, body: bytes | memoryview) -> BlobRef:
        digest = digest_of(body)
        ref = BlobRef(digest, len(body), self.name)
        path = self._path(digest)
        if self._is_whole(path, ref.size) and self._refresh(path):
            return ref
        temporary = self._temporary / f"{os.getpid()}-{uuid.uuid4()}"
        try:
            _write(temporary, body)
            with contextlib.suppress(FileExistsError):
                path.parent.mkdir(mode=0o700)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return ref

    def _is_whole(self, path: Path, size: int) -> bool:
        try:
            return path.stat().st_size == size
        except FileNotFoundError:
            return False

    def _refresh(self, path: Path) -> bool:
        with self._locked(fcntl.LOCK_SH):
            try:
                os.utime(path)
            except FileNotFoundError:
                return False
        return True

    def _get(self, ref: BlobRef) -> bytes:
        file = self._open_blob(ref)
        try:
            body = _read_all(file, ref.size)
        finally:
            os.close(file)
        found = digest_of(body)
        if found != ref.sha256:
            raise corrupt(ref, self, f"its SHA-256 is {found}")
        return body

    def _open_blob(self, ref: BlobRef) -> int:
        """Open a blob of the right size, and begin its age anew."""
        path = self.path(ref)
        try:
            file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise missing(ref, self) from None
        try:
            size = os.fstat(file).st_size
            if size != ref.size:
                raise corrupt(ref, self, f"it has {size} bytes")
            # a read-only folder can still be read; its blobs only grow old
            with contextlib.suppress(OSError):
                self._refresh(path)
        except BaseException:
            os.close(file)
            raise
        return file

    # -- the sweep --------------------------------------------------------------------------------

    def _sweep(self, before: float, limit: int) -> Swept:
        os.utime(self._lock)
        if self._shard == 0:
            self._sweep_temporary()
        seen = removed = 0
        while self._shard < SHARDS and seen < limit:
            for path in _files(self.folder / f"{self._shard:02x}"):
                seen += 1
                removed += self._remove_old(path, before)
            self._shard += 1
        done = self._shard == SHARDS
        if done:
            self._shard = 0
        return Swept(removed, done)

    def _remove_old(self, path: Path, before: float) -> bool:
        if not _older(path, before):
            return False
        with self._locked(fcntl.LOCK_EX):
            # looked at once more: a put may have found it since
            if not _older(path, before):
                return False
            path.unlink()
        return True

    def _sweep_temporary(self) -> None:
        limit = time.time() - TEMPORARY_AGE_S
        for path in _files(self._temporary):
            if _older(path, limit):
                path.unlink(missing_ok=True)

    def _make_up_for_absence(self) -> None:
        """Move the times of all blobs on by as long as nobody used the folder."""
        away_s = time.time() - self._lock.stat().st_mtime
        if away_s > AWAY_MIN_S:
            for shard in range(SHARDS):
                for path in _files(self.folder / f"{shard:02x}"):
                    with contextlib.suppress(FileNotFoundError):
                        moved = path.stat().st_mtime + away_s
                        os.utime(path, (moved, moved))
        os.utime(self._lock)

    def _open_lock(self) -> int:
        """Its time tells when the folder was used last, so opening it does not change that."""
        return os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        file = self._open_lock()
        try:
            fcntl.flock(file, how)
            yield
        finally:
            os.close(file)


def _write(path: Path, body: bytes | memoryview) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        left = memoryview(body)
        while left:
            left = left[os.write(file, left) :]
    finally:
        os.close(file)


def _read_all(file: int, size: int) -> bytes:
    parts = [os.read(file, size)]
    left = size - len(parts[0])
    while left and parts[-1]:
        parts.append(os.read(file, left))
        left -= len(parts[-1])
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _read(file: int, seen: hashlib._Hash) -> bytes:
    chunk = os.read(file, CHUNK_BYTES)
    seen.update(chunk)
    return chunk


def _files(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _older(path: Path, than: float) -> bool:
    try:
        return path.stat().st_mtime < than
    except FileNotFoundError:
        return False
