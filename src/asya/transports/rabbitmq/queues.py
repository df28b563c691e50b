"""What a namespace consists of in RabbitMQ: names, arguments, wiring. Pure.

An actor's queue is a quorum queue of its own name. Everything else has a dot in its name, which
no actor's can have: `asya-{namespace}.{part}`.

    publish ──(default exchange)──▶ asya-ns-actor ──(delivery limit)──▶ in ──▶ asya-ns-x-sump
    publish, not before ──▶ later ──▶ delay-8 ┬▶ queue delay-8-1: 2.3 h ─▶ delay-7 ┬▶ …  ──▶ in ──▶ asya-ns-actor
                                              └▶ digit 0: straight ──────▶        └▶ …

A delay is a number of `UNIT_S` in base `RADIX`; its digits stand in the routing key,
`{queue}.{generation}.{digit}.{digit}…`, highest first. At each level a message takes the queue of
its digit, whose time to live is that digit's part of the delay, or, with a zero, none. The queues
hand on by at-least-once dead-lettering, so everything stays in the broker and survives it, and
one message of a level waits for no other. `in` has an alternate exchange: what no queue takes any
more goes to `undeliverable`, since a dead letter that cannot be routed would block its level.

A generation is made with a queue and dies with its deletion: `void` takes its late messages.
Called by `asya.transports.rabbitmq.transport`, its registry and its survey.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from asya.errors import TransportError

UNIT_S: Final = 0.125
"""The resolution of delays, in seconds."""
RADIX: Final = 4
"""Fewer queues with 2, fewer steps of a message with 8; measured, 4 costs the broker least work
per queue. A change needs other names: arguments of queues cannot be changed."""
LEVELS: Final = 9
DELAY_MAX_S: Final = (RADIX**LEVELS - 1) * UNIT_S
"""9.1 hours."""
DELIVERIES_MAX: Final = 100
"""After so many the broker itself puts a message to the dead letters; the sidecar does long before."""
HOLD_MAX_S: Final = 24 * 3600
"""How long a message may be worked on, where the broker takes it from the queue (3.12 and later)."""
NAME_MAX_BYTES: Final = 200
"""RabbitMQ takes 255 bytes for a name or a routing key, and a key holds the digits as well."""


@dataclass(frozen=True)
class Exchange:
    """An exchange to declare, durable."""

    name: str
    kind: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Queue:
    """A queue to declare, durable."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Binding:
    """From an exchange, by a key, to a queue or to another exchange."""

    source: str
    key: str
    target: str
    to_exchange: bool = False


Part = Exchange | Queue | Binding


class Layout:
    """The names of one namespace.

    Attributes:
        entry: The exchange for messages that wait for their time.
        arrival: The exchange that leads to the actors' queues.
        undeliverable: The queue for what was due when its queue was not there.
        void: The queue that throws away what it gets.
        registry: The stream that says which queues there are.
        sump: The queue of the dead letters.
    """

    def __init__(self, namespace: str) -> None:
        prefix = f"asya-{namespace}"
        if not _is_name(namespace):
            raise TransportError(f"{namespace!r} is no name for a namespace in RabbitMQ")
        self.prefix = f"{prefix}-"
        self.entry = f"{prefix}.later"
        self.arrival = f"{prefix}.in"
        self.lost = f"{prefix}.lost"
        self.undeliverable = f"{prefix}.undeliverable"
        self.void = f"{prefix}.void"
        self.registry = f"{prefix}.registry"
        self.sump = f"{prefix}-x-sump"

    def parts(self) -> Iterator[Part]:
        """What all queues of the namespace share, in the order in which it can be declared."""
        aside = {"alternate-exchange": self.lost}
        yield Exchange(self.lost, "fanout")
        yield Queue(self.undeliverable, {"x-queue-type": "quorum"})
        yield Binding(self.lost, "", self.undeliverable)
        yield Exchange(self.arrival, "topic", aside)
        yield Queue(self.void, {"x-queue-type": "classic", "x-max-length": 0})
        yield Exchange(self.entry, "topic")
        for level in range(LEVELS):
            yield from self._level(level, aside)

    def queue(self, name: str) -> Queue:
        """An actor's queue."""
        key = self.undeliverable if name == self.sump else self.sump
        return Queue(
            name,
            {
                "x-queue-type": "quorum",
                "x-overflow": "reject-publish",
                "x-dead-letter-strategy": "at-least-once",
                "x-dead-letter-exchange": self.arrival,
                "x-dead-letter-routing-key": key,
                "x-delivery-limit": DELIVERIES_MAX,
                "x-consumer-timeout": HOLD_MAX_S * 1000,
            },
        )

    def bindings(self, name: str, generation: str) -> Iterator[Binding]:
        """How delayed messages of a generation come to an actor's queue."""
        yield Binding(self.arrival, _pattern(name, generation), name)
        if name == self.sump:
            yield Binding(self.arrival, name, name)
        yield self.admission(name, generation)

    def admission(self, name: str, generation: str) -> Binding:
        """What lets messages of a generation in: without it they are returned to the publisher."""
        return Binding(self.entry, _pattern(name, generation), self._exchange(LEVELS - 1), True)

    def farewell(self, name: str, generation: str) -> Binding:
        """What throws away late messages of a generation."""
        return Binding(self.arrival, _pattern(name, generation), self.void)

    def key(self, name: str, generation: str, delay_s: float) -> str:
        """The routing key of a message that is due in `delay_s`, at most `DELAY_MAX_S`."""
        return f"{name}.{generation}.{'.'.join(digits(delay_s))}"

    def _level(self, level: int, aside: dict[str, Any]) -> Iterator[Part]:
        here, below = self._exchange(level), self._exchange(level - 1)
        before = "*.*." + "*." * (LEVELS - 1 - level)
        yield Exchange(here, "topic", aside)
        yield Binding(here, f"{before}0.#", below, to_exchange=True)
        for digit in range(1, RADIX):
            name = f"{here}-{digit}"
            yield Queue(
                name,
                {
                    "x-queue-type": "quorum",
                    "x-overflow": "reject-publish",
                    "x-dead-letter-strategy": "at-least-once",
                    "x-dead-letter-exchange": below,
                    "x-message-ttl": round(digit * RADIX**level * UNIT_S * 1000),
                },
            )
            yield Binding(here, f"{before}{digit}.#", name)

    def _exchange(self, level: int) -> str:
        return self.arrival if level < 0 else f"{self.lost.removesuffix('lost')}delay-{level}"


def digits(delay_s: float) -> list[str]:
    """A delay in `UNIT_S`, rounded up and at least one, in base `RADIX`, highest first."""
    # Less a hair, so that what is a whole number of units stays one.
    units = max(1, math.ceil(delay_s / UNIT_S - 1e-6))
    if units >= RADIX**LEVELS:
        raise ValueError(f"a delay of {delay_s:g} s is over {DELAY_MAX_S:g} s")
    found = []
    for _ in range(LEVELS):
        units, digit = divmod(units, RADIX)
        found.append(str(digit))
    return found[::-1]


def check_name(name: str) -> None:
    """Raise `TransportError` for what could not be the name of a queue of ours."""
    if not _is_name(name) or len(name.encode()) > NAME_MAX_BYTES:
        raise TransportError(f"{name!r} is no name for a queue in RabbitMQ")


def _is_name(text: str) -> bool:
    return bool(text) and not any(each in ".*#/" or each.isspace() for each in text)


def _pattern(name: str, generation: str) -> str:
    return f"{name}.{generation}.#"
