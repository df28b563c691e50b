"""The transport that belongs to an address; its file and its client library are loaded only here.

Called by whoever runs a mesh, and by `asya doctor`. The error for a missing library names the
extra that installs it, which has the broker's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final, NamedTuple

from asya.addresses import TITLES, Address
from asya.clock import Clock
from asya.codes import Code
from asya.errors import UsageError, how_to_install
from asya.transports.base import Transport


class _Row(NamedTuple):
    """Where a transport is: the client's library, our module, and the class in it."""

    library: str
    module: str
    name: str
    lease: bool


_ROWS: Final[Mapping[str, _Row]] = {
    "nats": _Row("nats", "asya.transports.nats.transport", "NatsTransport", lease=True),
    "rabbitmq": _Row("pika", "asya.transports.rabbitmq.transport", "RabbitTransport", lease=False),
    "sqs": _Row("aiobotocore", "asya.transports.sqs.transport", "SqsTransport", lease=True),
    "pubsub": _Row(
        "google.pubsub_v1", "asya.transports.pubsub.transport", "PubSubTransport", lease=True
    ),
}


def open_transport(
    address: Address, namespace: str, *, lease_s: float, clock: Clock | None = None
) -> Transport:
    """A transport that is not connected yet.

    Args:
        address: Where the broker is.
        namespace: The mesh's namespace.
        lease_s: The lease of NATS, in seconds. RabbitMQ's is the connection, and those of SQS and
            Pub/Sub, where each extension is a request, are options of their addresses.
        clock: Wall time.

    Raises:
        UsageError: The broker's client library is not installed.
    """
    row = _ROWS[address.transport]
    given: dict[str, Any] = {"clock": clock}
    if row.lease:
        given["lease_s"] = lease_s if address.transport == "nats" else address.seconds("lease")
    place = address.url if address.transport == "nats" else address
    try:
        make = getattr(import_module(row.module), row.name)
        # ours first: Pub/Sub's has to settle something before gRPC is loaded
        import_module(row.library)
    except ModuleNotFoundError as error:
        title = TITLES[address.transport]
        if error.name == row.module:
            raise UsageError(f"this version of Asya has no {title}") from error
        raise UsageError(
            f"{title} needs {error.name}, which is not installed; "
            f"{how_to_install(address.transport)} brings it",
            code=Code.EXTRA_MISSING,
        ) from error
    transport: Transport = make(place, namespace, **given)
    return transport
