"""The contract kit of delayed-message stores: what every `DelayedMessageStore` must do.

A test class derives from `DelayedMessageStoreContract` and gives a fixture `messages`: an empty
store that is ready for use.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

from asya.transports.delayed import DelayedMessageStore

NOW: Final = datetime(2026, 11, 23, 18, 25, 0, 123456, tzinfo=UTC)


class DelayedMessageStoreContract:
    """Messages wait, are seen when due, and go when they are taken off."""

    async def test_what_is_put_is_due_at_its_time(self, messages: DelayedMessageStore) -> None:
        """Not a microsecond earlier, and byte for byte."""
        body = b"\x00\xff\r\n" + "\N{SNOWMAN}".encode()
        assert await messages.put("q", body, NOW, "id")
        assert await messages.due(NOW - timedelta(microseconds=1), 10) == []
        (message,) = await messages.due(NOW, 10)
        assert (message.queue, message.body, message.dedup_id) == ("q", body, "id")
        assert await messages.next_due() == NOW

    async def test_they_come_in_the_order_of_their_times(
        self, messages: DelayedMessageStore
    ) -> None:
        """Those of one time as they were put; at most as many as are asked for."""
        for number, seconds in enumerate((3, 1, 2, 1)):
            await messages.put("q", str(number).encode(), NOW + timedelta(seconds=seconds), None)
        late = NOW + timedelta(days=1)
        assert [each.body for each in await messages.due(late, 10)] == [b"1", b"3", b"2", b"0"]
        assert [each.body for each in await messages.due(late, 2)] == [b"1", b"3"]
        assert await messages.next_due() == NOW + timedelta(seconds=1)

    async def test_an_id_is_kept_once_per_queue(self, messages: DelayedMessageStore) -> None:
        """As long as it is there; no id is no id."""
        assert await messages.put("q", b"1", NOW, "id")
        assert not await messages.put("q", b"2", NOW + timedelta(hours=1), "id")
        assert await messages.put("other", b"3", NOW, "id")
        assert await messages.put("q", b"4", NOW, None)
        assert await messages.put("q", b"4", NOW, None)
        bodies = [each.body for each in await messages.due(NOW, 10)]
        assert bodies == [b"1", b"3", b"4", b"4"]
        await messages.remove([each.key for each in await messages.due(NOW, 10)])
        assert await messages.put("q", b"2", NOW, "id")

    async def test_what_is_removed_is_gone(self, messages: DelayedMessageStore) -> None:
        """Once and for all: a key is not given again; unknown ones do no harm."""
        await messages.put("q", b"1", NOW, None)
        (first,) = await messages.due(NOW, 10)
        await messages.remove([first.key, 4711])
        await messages.remove([first.key])
        assert await messages.due(NOW, 10) == []
        assert await messages.next_due() is None
        await messages.put("q", b"2", NOW, None)
        (second,) = await messages.due(NOW, 10)
        assert second.key != first.key

    async def test_queues_can_be_left_out(self, messages: DelayedMessageStore) -> None:
        """Of what is due, and of the next time."""
        for number, queue in enumerate(("a", "b", "c")):
            await messages.put(queue, b"", NOW + timedelta(seconds=number), None)
        late = NOW + timedelta(hours=1)
        assert [each.queue for each in await messages.due(late, 10, {"a", "c"})] == ["b"]
        assert await messages.next_due({"a"}) == NOW + timedelta(seconds=1)
        assert await messages.next_due({"a", "b", "c"}) is None

    async def test_they_are_counted_and_cleared_by_queue(
        self, messages: DelayedMessageStore
    ) -> None:
        """Whatever their times."""
        await asyncio.gather(
            *(messages.put(f"q{number % 3}", b"", NOW, None) for number in range(100))
        )
        assert await messages.counts() == {"q0": 34, "q1": 33, "q2": 33}
        await messages.clear("q0")
        await messages.clear("nobody")
        assert await messages.counts() == {"q1": 33, "q2": 33}
        assert [await messages.count(queue) for queue in ("q0", "q1")] == [0, 33]
