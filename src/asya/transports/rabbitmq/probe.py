"""What a RabbitMQ server holds for a namespace, without changing anything there.

Over AMQP it can be asked whether a queue or exchange is there and has our arguments; bindings,
alarms and what is in flight only the management plugin tells. Called by
`asya.transports.rabbitmq.transport`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from asya.addresses import Address
from asya.codes import Code
from asya.errors import QueueMissing, TransportError, TransportUnavailable
from asya.transports.base import Finding, Inspection
from asya.transports.rabbitmq.connection import Connection, without_place
from asya.transports.rabbitmq.queues import Binding, Exchange, Layout, Part, Queue
from asya.transports.rabbitmq.registry import Registry

OLDEST: Final = (3, 10)


async def probe(
    address: Address, layout: Layout, queues: Sequence[str], timeout_s: float
) -> Inspection:
    """Inspect a server.

    Raises:
        TransportUnavailable: No server answers.
        TransportError: The broker does not let us in.
    """
    connection = Connection(
        address, name="asya-doctor", connect_timeout_s=timeout_s, timeout_s=timeout_s
    )
    await connection.open()
    try:
        found: list[Finding] = []
        if _version(connection.version) < OLDEST:
            text = f"RabbitMQ {connection.version} cannot delay messages safely; 3.10 is needed"
            found.append(Finding(text, fatal=True, code=Code.BROKER_OUTDATED))
        registry = Registry(connection, layout.registry)
        if await _differs(connection, Queue(layout.registry, {"x-queue-type": "stream"})) is None:
            found += await _missing(connection, layout.parts())
            await registry.look()
        found += await _wrong(connection, [*layout.parts(), *(layout.queue(one) for one in queues)])
        found += await _undelivered(connection, layout)
        if address.text("management"):
            found += await _seen_by_management(address, layout, registry, timeout_s)
        broker = f"RabbitMQ {connection.version} at {connection.where}"
        return Inspection(broker, frozenset(registry.generations), tuple(found))
    finally:
        await connection.close()


async def unacknowledged(address: Address, queue: str, timeout_s: float) -> int:
    """How many messages of a queue are in flight, as the management plugin saw it last."""
    path = f"queues/{quote(address.path or '/', safe='')}/{quote(queue, safe='')}"
    found = await _ask(address, path, timeout_s)
    return int(found.get("messages_unacknowledged", 0)) if found else 0


async def _differs(connection: Connection, part: Queue | Exchange) -> str | None:
    """What differs at the broker, empty when the part is not there, None when nothing does."""
    channel = await connection.channel()
    try:
        # Passively first, so that what is not there is not made.
        if isinstance(part, Queue):
            await channel.call("queue_declare", part.name, passive=True)
            await channel.call(
                "queue_declare", part.name, durable=True, arguments=dict(part.arguments)
            )
        else:
            await channel.call("exchange_declare", part.name, passive=True)
            await channel.call(
                "exchange_declare",
                part.name,
                part.kind,
                durable=True,
                arguments=dict(part.arguments),
            )
    except QueueMissing:
        return ""
    except TransportUnavailable:
        raise
    except TransportError as error:
        return without_place(str(error), connection.where)
    finally:
        channel.close()
    return None


async def _missing(connection: Connection, parts: Iterable[Part]) -> list[Finding]:
    found = []
    for part in parts:
        if not isinstance(part, Binding) and await _differs(connection, part) == "":
            text = f"{part.name} is not there; connect once more, and it is made"
            found.append(Finding(text, code=Code.QUEUE_MISSING))
    return found


async def _wrong(connection: Connection, parts: Iterable[Part]) -> list[Finding]:
    found = []
    for part in parts:
        if isinstance(part, Binding):
            continue
        text = await _differs(connection, part)
        if text:
            remedy = "drain it and delete it, or use another namespace or vhost"
            queue = part.name if isinstance(part, Queue) else None
            found.append(Finding(f"{text}; {remedy}", fatal=True, queue=queue))
    return found


async def _undelivered(connection: Connection, layout: Layout) -> list[Finding]:
    channel = await connection.channel()
    try:
        answer = await channel.call("queue_declare", layout.undeliverable, passive=True)
    except QueueMissing:
        return []
    finally:
        channel.close()
    if not answer.message_count:
        return []
    text = (
        f"{answer.message_count} messages in {layout.undeliverable} were due when their queue was "
        f"not there; publish them to the queue that their routing key begins with, or purge them"
    )
    return [Finding(text, queue=layout.undeliverable)]


async def _seen_by_management(
    address: Address, layout: Layout, registry: Registry, timeout_s: float
) -> list[Finding]:
    findings = []
    for node in await _ask(address, "nodes", timeout_s) or []:
        for alarm, what in (("mem_alarm", "memory"), ("disk_free_alarm", "disk space")):
            if node.get(alarm):
                text = f"the node {node.get('name')} is short of {what} and takes no messages"
                findings.append(Finding(text, fatal=True, code=Code.BROKER_DISK_FULL))
    vhost = quote(address.path or "/", safe="")
    listed = await _ask(address, f"bindings/{vhost}", timeout_s) or []
    there = {(one["source"], one["routing_key"], one["destination"]) for one in listed}
    wanted = [part for part in layout.parts() if isinstance(part, Binding)]
    for queue, generations in registry.generations.items():
        for generation in generations:
            wanted += layout.bindings(queue, generation)
    missing = [one for one in wanted if (one.source, one.key, one.target) not in there]
    if registry.generations and missing:
        first = missing[0]
        text = (
            f"{len(missing)} bindings are missing, such as {first.source} to {first.target}; "
            "delayed messages may go astray until the mesh starts again"
        )
        findings.append(Finding(text))
    return findings


async def _ask(address: Address, path: str, timeout_s: float) -> Any:
    """What the management plugin answers, decoded; None for what is not there."""
    return await asyncio.to_thread(_get, address, path, timeout_s)


def _get(address: Address, path: str, timeout_s: float) -> Any:
    given = urlsplit(address.text("management"))
    user, password = given.username or address.user, given.password or address.password
    place = given.netloc.rpartition("@")[2]
    url = urlunsplit((given.scheme, place, f"{given.path.rstrip('/')}/api/{path}", "", ""))
    login = f"{unquote(user or 'guest')}:{unquote(password or 'guest')}".encode()
    request = urllib.request.Request(  # noqa: S310 -- an address has http or https, checked when it is read
        url, headers={"Authorization": f"Basic {base64.b64encode(login).decode()}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310 -- as above
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise TransportError(
            f"RabbitMQ's management at {place} refuses: {error.code} {error.reason}"
        ) from error
    except (OSError, ValueError) as error:
        raise TransportUnavailable(
            f"RabbitMQ's management at {place} does not answer: {error}"
        ) from error


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdecimal())
