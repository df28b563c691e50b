"""Commands on their way to a NATS server, written in order by one task per connection.

The outbox outlives connections: what was not written to one is written to the next, unless it is
void by then. Called by `asya.transports.nats.connection`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from asya.errors import MessageTooLarge, TransportError

log = logging.getLogger("asya.transports.nats")

# subject, payload, reply, headers, who waits for the answer, loop time after which it is void
Command = tuple[str, bytes, str, dict[str, str] | None, "asyncio.Future[Any] | None", float]


class Outbox:
    """A queue of commands, and the task that writes them."""

    def __init__(self) -> None:
        self._commands: deque[Command] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    def put(self, command: Command) -> None:
        """Write it soon."""
        self._commands.append(command)
        self._wake.set()

    def start(self, client: Any, inbox: str, on_broken: Callable[[], None]) -> None:
        """Write to this client from now on.

        Args:
            client: It is connected.
            inbox: Where it gets its answers.
            on_broken: Called when the client can write no more; the command stays.
        """
        self._writer = asyncio.get_running_loop().create_task(self._write(client, inbox, on_broken))

    def cancel(self) -> None:
        """Write no more, without waiting for it."""
        if self._writer is not None:
            self._writer.cancel()

    async def stop(self) -> None:
        """Write no more; returns when the task has ended."""
        writer = self._writer
        if writer is not None and writer is not asyncio.current_task():
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def drain(self) -> None:
        """Return when everything is written."""
        while self._commands:
            self._idle.clear()
            self._wake.set()
            await self._idle.wait()

    def clear(self) -> None:
        """Forget everything."""
        self._commands.clear()

    def purge(self, now: float) -> None:
        """Forget what nobody waits for any more."""
        kept = [command for command in self._commands if not is_void(command, now)]
        self._commands.clear()
        self._commands.extend(kept)

    def without_queued(self, pending: Mapping[str, asyncio.Future[Any]]) -> list[str]:
        """The keys of those that wait for an answer and whose command was written."""
        queued = {id(command[4]) for command in self._commands}
        return [key for key, future in pending.items() if id(future) not in queued]

    async def _write(self, client: Any, inbox: str, on_broken: Callable[[], None]) -> None:
        commands, wake, publish = self._commands, self._wake, client.publish
        now = asyncio.get_running_loop().time
        while True:
            while commands:
                subject, payload, reply, headers, future, void_at = commands[0]
                if future is not None:
                    if future.done():
                        commands.popleft()
                        continue
                    reply = f"{inbox}.r.{reply}"
                elif void_at <= now():
                    commands.popleft()
                    continue
                try:
                    await publish(subject, payload, reply, headers)
                except Exception as error:
                    if not client.is_connected:
                        on_broken()
                        return
                    _fail(future, subject, error)
                # Only now: a command that was not written is written to the next connection.
                commands.popleft()
            self._idle.set()
            wake.clear()
            await wake.wait()
            self._idle.clear()


def is_void(command: Command, now: float) -> bool:
    """Whether nobody waits for it, or its time is over."""
    future, void_at = command[4], command[5]
    return future.done() if future is not None else void_at <= now


def _fail(future: asyncio.Future[Any] | None, subject: str, error: Exception) -> None:
    if type(error).__name__ == "MaxPayloadError":
        refusal: TransportError = MessageTooLarge(
            f"the message to {subject} is larger than the NATS server's max_payload"
        )
    else:
        refusal = TransportError(f"cannot send to {subject}: {error}")
    if future is None:
        log.error("%s", refusal)
    elif not future.done():
        future.set_exception(refusal)
