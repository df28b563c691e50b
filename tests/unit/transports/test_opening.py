"""Addresses become transports; what is missing is named with the extra that brings it."""

from __future__ import annotations

import sys

import pytest

from asya.addresses import parse_address
from asya.codes import Code
from asya.errors import UsageError
from asya.transports.nats.transport import NatsTransport
from asya.transports.opening import open_transport

ADDRESSES = {
    "nats": ("nats://h:1", "nats"),
    "rabbitmq": ("amqp://u:s3cret@h", "pika"),
    "sqs": ("sqs://eu-west-1", "aiobotocore"),
    "pubsub": ("pubsub://p", "google.pubsub_v1"),
}


def test_a_transport_of_nats_has_the_lease_of_the_settings() -> None:
    transport = open_transport(parse_address("nats://t@h:1,nats://h:2"), "shop", lease_s=7)

    assert isinstance(transport, NatsTransport)
    assert transport.capabilities.lease_s == 7


@pytest.mark.parametrize(("name", "given"), ADDRESSES.items())
def test_a_missing_library_is_told_with_its_extra(
    name: str, given: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, library = given
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(UsageError) as caught:
        open_transport(parse_address(url), "shop", lease_s=7)

    assert caught.value.code == Code.EXTRA_MISSING
    assert f"needs {library}, which is not installed; pip install '" in str(caught.value)
    assert f"[{name}]'" in str(caught.value)
    assert "s3cret" not in str(caught.value)
