"""The contract kit of blob stores: what every `BlobStore` must do.

A test class derives from `BlobContract` and gives three fixtures: `blobs`, an open and empty store;
`damage`, which gives a blob other bytes behind the store's back, or removes it (None); and `age`,
which makes a blob older by so many seconds::

    class TestMyBlobs(BlobContract):
        @pytest.fixture
        async def blobs(self):
            store = MyBlobs(...)
            await store.open()
            yield store
            await store.close()

        @pytest.fixture
        def damage(self, blobs):
            async def change(ref, body): ...
            return change

        @pytest.fixture
        def age(self, blobs):
            async def older(ref, seconds): ...
            return older

The tests are coroutines; run them with pytest-asyncio in its auto mode.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import pytest

from asya.blobs.base import CHUNK_BYTES, BlobRef, BlobStore
from asya.errors import BlobMissing

Damage = Callable[[BlobRef, bytes | None], Awaitable[None]]
Age = Callable[[BlobRef, float], Awaitable[None]]

BODY: Final = b'{"text":"' + b"x" * 300_000 + b'"}'
DAY_S: Final = 86_400.0


async def whole(blobs: BlobStore, ref: BlobRef) -> bytes:
    """What `stream` gives, put together."""
    return b"".join([piece async for piece in blobs.stream(ref)])


async def sweep(blobs: BlobStore, older_than_s: float, *, limit: int = 2) -> int:
    """A whole round of the sweep, in small steps; how many it removed."""
    before, removed = datetime.now(UTC) - timedelta(seconds=older_than_s), 0
    for _ in range(1000):
        swept = await blobs.sweep(before, limit)
        removed += swept.removed
        if swept.done:
            return removed
    raise AssertionError("the sweep never comes to an end")


class BlobContract:
    """Derive, and give the fixtures `blobs`, `damage` and `age`."""

    async def test_what_was_put_is_got(self, blobs: BlobStore) -> None:
        """Bytes come back as they were, and the reference tells their digest and size."""
        ref = await blobs.put(BODY)
        assert ref == BlobRef(hashlib.sha256(BODY).hexdigest(), len(BODY), blobs.name)
        assert await blobs.get(ref) == BODY
        assert await whole(blobs, ref) == BODY

    async def test_a_view_is_as_good_as_bytes(self, blobs: BlobStore) -> None:
        """Payloads are views of larger bytes."""
        ref = await blobs.put(memoryview(b"..abc..")[2:-2])
        assert (ref.size, await blobs.get(ref)) == (3, b"abc")

    async def test_a_large_one_is_streamed_in_pieces(self, blobs: BlobStore) -> None:
        """No piece is over the bound, and nothing is lost between two."""
        body = bytes(range(256)) * (3 * CHUNK_BYTES // 256) + b"end"
        ref = await blobs.put(body)
        pieces = [piece async for piece in blobs.stream(ref)]
        assert max(map(len, pieces)) <= CHUNK_BYTES
        assert b"".join(pieces) == body

    async def test_the_same_bytes_are_one_blob(self, blobs: BlobStore) -> None:
        """However often, and at the same time, they are put."""
        refs = await asyncio.gather(*(blobs.put(BODY) for _ in range(20)))
        assert len(set(refs)) == 1
        assert await sweep(blobs, -DAY_S) == 1

    @pytest.mark.parametrize("how", ["get", "stream", "touch"])
    async def test_what_is_not_there_is_missing(self, blobs: BlobStore, how: str) -> None:
        """The error names the blob and the store."""
        ref = BlobRef("ab" * 32, 5, blobs.name)
        with pytest.raises(BlobMissing, match=f"{ref.sha256}.*{blobs.name}"):
            await (whole(blobs, ref) if how == "stream" else getattr(blobs, how)(ref))

    async def test_a_blob_of_another_store_is_told_apart(self, blobs: BlobStore) -> None:
        """The remedy is another one then."""
        with pytest.raises(BlobMissing, match="it was put into elsewhere: give this mesh the same"):
            await blobs.get(BlobRef("ab" * 32, 5, "elsewhere"))

    @pytest.mark.parametrize("how", ["get", "stream"])
    @pytest.mark.parametrize("body", [b"y" * len(BODY), BODY[:-1], b""])
    async def test_other_bytes_are_never_taken_for_it(
        self, blobs: BlobStore, damage: Damage, how: str, body: bytes
    ) -> None:
        """A blob that is damaged is as good as none, and the error says so."""
        ref = await blobs.put(BODY)
        await damage(ref, body)
        with pytest.raises(BlobMissing, match="is damaged"):
            await (blobs.get(ref) if how == "get" else whole(blobs, ref))

    async def test_a_blob_that_was_cut_short_is_mended_by_putting_it_again(
        self, blobs: BlobStore, damage: Damage
    ) -> None:
        """Its size tells."""
        ref = await blobs.put(BODY)
        await damage(ref, BODY[:10])
        assert await blobs.put(BODY) == ref
        assert await blobs.get(ref) == BODY

    async def test_one_that_was_removed_can_be_put_again(
        self, blobs: BlobStore, damage: Damage
    ) -> None:
        """A sweep that came first does no harm to a put."""
        ref = await blobs.put(BODY)
        await damage(ref, None)
        with pytest.raises(BlobMissing):
            await blobs.get(ref)
        await blobs.put(BODY)
        assert await blobs.get(ref) == BODY

    async def test_the_sweep_takes_the_old_and_leaves_the_new(
        self, blobs: BlobStore, age: Age
    ) -> None:
        """In small steps, of which each looks at some."""
        refs = [await blobs.put(b"old %d" % n) for n in range(7)]
        for ref in refs:
            await age(ref, 10 * DAY_S)
        young = await blobs.put(b"young")
        assert await sweep(blobs, 5 * DAY_S) == 7
        assert await blobs.get(young) == b"young"
        for ref in refs:
            with pytest.raises(BlobMissing):
                await blobs.get(ref)
        assert await sweep(blobs, 5 * DAY_S) == 0

    @pytest.mark.parametrize("how", ["put", "get", "stream", "touch"])
    async def test_whoever_uses_a_blob_keeps_it(self, blobs: BlobStore, age: Age, how: str) -> None:
        """Its age begins anew."""
        ref = await blobs.put(BODY)
        await age(ref, 10 * DAY_S)
        if how == "put":
            await blobs.put(BODY)
        elif how == "stream":
            await whole(blobs, ref)
        else:
            await getattr(blobs, how)(ref)
        assert await sweep(blobs, 5 * DAY_S) == 0
        assert await blobs.get(ref) == BODY

    async def test_a_sweep_beside_puts_takes_nothing_that_was_just_put(
        self, blobs: BlobStore, age: Age
    ) -> None:
        """What a put has found must not go under its hands."""
        bodies = [b"body %d" % n for n in range(20)]
        for body in bodies:
            await age(await blobs.put(body), 10 * DAY_S)
        sweeping = asyncio.create_task(sweep(blobs, 5 * DAY_S, limit=1))
        refs = [await blobs.put(body) for body in bodies]
        await sweeping
        assert [await blobs.get(ref) for ref in refs] == bodies

    async def test_the_sweep_of_an_empty_store_ends(self, blobs: BlobStore) -> None:
        """There is nothing to do."""
        assert await sweep(blobs, 0) == 0

    async def test_the_reference_survives_the_wire(self, blobs: BlobStore) -> None:
        """As the header of a message."""
        ref = await blobs.put(BODY)
        again = msgspec.json.decode(msgspec.json.encode(ref), type=BlobRef)
        assert await blobs.get(again) == BODY
