"""The connection to Pub/Sub: one gRPC channel, kept for ever, and the calls that go over it.

Rules of this file: nothing is retried here. A call that fails puts the connection under suspicion: only if a second,
harmless question fails, too, it is lost; then there is one line in the log, a new channel until
one answers, and one line more. Refusals (of credentials) are told in the same way.

Called by the transport, the consumers, the acks and the publisher.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote

from asya.errors import (
    MessageTooLarge,
    QueueMissing,
    TransportError,
    TransportUnavailable,
)
from asya.transports.backoff import reconnecting
from asya.transports.outage import Outage
from asya.transports.pubsub.library import Library, one_line

log = logging.getLogger("asya.transports.pubsub")

TICK_S: Final = 2.0
SILENCE_S: Final = 10.0
"""After so long without any answer the broker is asked whether it is there."""
REFUSED_S: Final = 60.0
"""A refusal that is not met again in this time is no trouble any more."""
CLOSE_S: Final = 2.0

_REFUSALS: Final = frozenset({"PERMISSION_DENIED", "UNAUTHENTICATED"})
_OUTAGES: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"})
_LATER: Final = frozenset({"RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL", "UNKNOWN"})


class AlreadyThere(TransportError):
    """What should be made exists."""


class Silence(TransportUnavailable):
    """No answer in the time that the call was given."""


class Connection:
    """A channel that comes back by itself.

    Attributes:
        outage: Whether the broker answers; its callbacks tell of changes.
        timeout_s: How long an answer is waited for, in seconds.
        where: The place for messages, without credentials.
    """

    def __init__(
        self, where: str, endpoint: str, probe: str, *, connect_timeout_s: float, timeout_s: float
    ) -> None:
        """Prepare.

        Args:
            where: Of the place, for people.
            endpoint: `host:port` of another server than Google's; without TLS and credentials
                unless its port is 443.
            probe: The name of a topic to ask for, there or not.
            connect_timeout_s: For `open`, in seconds.
            timeout_s: See above.
        """
        self.where = where
        self.timeout_s = timeout_s
        self.outage = Outage(f"Pub/Sub in {where}", log)
        self._library = Library(where, endpoint)
        self._probe_topic = probe
        self._connect_timeout_s = connect_timeout_s
        self._channel: Any = None
        self._calls: dict[str, Any] = {}
        self._closed = False
        self._heard_at = float("-inf")
        self._checking: asyncio.Task[None] | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._discarding: set[asyncio.Task[None]] = set()
        self._refusals = Refusals(where)

    @property
    def up(self) -> bool:
        """Whether the broker answers, as far as is known."""
        return self.outage.up

    @property
    def trouble(self) -> str | None:
        """Why the broker cannot be used now; None when it can."""
        if not self.up:
            return (
                f"Pub/Sub in {self.where} does not answer ({self.outage.reason or 'not connected'})"
            )
        if self._refusals.reason:
            return f"Pub/Sub in {self.where} refuses: {self._refusals.reason}"
        return None

    async def open(self) -> None:
        """Connect.

        Raises:
            TransportUnavailable: Nobody answers, there are no credentials, or they are not taken.
        """
        self._loop = asyncio.get_running_loop()
        await self._library.load()
        self._new_channel()
        try:
            with contextlib.suppress(QueueMissing, AlreadyThere):
                await self._ask_probe(self._connect_timeout_s)
        except TransportUnavailable as error:
            await self._discard()
            if self._refusals.reason:
                raise
            raise TransportUnavailable(
                f"no Pub/Sub answers in {self.where} ({error}); is the address right?",
                code=error.code,
            ) from error
        except BaseException:
            await self._discard()
            raise
        self.outage.established()
        self._ticker = self._loop.call_later(TICK_S, self._tick)

    async def close(self) -> None:
        """Disconnect. Bounded by `CLOSE_S`; idempotent."""
        if self._closed:
            return
        self._closed = True
        self.outage.up = False
        if self._ticker is not None:
            self._ticker.cancel()
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)
        await self._discard()
        if self._discarding:
            await asyncio.wait(self._discarding, timeout=CLOSE_S)

    def drop(self) -> None:
        """Cut the connection without a word, as a killed process would: for tests of crashes."""
        self._closed = True
        self.outage.up = False
        for handle in (self._ticker, self._checking):
            if handle is not None:
                handle.cancel()
        self._replace(None)

    def request(self, name: str, /, **fields: Any) -> Any:
        """A request by the name of its call, as a plain protobuf message."""
        return self._library.request(name, fields)

    async def call(
        self, name: str, request: Any, resource: str, *, timeout_s: float | None = None
    ) -> Any:
        """Ask, once.

        Args:
            name: Of the call, in `CALLS`.
            request: Its message.
            resource: The topic, subscription or project that it is about.
            timeout_s: Instead of the link's own; with one, silence puts nobody under suspicion.

        Raises:
            Silence: No answer in time.
            TransportUnavailable: The connection broke, or credentials are refused, or the
                broker asks to come again later.
            QueueMissing: No such topic or subscription.
            TransportError: The broker refuses.
        """
        if not self.up:
            await self._wait_until_up()
        if timeout_s is None:
            return await self.finish(name, self.begin(name, request, resource), resource)
        call = self.begin(name, request, resource, timeout_s)
        return await self.finish(name, call, resource, patient=True)

    def begin(self, name: str, request: Any, resource: str, timeout_s: float | None = None) -> Any:
        """Send a request; `finish` is owed. What is returned can be cancelled."""
        if self._channel is None:
            raise TransportUnavailable(self._gone())
        field = "name" if name.startswith("Create") else _field(resource)
        # what the generated clients say, too: where the service routes the call to
        metadata = (("x-goog-request-params", f"{field}={quote(resource, '')}"),)
        return self._calls[name](request, timeout=timeout_s or self.timeout_s, metadata=metadata)

    async def finish(self, name: str, call: Any, resource: str, *, patient: bool = False) -> Any:
        """The answer to what `begin` sent; see `call`."""
        try:
            answer = await call
        except self._library.rpc_error as error:
            raise self._translated(name, resource, error, patient=patient) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                call.cancel()
                raise
            # the call was cancelled and not we: its channel is gone
            raise TransportUnavailable(self._gone()) from None
        self._heard_at = self._loop.time()
        if self._refusals.reason:
            self._refusals.accepted(name, resource, self._heard_at)
        return answer

    def suspect(self, reason: str) -> None:
        """Look whether the broker is there, soon."""
        if self._closed or not self.up or self._checking is not None:
            return
        self._checking = self._loop.create_task(self._check(reason))

    def _gone(self) -> str:
        if self._closed:
            return f"the transport to Pub/Sub in {self.where} is closed"
        return f"the connection to Pub/Sub in {self.where} broke"

    async def _wait_until_up(self) -> None:
        """A short outage is waited out."""
        if not self._closed and self._channel is not None:
            await self.outage.wait(self.timeout_s)
        if not self.up:
            raise TransportUnavailable(self._gone() if self._closed else self.trouble)

    def _new_channel(self) -> None:
        channel, self._calls = self._library.open_channel()
        self._replace(channel)

    def _replace(self, channel: Any) -> None:
        """Take another channel; the calls on the old one end."""
        old, self._channel = self._channel, channel
        if old is not None:
            task = self._loop.create_task(_close(old))
            self._discarding.add(task)
            task.add_done_callback(self._discarding.discard)

    async def _discard(self) -> None:
        old, self._channel = self._channel, None
        if old is not None:
            await _close(old)

    async def _ask_probe(self, timeout_s: float) -> None:
        request = self.request("GetTopic", topic=self._probe_topic)
        call = self.begin("GetTopic", request, self._probe_topic, timeout_s)
        await self.finish("GetTopic", call, self._probe_topic, patient=True)

    async def _is_there(self) -> str | None:
        """None, or why it is not. Whoever refuses is there."""
        try:
            await self._ask_probe(self.timeout_s)
        except TransportUnavailable as error:
            if error.__cause__ is not None and _status(error.__cause__) in _REFUSALS:
                return None
            return str(error)
        except TransportError:
            return None
        return None

    async def _check(self, reason: str) -> None:
        try:
            problem = await self._is_there()
            if problem is not None:
                await self._recover(reason or problem)
        finally:
            self._checking = None

    async def _recover(self, reason: str) -> None:
        delays = reconnecting()
        self.outage.lost(one_line(reason))
        while True:
            if self._closed:  # `close` cancels this, too; a cancellation may be lost on its way
                return
            self._new_channel()
            if await self._is_there() is None:
                break
            await asyncio.sleep(delays.next())
        self.outage.over()

    def _tick(self) -> None:
        now = self._loop.time()
        self._ticker = self._loop.call_later(TICK_S, self._tick)
        self._refusals.expire(now)
        if self.up and now - self._heard_at > SILENCE_S:
            self.suspect("")

    def _translated(self, name: str, resource: str, error: Any, *, patient: bool) -> Exception:
        status, text = _status(error), one_line(error.details() or "")
        queue = resource.rpartition("/")[2]
        if status in _REFUSALS:
            text = f"{status.lower().replace('_', ' ')} for {name} of {queue}: {text}"
            self._heard_at = self._loop.time()
            self._refusals.refused(name, resource, text, self._heard_at)
            return TransportUnavailable(f"Pub/Sub in {self.where} refuses: {text}")
        if status in _OUTAGES:
            if status == "DEADLINE_EXCEEDED":
                if not patient:
                    self.suspect(f"no answer within {self.timeout_s:g} s")
                return Silence(f"Pub/Sub in {self.where} did not answer {name} in time")
            self.suspect(text)
            return TransportUnavailable(f"Pub/Sub in {self.where} cannot be reached: {text}")
        self._heard_at = self._loop.time()
        if status == "NOT_FOUND":
            return QueueMissing(f"there is no queue {queue} in Pub/Sub in {self.where}")
        if status == "ALREADY_EXISTS":
            return AlreadyThere(f"{queue} is there already")
        if status in _LATER:
            return TransportUnavailable(f"Pub/Sub in {self.where} is busy with {name}: {text}")
        if status == "INVALID_ARGUMENT" and "too large" in text.lower():
            return MessageTooLarge(f"Pub/Sub in {self.where}: {text}")
        return TransportError(f"Pub/Sub in {self.where} refuses {name} of {queue}: {text}")


class Refusals:
    """Calls that are refused for want of permission, with two log lines: the first, and the end.

    Attributes:
        reason: Of the first one; empty while nothing is refused.
    """

    __slots__ = ("_calls", "_since", "_where", "reason")

    def __init__(self, where: str) -> None:
        self._where = where
        self._calls: dict[tuple[str, str], float] = {}
        self._since = 0.0
        self.reason = ""

    def refused(self, name: str, resource: str, text: str, now: float) -> None:
        """A call was refused."""
        if not self._calls:
            self._since = now
            self.reason = text
            log.warning(
                "Pub/Sub in %s refuses (%s); retrying until it is allowed", self._where, text
            )
        self._calls[name, resource] = now

    def accepted(self, name: str, resource: str, now: float) -> None:
        """A call was answered."""
        if self._calls.pop((name, resource), None) is not None:
            self._end(now)

    def expire(self, now: float) -> None:
        """Forget those that were not met again for `REFUSED_S`."""
        stale = [key for key, at in self._calls.items() if now - at > REFUSED_S]
        for key in stale:
            del self._calls[key]
        if stale:
            self._end(now)

    def _end(self, now: float) -> None:
        if not self._calls:
            self.reason = ""
            log.warning("Pub/Sub in %s accepts again after %.1f s", self._where, now - self._since)


async def _close(channel: Any) -> None:
    with contextlib.suppress(Exception):
        await channel.close()


def _status(error: Any) -> str:
    code = getattr(error, "code", None)
    return str(code().name) if callable(code) else ""


def _field(resource: str) -> str:
    kind = resource.split("/")[2] if resource.count("/") > 1 else "project"
    return kind.removesuffix("s")


def chunks(items: list[Any], size: int) -> Iterable[list[Any]]:
    """The items, at most `size` at a time."""
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]
