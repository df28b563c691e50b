"""A pipeline of three actors on Dramatiq. CONFIRM=1: publishes are confirmed."""

from __future__ import annotations

import os
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from marks import begin, mark

Message = dict[str, Any]
COMMAND = ["dramatiq", "on_dramatiq", "--processes", "2", "--threads", "1"]

broker = RabbitmqBroker(
    url=os.environ["AMQP_URL"], confirm_delivery=bool(os.environ.get("CONFIRM"))
)
dramatiq.set_broker(broker)


@dramatiq.actor
def one(message: Message) -> Message:
    begin()
    return message | {"step": 1}


@dramatiq.actor
def two(message: Message) -> Message:
    return message | {"step": 2}


@dramatiq.actor
def three(message: Message) -> None:
    mark(message["sent"])


def send(messages: list[Message]) -> None:
    """Start a pipeline with each."""
    for message in messages:
        dramatiq.pipeline([one.message(message), two.message(), three.message()]).run()
