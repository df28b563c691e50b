"""A chain of three tasks on Celery. CONFIRM=1: publishes are confirmed."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, chain
from marks import begin, mark

Message = dict[str, Any]
COMMAND = ["celery", "-A", "on_celery", "worker", "-c", "2", "-P", "prefork", "-l", "ERROR"]

app = Celery("peers", broker=os.environ["AMQP_URL"])
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    task_serializer="json",
    worker_prefetch_multiplier=64 if os.environ.get("CONFIRM") else 4,
    broker_transport_options={"confirm_publish": bool(os.environ.get("CONFIRM"))},
)


@app.task
def one(message: Message) -> Message:
    begin()
    return message | {"step": 1}


@app.task
def two(message: Message) -> Message:
    return message | {"step": 2}


@app.task
def three(message: Message) -> None:
    mark(message["sent"])


def send(messages: list[Message]) -> None:
    """Start a chain with each."""
    for message in messages:
        chain(one.s(message), two.s(), three.s()).delay()
