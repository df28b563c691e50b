"""Three subscribers in a row on FastStream, which confirms publishes by itself."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from faststream import FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue
from marks import begin, mark

COMMAND = ["faststream", "run", "on_faststream:app", "--workers", "2"]

broker = RabbitBroker(
    os.environ["AMQP_URL"],
    default_channel=Channel(prefetch_count=64),
    log_level=logging.CRITICAL,
    logger=None,
)
app = FastStream(broker, logger=None)
QUEUES = {name: RabbitQueue(name, durable=True) for name in ("one", "two", "three")}


@broker.subscriber(QUEUES["one"])
@broker.publisher("two", persist=True)
async def one(message: dict) -> dict:
    begin()
    return message | {"step": 1}


@broker.subscriber(QUEUES["two"])
@broker.publisher("three", persist=True)
async def two(message: dict) -> dict:
    return message | {"step": 2}


@broker.subscriber(QUEUES["three"])
async def three(message: dict) -> None:
    mark(message["sent"])


_loop = asyncio.new_event_loop()


async def _publish(messages: list[dict[str, Any]]) -> None:
    if not broker.running:
        await broker.connect()
    for queue in QUEUES.values():
        await broker.declare_queue(queue)
    for at in range(0, len(messages), 200):
        sends = (broker.publish(m, "one", persist=True) for m in messages[at : at + 200])
        await asyncio.gather(*sends)


def send(messages: list[dict[str, Any]]) -> None:
    """Send each to the first queue."""
    _loop.run_until_complete(_publish(messages))
