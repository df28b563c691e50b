"""What every shelf of delayed messages must do: a kit of tests.

A store's test module makes a subclass of `ShelfContract` with a fixture `shelf` that gives an
empty one, ready for use. See `asya.transports.delayed.Shelf`.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

from asya.transports.delayed import Shelf

NOW: Final = datetime(2026, 11, 23, 18, 25, 0, 123456, tzinfo=UTC)


class ShelfContract:
    """Messages wait, are seen when due, and go when they are taken off."""

    async def test_what_is_put_is_due_at_its_time(self, shelf: Shelf) -> None:
        """Not a microsecond earlier, and byte for byte."""
        body = b"\x00\xff\r\n" + "\N{SNOWMAN}".encode()
        assert await shelf.put("q", body, NOW, "id")
        assert await shelf.due(NOW - timedelta(microseconds=1), 10) == []
        (parcel,) = await shelf.due(NOW, 10)
        assert (parcel.queue, parcel.body, parcel.dedup_id) == ("q", body, "id")
        assert await shelf.next_due() == NOW

    async def test_they_come_in_the_order_of_their_times(self, shelf: Shelf) -> None:
        """Those of one time as they were put; at most as many as are asked for."""
        for number, seconds in enumerate((3, 1, 2, 1)):
            await shelf.put("q", str(number).encode(), NOW + timedelta(seconds=seconds), None)
        late = NOW + timedelta(days=1)
        assert [each.body for each in await shelf.due(late, 10)] == [b"1", b"3", b"2", b"0"]
        assert [each.body for each in await shelf.due(late, 2)] == [b"1", b"3"]
        assert await shelf.next_due() == NOW + timedelta(seconds=1)

    async def test_an_id_is_kept_once_per_queue(self, shelf: Shelf) -> None:
        """As long as it is there; no id is no id."""
        assert await shelf.put("q", b"1", NOW, "id")
        assert not await shelf.put("q", b"2", NOW + timedelta(hours=1), "id")
        assert await shelf.put("other", b"3", NOW, "id")
        assert await shelf.put("q", b"4", NOW, None)
        assert await shelf.put("q", b"4", NOW, None)
        bodies = [each.body for each in await shelf.due(NOW, 10)]
        assert bodies == [b"1", b"3", b"4", b"4"]
        await shelf.remove([each.key for each in await shelf.due(NOW, 10)])
        assert await shelf.put("q", b"2", NOW, "id")

    async def test_what_is_removed_is_gone(self, shelf: Shelf) -> None:
        """Once and for all: a key is not given again; unknown ones do no harm."""
        await shelf.put("q", b"1", NOW, None)
        (first,) = await shelf.due(NOW, 10)
        await shelf.remove([first.key, 4711])
        await shelf.remove([first.key])
        assert await shelf.due(NOW, 10) == []
        assert await shelf.next_due() is None
        await shelf.put("q", b"2", NOW, None)
        (second,) = await shelf.due(NOW, 10)
        assert second.key != first.key

    async def test_queues_can_be_left_out(self, shelf: Shelf) -> None:
        """Of what is due, and of the next time."""
        for number, queue in enumerate(("a", "b", "c")):
            await shelf.put(queue, b"", NOW + timedelta(seconds=number), None)
        late = NOW + timedelta(hours=1)
        assert [each.queue for each in await shelf.due(late, 10, {"a", "c"})] == ["b"]
        assert await shelf.next_due({"a"}) == NOW + timedelta(seconds=1)
        assert await shelf.next_due({"a", "b", "c"}) is None

    async def test_they_are_counted_and_cleared_by_queue(self, shelf: Shelf) -> None:
        """Whatever their times."""
        await asyncio.gather(
            *(shelf.put(f"q{number % 3}", b"", NOW, None) for number in range(100))
        )
        assert await shelf.counts() == {"q0": 34, "q1": 33, "q2": 33}
        await shelf.clear("q0")
        await shelf.clear("nobody")
        assert await shelf.counts() == {"q1": 33, "q2": 33}
        assert [await shelf.count(queue) for queue in ("q0", "q1")] == [0, 33]
