"""The connection to Pub/Sub: one gRPC channel, kept for ever, and the calls that go over it.

Rules of this file: it is the only one that imports Google's libraries, and does so when it
connects. It takes the channel, the credentials and the messages of the generated asyncio clients,
and calls by the plain protobuf messages inside of them: their wrappers cost more than the call.
Nothing is retried here. A call that fails puts the connection under suspicion: only if a second,
harmless question fails, too, it is lost; then there is one line in the log, a new channel until
one answers, and one line more. Refusals (of credentials) are told in the same way.

Called by `asya.transports.pubsub.transport`, `pubsub_outbox` and `pubsub_pull`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import re
from collections.abc import Callable, Iterable
from typing import Any, Final
from urllib.parse import quote

from asya.codes import Code
from asya.errors import (
    MessageTooLarge,
    QueueMissing,
    TransportError,
    TransportUnavailable,
    how_to_install,
)

# gRPC would run handlers of its own in whoever forks, of which the child dies by SIGSEGV now and
# then. It reads this when it is imported, after this file; our children are given an environment.
os.putenv("GRPC_ENABLE_FORK_SUPPORT", "0")

log = logging.getLogger("asya.transports.pubsub")

HOST: Final = "pubsub.googleapis.com:443"
SCOPE: Final = "https://www.googleapis.com/auth/pubsub"
RECONNECT_FIRST_S: Final = 0.05
RECONNECT_MAX_S: Final = 1.0
TICK_S: Final = 2.0
SILENCE_S: Final = 10.0
"""After so long without any answer the broker is asked whether it is there."""
REFUSED_S: Final = 60.0
"""A refusal that is not met again in this time is no trouble any more."""
CLOSE_S: Final = 2.0

CALLS: Final = {
    "CreateTopic": ("Publisher", "Topic", "Topic"),
    "GetTopic": ("Publisher", "GetTopicRequest", "Topic"),
    "DeleteTopic": ("Publisher", "DeleteTopicRequest", None),
    "Publish": ("Publisher", "PublishRequest", "PublishResponse"),
    "CreateSubscription": ("Subscriber", "Subscription", "Subscription"),
    "GetSubscription": ("Subscriber", "GetSubscriptionRequest", "Subscription"),
    "ListSubscriptions": ("Subscriber", "ListSubscriptionsRequest", "ListSubscriptionsResponse"),
    "DeleteSubscription": ("Subscriber", "DeleteSubscriptionRequest", None),
    "Pull": ("Subscriber", "PullRequest", "PullResponse"),
    "Acknowledge": ("Subscriber", "AcknowledgeRequest", None),
    "ModifyAckDeadline": ("Subscriber", "ModifyAckDeadlineRequest", None),
}
"""All calls that are made: service, request, answer."""

_REFUSALS: Final = frozenset({"PERMISSION_DENIED", "UNAUTHENTICATED"})
_OUTAGES: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"})
_LATER: Final = frozenset({"RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL", "UNKNOWN"})
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection
)


class AlreadyThere(TransportError):
    """What should be made exists."""


class Silence(TransportUnavailable):
    """No answer in the time that the call was given."""


class Link:
    """A channel that comes back by itself.

    Attributes:
        on_up: Called when the broker answers again, never for the first time.
        on_down: Called when it does not any more.
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
        self.on_up: Callable[[], None] = _nothing
        self.on_down: Callable[[], None] = _nothing
        self._endpoint = endpoint
        self._is_plain = bool(endpoint) and not endpoint.endswith(":443")
        self._probe_topic = probe
        self._connect_timeout_s = connect_timeout_s
        self._credentials: Any = None
        self._channel: Any = None
        self._calls: dict[str, Any] = {}
        self._requests: dict[str, Any] = {}
        self._up = asyncio.Event()
        self._closed = False
        self._heard_at = float("-inf")
        self._checking: asyncio.Task[None] | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._discarding: set[asyncio.Task[None]] = set()
        self._refused: dict[tuple[str, str], float] = {}
        self._refused_at = 0.0
        self._reason = ""

    @property
    def up(self) -> bool:
        """Whether the broker answers, as far as is known."""
        return self._up.is_set()

    @property
    def trouble(self) -> str | None:
        """Why the broker cannot be used now; None when it can."""
        if not self.up:
            return f"Pub/Sub in {self.where} does not answer ({self._reason or 'not connected'})"
        if self._refused:
            return f"Pub/Sub in {self.where} refuses: {self._reason}"
        return None

    async def open(self) -> None:
        """Connect.

        Raises:
            TransportUnavailable: Nobody answers, there are no credentials, or they are not taken.
        """
        self._loop = asyncio.get_running_loop()
        await self._load()
        self._new_channel()
        try:
            with contextlib.suppress(QueueMissing, AlreadyThere):
                await self._ask_probe(self._connect_timeout_s)
        except TransportUnavailable as error:
            await self._discard()
            if self._refused:
                raise
            raise TransportUnavailable(
                f"no Pub/Sub answers in {self.where} ({error}); is the address right?",
                code=error.code,
            ) from error
        except BaseException:
            await self._discard()
            raise
        self._up.set()
        self._ticker = self._loop.call_later(TICK_S, self._tick)

    async def close(self) -> None:
        """Disconnect. Bounded by `CLOSE_S`; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._up.clear()
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
        self._up.clear()
        for handle in (self._ticker, self._checking):
            if handle is not None:
                handle.cancel()
        self._replace(None)

    def request(self, name: str, /, **fields: Any) -> Any:
        """A request by the name of its call, as a plain protobuf message."""
        return self._requests[name](**fields)

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
        except self._rpc_error as error:
            raise self._translated(name, resource, error, patient=patient) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                call.cancel()
                raise
            # the call was cancelled and not we: its channel is gone
            raise TransportUnavailable(self._gone()) from None
        self._heard_at = self._loop.time()
        if self._refused and self._refused.pop((name, resource), None) is not None:
            self._accepted()
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
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.timeout_s):
                    await self._up.wait()
        if not self.up:
            raise TransportUnavailable(self._gone() if self._closed else self.trouble)

    async def _load(self) -> None:
        try:
            # the import takes half a second, which the loop can use
            await asyncio.to_thread(_import_libraries)
        except ImportError as error:
            raise TransportUnavailable(
                f"Pub/Sub needs a library that is not installed ({error.name}); "
                f"{how_to_install('pubsub')} brings it",
                code=Code.EXTRA_MISSING,
            ) from error
        import google.auth
        import google.auth.exceptions
        import grpc
        from google.pubsub_v1 import types

        self._rpc_error = grpc.aio.AioRpcError
        self._types = types
        self._requests = {
            name: getattr(types, request).pb() for name, (_, request, _) in CALLS.items()
        }
        if self._is_plain:
            return
        try:
            self._credentials, _ = await asyncio.to_thread(google.auth.default, scopes=[SCOPE])
        except google.auth.exceptions.GoogleAuthError as error:
            raise TransportUnavailable(
                f"no credentials for Pub/Sub in {self.where}: {_line(str(error))}"
            ) from error

    def _new_channel(self) -> None:
        import grpc
        from google.protobuf.empty_pb2 import Empty

        if self._is_plain:
            channel: Any = grpc.aio.insecure_channel(self._endpoint, options=_OPTIONS)
        else:
            from google.pubsub_v1.services.publisher.transports import (
                PublisherGrpcAsyncIOTransport,
            )

            channel = PublisherGrpcAsyncIOTransport.create_channel(
                self._endpoint or HOST,
                credentials=self._credentials,
                scopes=[SCOPE],
                options=_OPTIONS,
            )
        self._calls = {
            name: channel.unary_unary(
                f"/google.pubsub.v1.{service}/{name}",
                request_serializer=self._requests[name].SerializeToString,
                response_deserializer=(
                    getattr(self._types, answer).pb() if answer else Empty
                ).FromString,
            )
            for name, (service, _, answer) in CALLS.items()
        }
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
                await self._revive(reason or problem)
        finally:
            self._checking = None

    async def _revive(self, reason: str) -> None:
        lost_at, delay_s = self._loop.time(), RECONNECT_FIRST_S
        self._reason = _line(reason)
        self._up.clear()
        log.warning(
            "lost the connection to Pub/Sub in %s (%s); connecting again until it is back",
            self.where,
            self._reason,
        )
        self.on_down()
        while True:
            if self._closed:  # `close` cancels this, too; a cancellation may be lost on its way
                return
            self._new_channel()
            if await self._is_there() is None:
                break
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 1.5, RECONNECT_MAX_S)
        self._up.set()
        log.warning(
            "connected to Pub/Sub in %s again after %.1f s", self.where, self._loop.time() - lost_at
        )
        self.on_up()

    def _tick(self) -> None:
        now = self._loop.time()
        self._ticker = self._loop.call_later(TICK_S, self._tick)
        stale = [key for key, at in self._refused.items() if now - at > REFUSED_S]
        for key in stale:
            del self._refused[key]
        if stale:
            self._accepted()
        if self.up and now - self._heard_at > SILENCE_S:
            self.suspect("")

    def _translated(self, name: str, resource: str, error: Any, *, patient: bool) -> Exception:
        status, text = _status(error), _line(error.details() or "")
        queue = resource.rpartition("/")[2]
        if status in _REFUSALS:
            text = f"{status.lower().replace('_', ' ')} for {name} of {queue}: {text}"
            self._heard_at = self._loop.time()
            self._refuse(name, resource, text)
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

    def _refuse(self, name: str, resource: str, text: str) -> None:
        if not self._refused:
            self._refused_at = self._loop.time()
            self._reason = text
            log.warning(
                "Pub/Sub in %s refuses (%s); trying again until it is allowed", self.where, text
            )
        self._refused[name, resource] = self._loop.time()

    def _accepted(self) -> None:
        if not self._refused:
            log.warning(
                "Pub/Sub in %s accepts again after %.1f s",
                self.where,
                self._loop.time() - self._refused_at,
            )


def _import_libraries() -> None:
    # what takes long; the names are bound where they are used
    for name in ("grpc.aio", "google.auth.exceptions", "google.pubsub_v1"):
        importlib.import_module(name)


async def _close(channel: Any) -> None:
    with contextlib.suppress(Exception):
        await channel.close()


def _status(error: Any) -> str:
    code = getattr(error, "code", None)
    return str(code().name) if callable(code) else ""


def _field(resource: str) -> str:
    kind = resource.split("/")[2] if resource.count("/") > 1 else "project"
    return kind.removesuffix("s")


def _line(text: str) -> str:
    """One line for people of what gRPC tells."""
    text = re.sub(r"\s+", " ", text).strip()
    _, mark, last = text.partition("last error: ")
    text = re.sub(r"^UNKNOWN: (ipv[46]:\S+: )?", "", last if mark else text)
    return text[:200] or "no reason was given"


def _nothing() -> None:
    return


def chunks(items: list[Any], size: int) -> Iterable[list[Any]]:
    """The items, at most `size` at a time."""
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]
