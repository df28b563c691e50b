"""Commands are written in order, and survive the loss of a connection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asya.errors import MessageTooLarge
from asya.transports.nats.outbox import Command, Outbox


class Client:
    """A client at its edge: what was published, and whether it still can."""

    def __init__(self) -> None:
        self.published: list[tuple[str, str]] = []
        self.is_connected = True
        self.fails: Exception | None = None

    async def publish(self, subject: str, payload: bytes, reply: str, headers: Any) -> None:
        """Note it, or fail."""
        if self.fails is not None:
            raise self.fails
        self.published.append((subject, reply))


def command(subject: str, *, void_at: float = float("inf")) -> Command:
    return (subject, b"", "", None, None, void_at)


def question(key: str) -> Command:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    return ("ask", b"", key, None, future, float("inf"))


async def test_what_was_not_written_is_written_to_the_next_connection() -> None:
    outbox, lost, fresh, broken = Outbox(), Client(), Client(), asyncio.Event()
    lost.is_connected, lost.fails = False, ConnectionError()
    outbox.put(command("one"))
    outbox.put(command("late", void_at=0.0))
    outbox.put(question("7"))
    outbox.start(lost, "old", broken.set)
    await broken.wait()
    await outbox.stop()
    outbox.start(fresh, "new", broken.set)
    await outbox.drain()
    assert fresh.published == [("one", ""), ("ask", "new.r.7")]
    await outbox.stop()


async def test_a_refused_message_fails_alone() -> None:
    class MaxPayloadError(Exception):
        pass

    outbox, client = Outbox(), Client()
    client.fails = MaxPayloadError()
    asked = question("1")
    outbox.put(asked)
    outbox.start(client, "in", lambda: None)
    await outbox.drain()
    assert asked[4] is not None
    with pytest.raises(MessageTooLarge):
        await asked[4]
    await outbox.stop()


async def test_what_nobody_waits_for_does_not_pile_up() -> None:
    outbox, client = Outbox(), Client()
    given_up, kept = question("1"), question("2")
    assert given_up[4] is not None
    assert kept[4] is not None
    given_up[4].cancel()
    for each in (command("old", void_at=1.0), given_up, kept):
        outbox.put(each)
    outbox.purge(now=2.0)
    assert outbox.without_queued({"1": given_up[4], "2": kept[4]}) == ["1"]
    outbox.start(client, "in", lambda: None)
    await outbox.drain()
    assert client.published == [("ask", "in.r.2")]
    await outbox.stop()
