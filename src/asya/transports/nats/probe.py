"""What a NATS server holds for a namespace, without changing anything there.

`NatsTransport.connect` makes what is missing; this only looks. Called by `asya doctor`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from asya.clock import from_rfc3339
from asya.errors import QueueMissing
from asya.transports.nats.connection import Connection


@dataclass(frozen=True)
class Probe:
    """What was found at a server.

    Attributes:
        where: Its address, without credentials.
        version: Its version.
        has_stream: Whether the namespace has a stream; without one the rest says nothing.
        is_ours: Whether it keeps messages as our queues need it.
        can_delay: Whether it can hold messages back, which takes NATS 2.12.
        queues: The names of its queues.
        skew_s: How far the server's clock is before ours, where it says its time.
    """

    where: str
    version: str
    has_stream: bool
    is_ours: bool = True
    can_delay: bool = True
    queues: frozenset[str] = frozenset()
    skew_s: float | None = None


async def probe(url: str, namespace: str, timeout_s: float) -> Probe:
    """Inspect a server.

    Raises:
        TransportUnavailable: No server answers, or JetStream is not enabled.
        TransportError: The server refuses.
    """
    stream = f"asya-{namespace}"
    connection = Connection(
        url, name="asya-doctor", connect_timeout_s=timeout_s, timeout_s=timeout_s
    )
    await connection.open()
    try:
        version = connection.server_version
        began = datetime.now(UTC)
        try:
            info = await connection.request(f"$JS.API.STREAM.INFO.{stream}", b"")
        except QueueMissing:
            return Probe(connection.where, version, has_stream=False)
        half_way = began + (datetime.now(UTC) - began) / 2
        skew_s = None
        if "ts" in info:
            skew_s = (from_rfc3339(info["ts"]) - half_way) / timedelta(seconds=1)
        return Probe(
            connection.where,
            version,
            has_stream=True,
            is_ours=info["config"].get("retention") == "workqueue",
            can_delay=bool(info["config"].get("allow_msg_schedules")),
            queues=frozenset(await _queues(connection, stream)),
            skew_s=skew_s,
        )
    finally:
        await connection.close()


async def _queues(connection: Connection, stream: str) -> list[str]:
    names: list[str] = []
    while True:
        ask = b'{"offset": %d}' % len(names)
        page = await connection.request(f"$JS.API.CONSUMER.NAMES.{stream}", ask)
        found = page.get("consumers") or []
        names += found
        if not found or len(names) >= page["total"]:
            return names
