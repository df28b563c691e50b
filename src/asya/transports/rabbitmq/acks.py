"""Acks and rejects of one channel.

Acks of one turn of the loop are written together, all that nothing older waits behind as a single
frame: the broker's channel passes some 30 of them on to a quorum queue at a time, and forgets
those that still wait when it is closed.

Called by `asya.transports.rabbitmq.consumer`.
"""

from __future__ import annotations

import asyncio

from asya.transports.rabbitmq.channel import Channel


class Acks:
    """What one channel has delivered, and what is to be written about it."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, bool] = {}
        self._acked: list[int] = []

    @property
    def lost(self) -> bool:
        """Whether the channel is gone, and what it held with it."""
        return self.channel.closed is not None

    def expect(self, tag: int) -> None:
        """A message came; tags rise."""
        self._waiting[tag] = False

    def ack(self, tag: int) -> None:
        """Write an ack at the end of this turn of the loop."""
        self._waiting[tag] = True
        if not self._acked:
            self._loop.call_soon(self.flush)
        self._acked.append(tag)

    def give_back(self, tag: int, *, counted: bool) -> None:
        """Write that the message is to be given out again; RabbitMQ 4.3 counts rejects only."""
        self._waiting.pop(tag, None)
        raw = self.channel.raw
        if not raw.is_open:
            return
        if counted:
            raw.basic_reject(tag, True)
        else:
            raw.basic_nack(tag, False, True)

    def flush(self) -> None:
        """Write the acks now."""
        acked, self._acked = self._acked, []
        raw, waiting = self.channel.raw, self._waiting
        if not acked or not raw.is_open:
            return
        first: list[int] = []
        for tag, done in waiting.items():
            if not done:
                break
            first.append(tag)
        for tag in first:
            del waiting[tag]
        if first:
            raw.basic_ack(first[-1], len(first) > 1)
        if len(first) < len(acked):
            for tag in acked:
                if waiting.pop(tag, False):
                    raw.basic_ack(tag)
