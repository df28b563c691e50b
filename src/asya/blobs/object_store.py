"""Blobs in S3 or Google Cloud Storage, by obstore (`asya[blobs]`): `PREFIX/ab/ab12…`.

An object is written in one request, so it is whole or not there. Its age is the time of its last
write: objects cannot be touched, so what is used is written again once a part of the retention has
passed. The address may carry options of the client, `s3://BUCKET/PREFIX?endpoint=…&region=…`;
credentials come from where the cloud's own tools take them, never from the address.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import parse_qsl, urlsplit

from asya.blobs.base import CHUNK_BYTES, BlobRef, BlobStore, Swept, corrupt, digest_of, missing
from asya.clock import Clock, SystemClock
from asya.codes import Code
from asya.errors import BlobUnavailable, UsageError, how_to_install

if TYPE_CHECKING:
    from obstore.store import ObjectStore

REFRESH_SHARE: Final = 0.25
"""The part of the retention after which an object that is used is written again."""

TIMEOUT_S: Final = "30s"
RETRIES: Final = 2
"""Of the client; the mesh itself tries again for as long as it takes."""

SECRETS: Final = ("secret", "token", "password", "access_key", "service_account_key")
"""An option whose name has one of these is refused in an address, which ends up in logs."""

_T = TypeVar("_T")


class ObjectBlobs(BlobStore):
    """See the module's text.

    Args:
        objects: Of obstore.
        name: For references and for people.
        retention_s: How long the sweep keeps what nobody uses, in seconds.
        clock: The time of day.
    """

    def __init__(
        self, objects: ObjectStore, name: str, retention_s: float, clock: Clock | None = None
    ) -> None:
        self.name = name
        self._objects = objects
        self._refresh_s = retention_s * REFRESH_SHARE
        self._clock = clock or SystemClock()
        self._round: Iterator[Any] | None = None

    async def open(self) -> None:
        """See `BlobStore`."""
        import obstore
        from obstore.exceptions import BaseError

        try:
            await obstore.put_async(self._objects, "probe", b"asya")
            await obstore.delete_async(self._objects, "probe")
        except (BaseError, OSError) as error:
            raise UsageError(
                f"the blob store {self.name} cannot be used: {_first_line(error)}; big payloads "
                "are kept there: check its address (blobStore, ASYA_BLOB_STORE, --blob-store), its "
                "region and the credentials",
                code=Code.BLOB,
            ) from error

    async def close(self) -> None:
        """The client lets go of its connections by itself."""

    async def put(self, body: bytes | memoryview) -> BlobRef:
        """See `BlobStore`."""
        digest = await asyncio.to_thread(digest_of, body)
        ref = BlobRef(digest, len(body), self.name)
        found = await self._head(ref)
        if found is None or found["size"] != ref.size or self._is_old(found["last_modified"]):
            await self._write(ref, body)
        return ref

    async def get(self, ref: BlobRef) -> bytes:
        """See `BlobStore`."""
        import obstore

        result = await self._asked(ref, obstore.get_async(self._objects, _path(ref)))
        if result is None:
            raise missing(ref, self)
        if result.meta["size"] != ref.size:
            raise corrupt(ref, self, f"it has {result.meta['size']} bytes")
        body = bytes(await self._sure(ref, result.bytes_async()))
        found = await asyncio.to_thread(digest_of, body)
        if found != ref.sha256:
            raise corrupt(ref, self, f"its SHA-256 is {found}")
        if self._is_old(result.meta["last_modified"]):
            await self._write(ref, body)
        return body

    async def stream(self, ref: BlobRef) -> AsyncIterator[bytes]:
        """See `BlobStore`."""
        import obstore
        from obstore.exceptions import BaseError

        result = await self._asked(ref, obstore.get_async(self._objects, _path(ref)))
        if result is None:
            raise missing(ref, self)
        if result.meta["size"] != ref.size:
            raise corrupt(ref, self, f"it has {result.meta['size']} bytes")
        if self._is_old(result.meta["last_modified"]):
            await self.touch(ref)
        seen = hashlib.sha256()
        try:
            async for chunk in result.stream(min_chunk_size=CHUNK_BYTES // 2):
                data = bytes(chunk)
                await asyncio.to_thread(seen.update, data)
                for start in range(0, len(data), CHUNK_BYTES):
                    yield data[start : start + CHUNK_BYTES]
        except (BaseError, OSError) as error:
            raise BlobUnavailable(self._trouble(error)) from error
        if seen.hexdigest() != ref.sha256:
            raise corrupt(ref, self, f"its SHA-256 is {seen.hexdigest()}")

    async def touch(self, ref: BlobRef) -> None:
        """See `BlobStore`."""
        found = await self._head(ref)
        if found is None:
            raise missing(ref, self)
        if self._is_old(found["last_modified"]):
            await self.get(ref)

    async def sweep(self, before: datetime, limit: int) -> Swept:
        """See `BlobStore`."""
        return await asyncio.to_thread(self._sweep, before, limit)

    def _sweep(self, before: datetime, limit: int) -> Swept:
        import obstore
        from obstore.exceptions import BaseError

        try:
            if self._round is None:
                self._round = iter(obstore.list(self._objects, chunk_size=limit))
            page: Any = next(self._round, [])
            old = [each["path"] for each in page if each["last_modified"] < before]
            if old:
                obstore.delete(self._objects, old)
        except (BaseError, OSError) as error:
            self._round = None
            raise BlobUnavailable(self._trouble(error)) from error
        if not page:
            self._round = None
        return Swept(len(old), not page)

    # -- one request ------------------------------------------------------------------------------

    def _is_old(self, written: datetime) -> bool:
        return self._clock.now() - written.astimezone(UTC) > timedelta(seconds=self._refresh_s)

    async def _head(self, ref: BlobRef) -> Any:
        import obstore

        return await self._asked(ref, obstore.head_async(self._objects, _path(ref)))

    async def _write(self, ref: BlobRef, body: bytes | memoryview) -> None:
        import obstore

        await self._sure(ref, obstore.put_async(self._objects, _path(ref), body))

    async def _asked(self, ref: BlobRef, request: Awaitable[_T]) -> _T | None:
        """The answer, or None where there is no such object."""
        from obstore.exceptions import BaseError

        try:
            return await request
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise BlobUnavailable(self._trouble(error)) from error

    async def _sure(self, ref: BlobRef, request: Awaitable[_T]) -> _T:
        answer = await self._asked(ref, request)
        if answer is None:
            raise missing(ref, self)
        return answer

    def _trouble(self, error: Exception) -> str:
        return f"the blob store {self.name} cannot be used now: {_first_line(error)}"


def object_blobs(url: str, retention_s: float) -> ObjectBlobs:
    """A store by its address, `s3://BUCKET/PREFIX?endpoint=…&region=…` or `gs://BUCKET/PREFIX`.

    Raises:
        UsageError: obstore is not installed, or the address has options that it does not know.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import GCSStore, S3Store
    except ImportError as error:
        raise UsageError(
            "a blob store in S3 or Google Cloud Storage needs obstore: " + how_to_install("blobs"),
            code=Code.EXTRA_MISSING,
        ) from error
    parts = urlsplit(url)
    options: dict[str, Any] = dict(parse_qsl(parts.query))
    strange = [name for name in options if any(word in name.lower() for word in SECRETS)]
    if strange:
        raise UsageError(
            f"blobStore: {strange[0]} does not belong into an address; give credentials as the "
            "cloud's own tools take them (variables such as AWS_SECRET_ACCESS_KEY, or a role)"
        )
    name = f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")
    plain = str(options.get("endpoint", "")).startswith("http://")
    limits: dict[str, Any] = {
        "client_options": {"timeout": TIMEOUT_S, "allow_http": plain},
        "retry_config": {"max_retries": RETRIES},
    }
    kind: Any = S3Store if parts.scheme == "s3" else GCSStore
    try:
        objects = kind.from_url(name, config=options, **limits)
    except (BaseError, ValueError, TypeError) as error:
        raise UsageError(f"blobStore: {name}: {_first_line(error)}") from error
    return ObjectBlobs(objects, name, retention_s)


def _path(ref: BlobRef) -> str:
    return f"{ref.sha256[:2]}/{ref.sha256}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
