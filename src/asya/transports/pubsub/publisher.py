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
from asya.transports.pubsub.connection import Link

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

_Letter = tuple[bytes, "dict[str, str] | None", int, "asyncio.Future[None]"]


class Outbox:
    """What is on its way to one topic."""

    def __init__(self, link: Link, topic: str) -> None:
        self._link = link
        self._topic = topic
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Letter] = deque()
        self._sending: set[asyncio.Task[None]] = set()
        self._due: asyncio.Handle | None = None

    async def put(self, body: bytes, dedup_id: str | None) -> None:
        """Send a message; returns when Pub/Sub has it, and raises as `Link.call`."""
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
            letters = self._take()
            if not letters:
                return
            task = self._loop.create_task(self._send(letters))
            self._sending.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if self._waiting and self._due is None:
            self._due = self._loop.call_soon(self._flush)

    def _take(self) -> list[_Letter]:
        letters: list[_Letter] = []
        left = REQUEST_MAX_BYTES - len(self._topic) - FRAMING_BYTES
        waiting = self._waiting
        while waiting and len(letters) < MESSAGES_MAX:
            if waiting[0][3].done():  # whoever waited for it has gone
                waiting.popleft()
                continue
            if letters and waiting[0][2] > left:
                break
            letters.append(waiting.popleft())
            left -= letters[-1][2]
        return letters

    async def _send(self, letters: list[_Letter]) -> None:
        request = self._link.request("Publish", topic=self._topic)
        add = request.messages.add
        for body, attributes, _, _ in letters:
            add(data=body, attributes=attributes)
        try:
            answer = await self._link.call("Publish", request, self._topic)
        except (QueueMissing, TransportUnavailable) as error:
            _fail(letters, error)
        except TransportError as error:
            if len(letters) == 1:
                _fail(letters, error)
                return
            for letter in letters:
                await self._send([letter])
        except BaseException:
            _fail(letters, TransportUnavailable("the transport to Pub/Sub was closed"))
            raise
        else:
            if len(answer.message_ids) < len(letters):
                _fail(letters, TransportUnavailable("Pub/Sub confirmed too few messages"))
                return
            for *_, future in letters:
                if not future.done():
                    future.set_result(None)


def _fail(letters: list[_Letter], error: TransportError) -> None:
    for *_, future in letters:
        if not future.done():
            # each its own: a traceback grows on an exception with everyone who raises it
            one = type(error)(*error.args, code=error.code)
            one.__cause__ = error
            future.set_exception(one)


def _attributes(body: bytes, dedup_id: str | None) -> dict[str, str] | None:
    if dedup_id is None:
        return None if body else {EMPTY: "1"}
    encoded = dedup_id.encode()
    if not encoded:
        return {EMPTY: "1"}
    if len(encoded) > ATTRIBUTE_MAX_BYTES:
        return {ID: hashlib.blake2b(encoded, digest_size=32).hexdigest()}
    return {ID: dedup_id}
