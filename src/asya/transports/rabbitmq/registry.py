"""Which queues a namespace has, and the generation of each: a log, kept in a stream of the broker.

AMQP can neither list queues nor say anything about one but whether it is there. So whoever makes
or deletes a queue writes a record of it into the stream `asya-{namespace}.registry`, and whoever
needs to know reads on from where it stopped. Records are only added, one per queue made or
deleted, so the log stays small; it is never cut.

Rules of this file: nothing is believed that the broker has not confirmed, own records included:
`refresh` reads up to the last record that was there when it was called. Called by
`asya.transports.rabbitmq.transport`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec

from asya.errors import TransportUnavailable
from asya.transports.rabbitmq.channel import Channel
from asya.transports.rabbitmq.connection import Connection

PREFETCH: Final = 500
EMPTY_S: Final = 0.5
"""A stream from which nothing comes for so long is empty, and gets its first record."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(type=dict[str, Any]).decode


class Registry:
    """A reader and writer of the log.

    Attributes:
        generations: What is known: of each queue its generations, mostly one. Two clients that
            make a queue at the same time make two, and both hold.
        begun_here: Whether the log began with a record from here.
    """

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream
        self.generations: dict[str, set[str]] = {}
        self.begun_here = False
        self._seen = -1
        self._lock = asyncio.Lock()
        self._asked = self._served = 0

    async def declare(self, channel: Channel) -> None:
        """Make the stream if it is not there."""
        await channel.call(
            "queue_declare", self._stream, durable=True, arguments={"x-queue-type": "stream"}
        )

    async def made(self, queue: str, generation: str) -> None:
        """Write down that there is a queue; returns when `generations` has it."""
        await self._write({"made": queue, "generation": generation})
        await self.refresh()

    async def gone(self, queue: str) -> None:
        """Write down that a queue, with all generations known here, is not any more."""
        ended = sorted(self.generations.get(queue, ()))
        if ended:
            await self._write({"gone": queue, "generations": ended})
            await self.refresh()

    async def refresh(self) -> None:
        """Read what was written before this call; calls that overlap share the work.

        Raises:
            TransportUnavailable: The broker does not answer.
            QueueMissing: There is no such stream.
        """
        self._asked += 1
        asked = self._asked
        async with self._lock:
            # One that began after this call has read what this one is about.
            if self._served < asked:
                begun = self._asked
                await self._read()
                self._served = begun

    async def look(self) -> None:
        """Read without writing anything: nothing is known of a log that has not begun."""
        reader = _Reader(self._connection, self._stream, -1)
        if await reader.read() is not None:
            self.generations = {}
            for _, record in reader.records:
                self._apply(record)

    def forget(self) -> None:
        """Read from the beginning next time: the broker may be another one."""
        self._seen = -1

    async def _write(self, record: dict[str, Any]) -> None:
        await self._connection.publish("", self._stream, _encode(record))

    async def _read(self) -> None:
        for _ in range(3):
            reader = _Reader(self._connection, self._stream, self._seen)
            last = await reader.read()
            if last is None:
                await self._write({"begun": True})
                self.begun_here = True
            elif last < self._seen:
                self._seen = -1
            else:
                if self._seen < 0:
                    self.generations = {}
                for offset, record in reader.records:
                    if offset > self._seen:
                        self._apply(record)
                        self._seen = offset
                return
        raise TransportUnavailable(f"the stream {self._stream} at RabbitMQ cannot be read")

    def _apply(self, record: dict[str, Any]) -> None:
        if "made" in record:
            self.generations.setdefault(record["made"], set()).add(record["generation"])
        elif "gone" in record:
            left = self.generations.get(record["gone"], set()) - set(record["generations"])
            if left:
                self.generations[record["gone"]] = left
            else:
                self.generations.pop(record["gone"], None)


class _Reader:
    """Reads once, from an offset to the end: one consumer reads on, another finds the end."""

    def __init__(self, connection: Connection, stream: str, seen: int) -> None:
        self._connection = connection
        self._stream = stream
        self._from: str | int = "first" if seen < 0 else seen
        self.records: list[tuple[int, dict[str, Any]]] = []
        self._reached = self._last = -1
        self._progress = asyncio.Event()

    async def read(self) -> int | None:
        """The last record's offset, with `records` read up to it; None for an empty stream."""
        channel = await self._connection.channel()
        try:
            await channel.call("basic_qos", prefetch_count=PREFETCH)
            await self._consume(channel, "last", self._on_last)
            if not await self._wait(lambda: self._last >= 0, EMPTY_S):
                return None
            # The last chunk comes in one piece; what the broker answers after it, comes after it.
            await channel.call("basic_qos", prefetch_count=PREFETCH)
            if isinstance(self._from, int) and self._last < self._from:
                return self._last
            self._target = self._last
            await self._consume(channel, self._from, self._on_record)
            if not await self._wait(
                lambda: self._reached >= self._target, self._connection.timeout_s
            ):
                raise TransportUnavailable(f"RabbitMQ sends nothing of its stream {self._stream}")
            return self._target
        finally:
            channel.close()

    async def _consume(
        self, channel: Channel, offset: str | int, callback: Callable[..., None]
    ) -> None:
        await channel.call(
            "basic_consume", self._stream, callback, arguments={"x-stream-offset": offset}
        )

    async def _wait(self, done: Callable[[], bool], timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                while not done():
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            return False
        return True

    def _on_last(self, raw: Any, method: Any, properties: Any, body: bytes) -> None:
        if raw.is_open:
            raw.basic_ack(method.delivery_tag)
        self._last = max(self._last, int(properties.headers["x-stream-offset"]))
        self._progress.set()

    def _on_record(self, raw: Any, method: Any, properties: Any, body: bytes) -> None:
        if raw.is_open:
            raw.basic_ack(method.delivery_tag)
        offset = int(properties.headers["x-stream-offset"])
        # Not ours, or of a later version: passed over.
        try:
            self.records.append((offset, _decode(body)))
        except msgspec.DecodeError:
            self.records.append((offset, {}))
        self._reached = offset
        self._progress.set()
