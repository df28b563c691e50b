"""Publishing to Pub/Sub: what is published at the same time goes in one request, and each has its own outcome.

Rules of this file: a request costs a client as much as fifty messages in it. So what comes in one
turn of the event loop goes together, and with `REQUESTS_MAX` requests of a topic on their way the
next waits for one of them, and takes all that has come until then. A request that is refused
because of one of its messages is sent again message by message.

Called by `asya.transports.pubsub.transport`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from typing import Final

from asya.errors import QueueMissing, TransportError, TransportUnavailable
from asya.transports.confirms import fail
from asya.transports.pubsub.connection import Connection

MESSAGES_MAX: Final = 1000
"""Of one request, as Pub/Sub has it."""
REQUEST_MAX_BYTES: Final = 10_000_000
REQUEST_ROOM_BYTES: Final = 4096
"""For the topic's name, attributes, and the framing of one message."""
MESSAGE_MAX_BYTES: Final = REQUEST_MAX_BYTES - REQUEST_ROOM_BYTES
FRAMING_BYTES: Final = 32
REQUESTS_MAX: Final = 4
"""Of one topic, at a time."""
ID: Final = "asya-id"
EMPTY: Final = "asya-empty"
"""Pub/Sub refuses a message that has neither a body nor an attribute."""
ATTRIBUTE_MAX_BYTES: Final = 1024

_Message = tuple[bytes, "dict[str, str] | None", int, "asyncio.Future[None]"]


class Outbox:
    """What is on its way to one topic."""

    def __init__(self, connection: Connection, topic: str) -> None:
        self._connection = connection
        self._topic = topic
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Message] = deque()
        self._sending: set[asyncio.Task[None]] = set()
        self._due: asyncio.Handle | None = None

    async def put(self, body: bytes, dedup_id: str | None) -> None:
        """Send a message; returns when Pub/Sub has it, and raises as `Connection.call`."""
        future: asyncio.Future[None] = self._loop.create_future()
        attributes = _attributes(body, dedup_id)
        size = len(body) + FRAMING_BYTES
        if attributes:
            size += sum(len(key) + 4 * len(value) + 8 for key, value in attributes.items())
        self._waiting.append((body, attributes, size, future))
        if self._due is None and len(self._sending) < REQUESTS_MAX:
            self._due = self._loop.call_soon(self._flush)
        await future

    def _flush(self) -> None:
        self._due = None
        while self._waiting and len(self._sending) < REQUESTS_MAX:
            messages = self._pop_batch()
            if not messages:
                return
            task = self._loop.create_task(self._send(messages))
            self._sending.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if self._waiting and self._due is None:
            self._due = self._loop.call_soon(self._flush)

    def _pop_batch(self) -> list[_Message]:
        messages: list[_Message] = []
        left = REQUEST_MAX_BYTES - len(self._topic) - FRAMING_BYTES
        waiting = self._waiting
        while waiting and len(messages) < MESSAGES_MAX:
            if waiting[0][3].done():  # whoever waited for it has gone
                waiting.popleft()
                continue
            if messages and waiting[0][2] > left:
                break
            messages.append(waiting.popleft())
            left -= messages[-1][2]
        return messages

    async def _send(self, messages: list[_Message]) -> None:
        request = self._connection.request("Publish", topic=self._topic)
        add = request.messages.add
        for body, attributes, _, _ in messages:
            add(data=body, attributes=attributes)
        try:
            answer = await self._connection.call("Publish", request, self._topic)
        except (QueueMissing, TransportUnavailable) as error:
            _fail(messages, error)
        except TransportError as error:
            if len(messages) == 1:
                _fail(messages, error)
                return
            for message in messages:
                await self._send([message])
        except BaseException:
            _fail(messages, TransportUnavailable("the transport to Pub/Sub was closed"))
            raise
        else:
            if len(answer.message_ids) < len(messages):
                _fail(messages, TransportUnavailable("Pub/Sub confirmed too few messages"))
                return
            for *_, future in messages:
                if not future.done():
                    future.set_result(None)


def _fail(messages: list[_Message], error: TransportError) -> None:
    fail((future for *_, future in messages), error)


def _attributes(body: bytes, dedup_id: str | None) -> dict[str, str] | None:
    if dedup_id is None:
        return None if body else {EMPTY: "1"}
    encoded = dedup_id.encode()
    if not encoded:
        return {EMPTY: "1"}
    if len(encoded) > ATTRIBUTE_MAX_BYTES:
        return {ID: hashlib.blake2b(encoded, digest_size=32).hexdigest()}
    return {ID: dedup_id}
