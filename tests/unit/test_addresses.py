"""Addresses of brokers: what they say, what they refuse, and that they show no password."""

from __future__ import annotations

import re

import pytest

from asya.addresses import OPTIONS, SCHEMES, TRANSPORTS, options_markdown, parse_address

PASSWORD = "s3cret"


@pytest.mark.parametrize(
    ("text", "transport", "where", "port"),
    [
        ("nats://127.0.0.1:4222", "nats", "127.0.0.1:4222", 4222),
        ("nats://host", "nats", "host", 4222),
        ("tls://s3cret@host:4333", "nats", "host:4333", 4333),
        ("nats://s3cret@a:1,nats://u:s3cret@b:2", "nats", "a:1,b:2", 1),
        ("nats://a:1, b:2", "nats", "a:1,b:2", 1),
        ("amqp://host", "rabbitmq", "host:5672", 5672),
        ("amqps://host", "rabbitmq", "host:5671", 5671),
        ("amqp://u:s3cret@host:1/", "rabbitmq", "host:1", 1),
        ("amqp://u:s3cret@host:1/%2F", "rabbitmq", "host:1", 1),
        ("amqp://u:s3cret@[::1]:1/v%2Fw", "rabbitmq", "[::1]:1/v/w", 1),
        ("amqp://h/v?management=http://u:s3cret@h:15672", "rabbitmq", "h:5672/v", 5672),
        ("sqs://eu-west-1", "sqs", "eu-west-1", None),
        (
            "sqs://eu-west-1?endpoint=http://127.0.0.1:5000/",
            "sqs",
            "eu-west-1 at 127.0.0.1:5000",
            None,
        ),
        ("pubsub://my-project", "pubsub", "my-project", None),
        (
            "pubsub://example.com:p?endpoint=[::1]:8085",
            "pubsub",
            "example.com:p at [::1]:8085",
            None,
        ),
    ],
)
def test_an_address_says_which_broker_and_where(
    text: str, transport: str, where: str, port: int | None
) -> None:
    address = parse_address(text)

    assert (address.transport, address.where, address.port) == (transport, where, port)
    assert address.url == text
    assert PASSWORD not in f"{address!r} {address} {address.where}"


def test_credentials_and_paths_are_decoded() -> None:
    address = parse_address("amqps://us%40er:a%2Fb%3Fc@host/my%20vhost")

    assert (address.user, address.password) == ("us@er", "a/b?c")
    assert (address.path, address.secure) == ("my vhost", True)


def test_options_have_defaults_and_types() -> None:
    given = parse_address("sqs://eu-west-1?lease=1m&fair=true&account=123456789012")
    plain = parse_address("sqs://eu-west-1")

    assert (given.seconds("lease"), plain.seconds("lease")) == (60.0, 30.0)
    assert (given.flag("fair"), plain.flag("fair")) == (True, False)
    assert (given.text("account"), plain.text("account")) == ("123456789012", "")


def test_every_default_is_a_value_of_its_kind() -> None:
    bases = {"nats": "nats://h", "rabbitmq": "amqp://h", "sqs": "sqs://r", "pubsub": "pubsub://p"}
    for transport, options in OPTIONS.items():
        for option in options:
            if option.default:
                parse_address(f"{bases[transport]}?{option.name}={option.default}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:4222", "got a text without ://"),
        ("s3cret", "got a text without ://"),
        ("", "got a text without ://"),
        ("nats://a\n", "got something else"),
        ("rabbitmq://u:s3cret@h", 'got "rabbitmq"://…; did you mean amqp://?'),
        ("amqpss://u:s3cret@h", "did you mean amqps://?"),
        ("kafka://u:s3cret@h", "there are nats://, tls://, amqp://, amqps://, sqs://, pubsub://"),
        ("pub-sub://p", "got another scheme; did you mean pubsub://?"),
        ("nats://", "got no host"),
        ("nats://h:0", "got the port 0"),
        ("nats://h/x", "got a path"),
        ("nats://h?heartbeat=20s", "unknown option of the address 'heartbeat'; NATS has none"),
        ("nats://a,amqp://u:s3cret@b", "got servers of different brokers"),
        ("amqp://u:s3cret/x@h", "%2F"),
        ("amqp://u:s3cret?x@h", "port"),
        ("amqp://u:[s3cret@h", "got brackets or characters"),
        ("amqp://u:s3cret#@h", "got a #; in a password write it as %23"),
        ("amqp://h:99999", "port"),
        (
            "amqp://h?hartbeat=20s",
            "unknown option of the address 'hartbeat'; did you mean 'heartbeat'?",
        ),
        ("amqp://h?heartbeat", "name=value"),
        ("amqp://h?heartbeat=20", 'option heartbeat: expected a duration such as "500ms"'),
        ("amqp://h?heartbeat=2h", 'option heartbeat: expected 1s to 10m, got "2h"'),
        ("amqp://h?heartbeat=20s&heartbeat=30s", "option heartbeat is given twice"),
        (
            "amqp://h?management=s3cret",
            "option management: expected",
        ),
        ("amqp://h?cafile=", "option cafile: expected"),
        ("sqs://", "got no region"),
        ("sqs://key:s3cret@eu-west-1", "got credentials"),
        ("sqs://EU_WEST", "got what is not a region"),
        ("sqs://eu-west-1/queue", "got a path"),
        ("sqs://eu-west-1?fair=maybe", 'option fair: expected true or false, got "maybe"'),
        ("pubsub://", "got no project"),
        ("pubsub://p?endpoint=http://h:1", "option endpoint: expected host:port"),
        ("pubsub://p?lease=5s", 'option lease: expected 10s to 10m, got "5s"'),
    ],
)
def test_what_is_no_address_is_told_without_its_text(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)) as caught:
        parse_address(text)

    assert PASSWORD not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "\n" not in str(caught.value)


def test_every_transport_has_a_scheme_and_a_row_of_options_at_most_once() -> None:
    assert set(SCHEMES.values()) == set(TRANSPORTS) == set(OPTIONS)
    for options in OPTIONS.values():
        assert len({option.name for option in options}) == len(options)


def test_the_table_of_options_has_them_all() -> None:
    table = options_markdown()

    for options in OPTIONS.values():
        for option in options:
            assert f"| `{option.name}` |" in table
    assert "| Amazon SQS | `lease` | duration, 1s to 12h | `30s` |" in table
