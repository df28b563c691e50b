"""Entries that gather to batches, while requests are under way and never by waiting."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from asya.transports.sqs.batch import Batcher
from asya.transports.sqs.messages import REQUEST_MAX_BYTES


@dataclass
class Entry:
    number: int
    weight: int = 1


class Server:
    """Requests that end when they are told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.ends: list[asyncio.Event] = []

    async def work(self, batch: list[Entry]) -> None:
        end = asyncio.Event()
        self.batches.append([entry.number for entry in batch])
        self.ends.append(end)
        await end.wait()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_comes_in_one_turn_goes_together_in_the_next() -> None:
    server = Server()
    batcher = Batcher(server.work)
    for number in range(3):
        batcher.add(Entry(number))
    assert server.batches == []
    await turns()
    assert server.batches == [[0, 1, 2]]
    batcher.cancel()


async def test_while_two_are_under_way_the_rest_gathers() -> None:
    server = Server()
    batcher = Batcher(server.work)
    for number in range(6):
        batcher.add(Entry(number))
        await turns()
    assert server.batches == [[0], [1]]
    # when one of them ends, everything that came goes at once
    server.ends[0].set()
    await turns()
    assert server.batches[2:] == [[2, 3, 4, 5]]
    batcher.cancel()


async def test_full_batches_do_not_wait_for_partial_ones() -> None:
    server = Server()
    batcher = Batcher(server.work)
    for number in range(35):
        batcher.add(Entry(number))
    await turns()
    assert [len(batch) for batch in server.batches] == [10, 10, 10]
    assert [number for batch in server.batches for number in batch] == list(range(30))
    server.ends[0].set()
    server.ends[1].set()
    await turns()
    assert server.batches[3:] == [list(range(30, 35))]
    batcher.cancel()


async def test_one_request_at_a_time_keeps_the_order() -> None:
    server = Server()
    batcher = Batcher(server.work, requests_max=1, partial_max=1)
    for number in range(25):
        batcher.add(Entry(number))
    for expected in (range(10), range(10, 20), range(20, 25)):
        await turns()
        assert server.batches[-1] == list(expected)
        server.ends[-1].set()
    await asyncio.wait_for(batcher.drained(), 10)
    assert len(server.batches) == 3


async def test_weight_cuts_a_batch_and_one_that_is_too_heavy_goes_alone() -> None:
    server = Server()
    batcher = Batcher(server.work)
    half = REQUEST_MAX_BYTES // 2
    for number, weight in enumerate((half, half, 1, REQUEST_MAX_BYTES * 2, 1)):
        batcher.add(Entry(number, weight))
    await turns()
    for end in server.ends:
        end.set()
    await turns()
    for end in server.ends:
        end.set()
    assert server.batches == [[0, 1], [2], [3], [4]]
    await asyncio.wait_for(batcher.drained(), 10)


async def test_what_is_cancelled_is_given_back_and_nothing_stays() -> None:
    server = Server()
    batcher = Batcher(server.work, requests_max=1, partial_max=1)
    for number in range(12):
        batcher.add(Entry(number))
    await turns()
    assert [entry.number for entry in batcher.cancel()] == [10, 11]
    await asyncio.wait_for(batcher.drained(), 10)
    assert len(server.batches) == 1
