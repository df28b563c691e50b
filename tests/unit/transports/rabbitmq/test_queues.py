"""The ladder of delays, walked by hand: how long a message takes, and where it ends."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asya.addresses import parse_address
from asya.errors import TransportError
from asya.transports.rabbitmq.queues import (
    DELAY_MAX_S,
    UNIT_S,
    Binding,
    Exchange,
    Layout,
    Queue,
    check_name,
    digits,
)
from asya.transports.rabbitmq.transport import RabbitTransport

LAYOUT = Layout("prod")
PARTS = list(LAYOUT.parts())
QUEUES = {part.name: part for part in PARTS if isinstance(part, Queue)}
EXCHANGES = {part.name: part for part in PARTS if isinstance(part, Exchange)}


def matches(pattern: str, key: str) -> bool:
    """As a topic exchange does it: `*` is a word, `#` any number of them."""
    words = [{"*": r"[^.]+", "#": r".*"}.get(word, re.escape(word)) for word in pattern.split(".")]
    text = r"\.".join(words).replace(r"\..*", r"(\..*)?")
    return re.fullmatch(text, key) is not None


def walk(bindings: list[Binding], exchange: str, key: str) -> tuple[list[str], int]:
    """The queues in which a message ends, and the milliseconds that it takes."""
    fanout = EXCHANGES[exchange].kind == "fanout"
    targets = [one for one in bindings if one.source == exchange]
    targets = [one for one in targets if fanout or matches(one.key, key)]
    if not targets:
        aside = EXCHANGES[exchange].arguments.get("alternate-exchange")
        return walk(bindings, aside, key) if aside else ([], 0)
    ends: list[str] = []
    took = 0
    for one in targets:
        queue = QUEUES.get(one.target)
        if one.to_exchange:
            found, waited = walk(bindings, one.target, key)
        elif queue is not None and "x-message-ttl" in queue.arguments:
            found, waited = walk(bindings, queue.arguments["x-dead-letter-exchange"], key)
            waited += queue.arguments["x-message-ttl"]
        else:
            found, waited = [one.target], 0
        ends, took = ends + found, max(took, waited)
    return ends, took


def bindings_of(*more: Binding) -> list[Binding]:
    return [part for part in PARTS if isinstance(part, Binding)] + list(more)


@given(st.floats(0.001, DELAY_MAX_S))
def test_a_message_takes_its_delay_and_ends_in_its_queue(delay_s: float) -> None:
    bindings = bindings_of(*LAYOUT.bindings("asya-prod-a", "g1"))
    ends, took = walk(bindings, LAYOUT.entry, LAYOUT.key("asya-prod-a", "g1", delay_s))
    assert ends == ["asya-prod-a"]
    assert delay_s - 1e-6 <= took / 1000 < delay_s + UNIT_S + 1e-6


def test_a_generation_that_is_over_ends_in_the_void() -> None:
    # given a queue that was deleted and made again while messages waited
    bindings = bindings_of(
        *LAYOUT.bindings("asya-prod-a", "new"), LAYOUT.farewell("asya-prod-a", "old")
    )
    key = LAYOUT.key("asya-prod-a", "old", 10.0)
    ladder = LAYOUT.admission("asya-prod-a", "old").target
    assert walk(bindings, ladder, key)[0] == [LAYOUT.void]
    # and new ones of the old generation are not let in
    assert walk(bindings, LAYOUT.entry, key) == ([], 0)


def test_what_has_no_queue_any_more_is_put_aside() -> None:
    key = LAYOUT.key("asya-prod-gone", "g", 1.0)
    ladder = LAYOUT.admission("asya-prod-gone", "g").target
    assert walk(bindings_of(), ladder, key)[0] == [LAYOUT.undeliverable]


def test_dead_letters_come_to_the_sump_and_its_own_are_put_aside() -> None:
    bindings = bindings_of(*LAYOUT.bindings(LAYOUT.sump, "g"))
    for name, end in (("asya-prod-a", LAYOUT.sump), (LAYOUT.sump, LAYOUT.undeliverable)):
        arguments = LAYOUT.queue(name).arguments
        assert arguments["x-dead-letter-strategy"] == "at-least-once"
        exchange, key = (arguments[f"x-dead-letter-{part}"] for part in ("exchange", "routing-key"))
        assert walk(bindings, exchange, key)[0] == [end]


def test_everything_of_the_ladder_survives_a_restart_and_drops_nothing() -> None:
    for queue in QUEUES.values():
        if "x-message-ttl" in queue.arguments:
            assert queue.arguments["x-queue-type"] == "quorum"
            assert queue.arguments["x-overflow"] == "reject-publish"
            assert queue.arguments["x-dead-letter-strategy"] == "at-least-once"


def test_parts_can_be_declared_in_their_order() -> None:
    seen: set[str] = set()
    for part in PARTS:
        if isinstance(part, Binding):
            assert {part.source, part.target} <= seen
        else:
            seen.add(part.name)


def test_digits() -> None:
    assert "".join(digits(0.0001)) == "000000001"
    assert "".join(digits(0.5)) == "000000010"
    assert "".join(digits(0.51)) == "000000011"
    assert "".join(digits(DELAY_MAX_S)) == "333333333"
    with pytest.raises(ValueError, match="over 32767"):
        digits(DELAY_MAX_S + 1)


def test_names() -> None:
    for name in ("", "a.b", "a*", "a#", "a/b", "a b", "ü" * 101):
        with pytest.raises(TransportError, match="no name"):
            check_name(name)
    check_name("asya-prod-" + "x" * 63)
    with pytest.raises(TransportError, match="no name"):
        Layout("a.b")


@pytest.mark.parametrize(("path", "vhost"), [("", "/"), ("/team", "team")])
def test_keda_counts_what_is_ready_and_what_is_in_flight(path: str, vhost: str) -> None:
    """Over HTTP: by AMQP it sees the ready only, and ends a pod that works on the last message."""
    address = parse_address(f"amqp://user:secret@rabbit:5672{path}")
    trigger = RabbitTransport(address, "prod").trigger("asya-prod-a", 5)
    assert trigger == {
        "type": "rabbitmq",
        "metadata": {
            "protocol": "http",
            "mode": "QueueLength",
            "queueName": "asya-prod-a",
            "vhostName": vhost,
            "value": "5",
            "activationValue": "0",
            "excludeUnacknowledged": "false",
        },
    }
    assert "secret" not in str(trigger)


def test_the_management_plugin_is_a_capability() -> None:
    with_it = parse_address("amqp://rabbit/?management=http://rabbit:15672")
    assert RabbitTransport(with_it, "prod").capabilities.counts_in_flight
    assert not RabbitTransport(
        parse_address("amqp://rabbit/"), "prod"
    ).capabilities.counts_in_flight
