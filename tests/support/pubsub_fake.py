"""A stand-in for Google Pub/Sub: a gRPC server of the calls that Asya makes, and of nothing else.

    python -m tests.support.pubsub_fake --port 8085 [--data FILE]

It is not Google's code and proves nothing about Google's service. It does what was found by
experiment with Google's emulator and what the documentation says, in particular what goes wrong
silently: a message published to a topic without a subscription is dropped with an ordinary id, a
late ack is no error, deliveries are counted only with a dead letter policy, a pull that was
answered while its client went away holds its messages until the deadline. Unlike the emulator it
keeps everything over a `kill -9` when it is given a file, as the real service does, and can be
told to refuse (`PubSubFake.deny`). Push, filters, ordering keys and streaming pull are refused.

Started by `tests.support.pubsub.PubSubFake`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import heapq
import json
import re
import sqlite3
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf.empty_pb2 import Empty
from google.pubsub_v1 import types

CONTROL: Final = "/asya.testing.PubSubFake/Control"
"""A call of its own: JSON that says what to refuse."""
DELETED_TOPIC: Final = "_deleted-topic_"
PULL_MAX: Final = 1000
PULL_S: Final = 90.0
REQUEST_MAX_BYTES: Final = 10_000_000
MESSAGES_MAX: Final = 1000

_NAME: Final = re.compile(r"(?!goog)[A-Za-z][A-Za-z0-9_.~+%-]{2,254}")
_ACK_ID: Final = re.compile(r"([0-9]+):([0-9]+)")


class Refusal(Exception):
    """A call ends with a status."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = getattr(grpc.StatusCode, status)


@dataclass
class Letter:
    """A message in one subscription; `until` is 0 while nobody has it."""

    number: int
    message: Any
    attempt: int = 0
    until: float = 0.0


@dataclass
class Box:
    """A subscription and what it holds."""

    config: Any
    letters: dict[int, Letter] = field(default_factory=dict)
    ready: deque[int] = field(default_factory=deque)
    leases: list[tuple[float, int]] = field(default_factory=list)
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)
    timer: asyncio.TimerHandle | None = None


class Store:
    """What survives the process, in one SQLite file; without a file, nothing."""

    def __init__(self, path: str) -> None:
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None)
        # a killed process loses nothing that it has written; a machine without power does
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("CREATE TABLE IF NOT EXISTS topics (name TEXT PRIMARY KEY, body BLOB)")
        self._db.execute("CREATE TABLE IF NOT EXISTS boxes (name TEXT PRIMARY KEY, body BLOB)")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS letters (box TEXT, number INTEGER, body BLOB, "
            "attempt INTEGER, until REAL, PRIMARY KEY (box, number))"
        )

    def many(self, sql: str, rows: list[tuple[Any, ...]]) -> None:
        """One statement for all rows, durable when it returns."""
        if rows:
            self._db.execute("BEGIN")
            self._db.executemany(sql, rows)
            self._db.execute("COMMIT")

    def one(self, sql: str, *values: Any) -> None:
        """One statement."""
        self._db.execute(sql, values)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What a query finds."""
        return self._db.execute(sql).fetchall()


class Fake:
    """Topics, subscriptions, and what the calls do with them."""

    def __init__(self, path: str) -> None:
        self.store = Store(path)
        self.topics: dict[str, Any] = {}
        self.boxes: dict[str, Box] = {}
        self.number = 0
        self.denied: dict[str, str] = {}
        self._load()

    def _load(self) -> None:
        for name, body in self.store.rows("SELECT name, body FROM topics"):
            self.topics[name] = types.Topic.pb().FromString(body)
        for name, body in self.store.rows("SELECT name, body FROM boxes"):
            self.boxes[name] = Box(types.Subscription.pb().FromString(body))
        message = types.PubsubMessage.pb()
        rows = self.store.rows(
            "SELECT box, number, body, attempt, until FROM letters ORDER BY number"
        )
        for name, number, body, attempt, until in rows:
            box = self.boxes[name]
            box.letters[number] = Letter(number, message.FromString(body), attempt, until)
            if until:
                heapq.heappush(box.leases, (until, number))
            else:
                box.ready.append(number)
            self.number = max(self.number, number)

    def check_allowed(self, name: str) -> None:
        """Refuse where the test asked for it."""
        denied = self.denied.get(name) or self.denied.get("*")
        if denied:
            raise Refusal(denied, "User not authorized to perform this action.")

    # Topics

    def create_topic(self, request: Any) -> Any:
        """Make a topic."""
        _check_name(request.name, "topics")
        if request.name in self.topics:
            raise Refusal("ALREADY_EXISTS", "Topic already exists")
        self.topics[request.name] = request
        self.store.one(
            "INSERT INTO topics VALUES (?, ?)", request.name, request.SerializeToString()
        )
        return request

    def get_topic(self, request: Any) -> Any:
        """How a topic is."""
        if request.topic not in self.topics:
            raise Refusal("NOT_FOUND", "Topic not found")
        return self.topics[request.topic]

    def delete_topic(self, request: Any) -> Any:
        """Remove a topic; its subscriptions stay, without one."""
        self.get_topic(request)
        del self.topics[request.topic]
        self.store.one("DELETE FROM topics WHERE name = ?", request.topic)
        for name, box in self.boxes.items():
            if box.config.topic == request.topic:
                box.config.topic = DELETED_TOPIC
                body = box.config.SerializeToString()
                self.store.one("UPDATE boxes SET body = ? WHERE name = ?", body, name)
        return Empty()

    def publish(self, request: Any) -> Any:
        """Give messages to every subscription of a topic. Where there is none, they are gone."""
        if request.topic not in self.topics:
            raise Refusal("NOT_FOUND", "Topic not found")
        _check_messages(request)
        names = [name for name, box in self.boxes.items() if box.config.topic == request.topic]
        rows: list[tuple[Any, ...]] = []
        ids = []
        for message in request.messages:
            self.number += 1
            message.message_id = str(self.number)
            message.publish_time.FromNanoseconds(time.time_ns())
            ids.append(message.message_id)
            body = message.SerializeToString()
            for name in names:
                rows.append((name, self.number, body, 0, 0.0))
                box = self.boxes[name]
                box.letters[self.number] = Letter(self.number, message)
                box.ready.append(self.number)
        self.store.many("INSERT INTO letters VALUES (?, ?, ?, ?, ?)", rows)
        for name in names:
            _wake(self.boxes[name], len(ids))
        return types.PublishResponse.pb()(message_ids=ids)

    # Subscriptions

    def create_subscription(self, request: Any) -> Any:
        """Make a subscription of a topic that is there."""
        _check_name(request.name, "subscriptions")
        if request.name in self.boxes:
            raise Refusal("ALREADY_EXISTS", "Subscription already exists")
        if request.topic not in self.topics:
            raise Refusal("NOT_FOUND", "Subscription topic does not exist")
        _check_subscription(request)
        request.ack_deadline_seconds = request.ack_deadline_seconds or 10
        if not request.HasField("expiration_policy"):
            request.expiration_policy.ttl.seconds = 31 * 86_400
        self.boxes[request.name] = Box(request)
        self.store.one("INSERT INTO boxes VALUES (?, ?)", request.name, request.SerializeToString())
        return request

    def get_subscription(self, request: Any) -> Any:
        """How a subscription is."""
        return self._box(request.subscription).config

    def list_subscriptions(self, request: Any) -> Any:
        """The subscriptions of a project, in pages."""
        prefix = f"{request.project}/subscriptions/"
        names = sorted(name for name in self.boxes if name.startswith(prefix))
        names = [name for name in names if name > request.page_token]
        size = request.page_size or 100
        page = types.ListSubscriptionsResponse.pb()()
        page.subscriptions.extend(self.boxes[name].config for name in names[:size])
        page.next_page_token = names[size - 1] if len(names) > size else ""
        return page

    def delete_subscription(self, request: Any) -> Any:
        """Remove a subscription and what it holds."""
        name = request.subscription
        box = self._box(name)
        del self.boxes[name]
        self.store.one("DELETE FROM boxes WHERE name = ?", name)
        self.store.one("DELETE FROM letters WHERE box = ?", name)
        _wake(box, len(box.waiting))
        return Empty()

    async def pull(self, request: Any, context: Any) -> Any:
        """Wait for messages and hand them out. A client that has gone by then holds them, too."""
        name = request.subscription
        if request.max_messages < 1:
            raise Refusal("INVALID_ARGUMENT", "max_messages must be positive")
        left = context.time_remaining()
        give_up = asyncio.get_running_loop().time() + min(PULL_S, left or PULL_S)
        while True:
            self.check_allowed("Pull")
            box = self._box(name)
            self._take_back(name, box)
            if box.ready:
                return self._hand_out(name, box, min(request.max_messages, PULL_MAX))
            if request.return_immediately or not await _message_or_time(box, give_up):
                return types.PullResponse.pb()()

    def acknowledge(self, request: Any) -> Any:
        """Forget messages; those whose lease is over are left alone, without an error."""
        name = request.subscription
        box = self._box(name)
        gone = [letter for letter in _held(box, request.ack_ids) if box.letters.pop(letter.number)]
        self.store.many(
            "DELETE FROM letters WHERE box = ? AND number = ?",
            [(name, letter.number) for letter in gone],
        )
        return Empty()

    def modify_ack_deadline(self, request: Any) -> Any:
        """Let leases end in so many seconds from now."""
        seconds = request.ack_deadline_seconds
        if not 0 <= seconds <= 600:
            raise Refusal("INVALID_ARGUMENT", f"Invalid ack deadline {seconds}; 0 to 600")
        name = request.subscription
        box = self._box(name)
        for letter in _held(box, request.ack_ids):
            letter.until = time.time() + seconds
            heapq.heappush(box.leases, (letter.until, letter.number))
            self._write(name, [letter])
        self._take_back(name, box)
        return Empty()

    def _box(self, name: str) -> Box:
        if name not in self.boxes:
            raise Refusal("NOT_FOUND", f"Subscription does not exist (resource={name})")
        return self.boxes[name]

    def _hand_out(self, name: str, box: Box, count: int) -> Any:
        answer = types.PullResponse.pb()()
        counted = box.config.dead_letter_policy.dead_letter_topic != ""
        taken: list[Letter] = []
        size = 0
        while box.ready and len(taken) < count and size < REQUEST_MAX_BYTES:
            letter = box.letters.get(box.ready.popleft())
            if letter is None:
                continue
            letter.attempt += 1
            letter.until = time.time() + box.config.ack_deadline_seconds
            heapq.heappush(box.leases, (letter.until, letter.number))
            taken.append(letter)
            size += len(letter.message.data)
            answer.received_messages.add(
                ack_id=f"{letter.number}:{letter.attempt}",
                message=letter.message,
                delivery_attempt=letter.attempt if counted else 0,
            )
        self._write(name, taken)
        self._plan(name, box)
        return answer

    def _take_back(self, name: str, box: Box) -> None:
        """What nobody has any more is free again, or a dead letter."""
        now = time.time()
        back = []
        while box.leases and box.leases[0][0] <= now:
            until, number = heapq.heappop(box.leases)
            letter = box.letters.get(number)
            if letter is None or letter.until != until:
                continue  # done, or held for longer
            letter.until = 0.0
            policy = box.config.dead_letter_policy
            most = policy.max_delivery_attempts if policy.dead_letter_topic else 0
            if most and letter.attempt >= most and policy.dead_letter_topic in self.topics:
                self._bury(name, box, letter, policy.dead_letter_topic)
                continue
            box.ready.appendleft(number)
            back.append(letter)
        self._write(name, back)
        _wake(box, len(back))
        self._plan(name, box)

    def _bury(self, name: str, box: Box, letter: Letter, topic: str) -> None:
        dead = types.PubsubMessage.pb()()
        dead.CopyFrom(letter.message)
        source, _, short = name.removeprefix("projects/").partition("/subscriptions/")
        dead.attributes["CloudPubSubDeadLetterSourceDeliveryCount"] = str(letter.attempt)
        dead.attributes["CloudPubSubDeadLetterSourceSubscription"] = short
        dead.attributes["CloudPubSubDeadLetterSourceSubscriptionProject"] = source
        self.publish(types.PublishRequest.pb()(topic=topic, messages=[dead]))
        del box.letters[letter.number]
        self.store.one("DELETE FROM letters WHERE box = ? AND number = ?", name, letter.number)

    def _plan(self, name: str, box: Box) -> None:
        if box.timer is not None:
            box.timer.cancel()
            box.timer = None
        if box.leases:
            delay_s = max(0.0, box.leases[0][0] - time.time())
            loop = asyncio.get_running_loop()
            box.timer = loop.call_later(delay_s + 0.001, self._take_back, name, box)

    def _write(self, name: str, letters: list[Letter]) -> None:
        self.store.many(
            "UPDATE letters SET attempt = ?, until = ? WHERE box = ? AND number = ?",
            [(letter.attempt, letter.until, name, letter.number) for letter in letters],
        )


def _check_name(name: str, kind: str) -> None:
    project, found, short = name.partition(f"/{kind}/")
    if not found or not project.startswith("projects/") or _NAME.fullmatch(short) is None:
        raise Refusal("INVALID_ARGUMENT", f"Invalid [{kind}] name: (name={name})")


def _check_subscription(request: Any) -> None:
    if request.ack_deadline_seconds and not 10 <= request.ack_deadline_seconds <= 600:
        raise Refusal("INVALID_ARGUMENT", "Invalid ack deadline; 10 to 600")
    if request.HasField("dead_letter_policy"):
        most = request.dead_letter_policy.max_delivery_attempts or 5
        request.dead_letter_policy.max_delivery_attempts = most
        if not 5 <= most <= 100:
            raise Refusal("OUT_OF_RANGE", f"max_delivery_attempts is {most}; 5 to 100")
    if request.filter or request.push_config.push_endpoint or request.enable_message_ordering:
        raise Refusal("UNIMPLEMENTED", "this stand-in has no filters, pushes and ordering keys")


def _check_messages(request: Any) -> None:
    if not 1 <= len(request.messages) <= MESSAGES_MAX:
        raise Refusal("INVALID_ARGUMENT", f"{len(request.messages)} messages; 1 to {MESSAGES_MAX}")
    if request.ByteSize() > REQUEST_MAX_BYTES:
        raise Refusal(
            "INVALID_ARGUMENT",
            f"Request payload size exceeds the limit: {REQUEST_MAX_BYTES} bytes.",
        )
    for message in request.messages:
        if not message.data and not message.attributes:
            raise Refusal("INVALID_ARGUMENT", "Some messages are empty")
        for key, value in message.attributes.items():
            if not key or len(key.encode()) > 256 or len(value.encode()) > 1024:
                raise Refusal("INVALID_ARGUMENT", "An attribute is too large")


def _held(box: Box, ack_ids: Any) -> list[Letter]:
    held = []
    for ack_id in ack_ids:
        found = _ACK_ID.fullmatch(ack_id)
        if found is None:
            raise Refusal("INVALID_ARGUMENT", f"Invalid ack id (ack_id={ack_id[:40]})")
        letter = box.letters.get(int(found[1]))
        if letter is not None and letter.until and letter.attempt == int(found[2]):
            held.append(letter)
    return held


def _wake(box: Box, count: int) -> None:
    while count > 0 and box.waiting:
        future = box.waiting.popleft()
        if not future.done():
            future.set_result(None)
            count -= 1


async def _message_or_time(box: Box, give_up: float) -> bool:
    """Wait for a message; False when the time is over."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    box.waiting.append(future)
    try:
        async with asyncio.timeout_at(give_up):
            await future
    except TimeoutError:
        return False
    except asyncio.CancelledError:
        if future.done() and not future.cancelled():
            _wake(box, 1)  # the client has gone: to the next who waits
        raise
    return True


CALLS: Final[dict[str, dict[str, tuple[Any, Callable[..., Any]]]]] = {
    "Publisher": {
        "CreateTopic": (types.Topic, Fake.create_topic),
        "GetTopic": (types.GetTopicRequest, Fake.get_topic),
        "DeleteTopic": (types.DeleteTopicRequest, Fake.delete_topic),
        "Publish": (types.PublishRequest, Fake.publish),
    },
    "Subscriber": {
        "CreateSubscription": (types.Subscription, Fake.create_subscription),
        "GetSubscription": (types.GetSubscriptionRequest, Fake.get_subscription),
        "ListSubscriptions": (types.ListSubscriptionsRequest, Fake.list_subscriptions),
        "DeleteSubscription": (types.DeleteSubscriptionRequest, Fake.delete_subscription),
        "Pull": (types.PullRequest, Fake.pull),
        "Acknowledge": (types.AcknowledgeRequest, Fake.acknowledge),
        "ModifyAckDeadline": (types.ModifyAckDeadlineRequest, Fake.modify_ack_deadline),
    },
}


def _handler(fake: Fake, name: str, request_type: Any, act: Callable[..., Any]) -> Any:
    async def answer(request: Any, context: Any) -> Any:
        try:
            fake.check_allowed(name)
            if name == "Pull":
                return await act(fake, request, context)
            return act(fake, request)
        except Refusal as refusal:
            await context.abort(refusal.status, str(refusal))

    return grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=request_type.pb().FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )


def _control(fake: Fake) -> Any:
    async def answer(request: bytes, context: Any) -> bytes:
        fake.denied = json.loads(request)
        if fake.denied:  # a pull that waits was allowed before; it must meet the refusal, too
            for box in fake.boxes.values():
                _wake(box, len(box.waiting))
        return b"{}"

    return grpc.unary_unary_rpc_method_handler(answer)


async def serve(host: str, port: int, data: str) -> None:
    """Run until the process ends; prints a line when it takes calls."""
    fake = Fake(data)
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.aio.server(options=options)
    for service, calls in CALLS.items():
        handlers = {name: _handler(fake, name, *each) for name, each in calls.items()}
        generic = grpc.method_handlers_generic_handler(f"google.pubsub.v1.{service}", handlers)
        server.add_generic_rpc_handlers((generic,))
    _, service, name = CONTROL.split("/")
    control = grpc.method_handlers_generic_handler(service, {name: _control(fake)})
    server.add_generic_rpc_handlers((control,))
    server.add_insecure_port(f"{host}:{port}")
    await server.start()
    for name, box in fake.boxes.items():
        fake._take_back(name, box)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await server.wait_for_termination()


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", default="", help="a SQLite file; without it nothing is kept")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(options.host, options.port, options.data))


if __name__ == "__main__":
    main()
