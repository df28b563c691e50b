"""Acks of one turn of the loop go together, in an order that AMQP allows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asya.transports.rabbitmq.acks import Acks


class Raw:
    """pika's channel at its edge: what was written."""

    def __init__(self) -> None:
        self.is_open = True
        self.written: list[tuple[Any, ...]] = []

    def basic_ack(self, tag: int, multiple: bool = False) -> None:
        """Note it."""
        self.written.append(("ack", tag, multiple))

    def basic_reject(self, tag: int, requeue: bool) -> None:
        """Note it."""
        self.written.append(("reject", tag, requeue))

    def basic_nack(self, tag: int, multiple: bool, requeue: bool) -> None:
        """Note it."""
        self.written.append(("nack", tag, multiple, requeue))


class Channel:
    """What `Acks` needs of a channel."""

    def __init__(self) -> None:
        self.raw = Raw()
        self.closed: Exception | None = None


@pytest.mark.parametrize(
    ("acked", "written"),
    [
        ([1, 2, 3], [("ack", 3, True)]),
        ([1], [("ack", 1, False)]),
        ([3, 1], [("ack", 1, False), ("ack", 3, False)]),
        ([2], [("ack", 2, False)]),
        ([1, 2, 4], [("ack", 2, True), ("ack", 4, False)]),
    ],
)
async def test_acks_of_one_turn(acked: list[int], written: list[tuple[Any, ...]]) -> None:
    channel = Channel()
    acks = Acks(channel)  # type: ignore[arg-type]  # the part of it that is used
    for tag in range(1, 5):
        acks.expect(tag)
    for tag in acked:
        acks.ack(tag)
    assert channel.raw.written == []
    await asyncio.sleep(0)
    assert channel.raw.written == written


async def test_rejects_are_written_at_once_and_free_the_way_for_later_acks() -> None:
    channel = Channel()
    acks = Acks(channel)  # type: ignore[arg-type]  # the part of it that is used
    for tag in range(1, 4):
        acks.expect(tag)
    acks.give_back(1, counted=True)
    acks.give_back(2, counted=False)
    acks.ack(3)
    acks.flush()
    assert channel.raw.written == [
        ("reject", 1, True),
        ("nack", 2, False, True),
        ("ack", 3, False),
    ]


async def test_a_closed_channel_is_written_nothing() -> None:
    channel = Channel()
    acks = Acks(channel)  # type: ignore[arg-type]  # the part of it that is used
    acks.expect(1)
    channel.raw.is_open = False
    acks.ack(1)
    acks.give_back(1, counted=True)
    acks.flush()
    assert channel.raw.written == []
