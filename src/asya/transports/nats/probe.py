"""What a NATS server holds for a namespace, without changing anything there.

`NatsTransport.connect` makes what is missing; this only looks. Called by `asya doctor`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from asya.clock import from_rfc3339
from asya.errors import QueueMissing
from asya.transports.nats.connection import Link


@dataclass(frozen=True)
class Survey:
    """A server, as it was found.

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


async def survey(url: str, namespace: str, timeout_s: float) -> Survey:
    """Look at a server.

    Raises:
        TransportUnavailable: Nobody answers, or JetStream is not enabled.
        TransportError: The server refuses.
    """
    stream = f"asya-{namespace}"
    link = Link(url, name="asya-doctor", connect_timeout_s=timeout_s, timeout_s=timeout_s)
    await link.open()
    try:
        version = link.server_version
        began = datetime.now(UTC)
        try:
            info = await link.ask(f"$JS.API.STREAM.INFO.{stream}", b"")
        except QueueMissing:
            return Survey(link.where, version, has_stream=False)
        half_way = began + (datetime.now(UTC) - began) / 2
        skew_s = None
        if "ts" in info:
            skew_s = (from_rfc3339(info["ts"]) - half_way) / timedelta(seconds=1)
        return Survey(
            link.where,
            version,
            has_stream=True,
            is_ours=info["config"].get("retention") == "workqueue",
            can_delay=bool(info["config"].get("allow_msg_schedules")),
            queues=frozenset(await _queues(link, stream)),
            skew_s=skew_s,
        )
    finally:
        await link.close()


async def _queues(link: Link, stream: str) -> list[str]:
    names: list[str] = []
    while True:
        ask = b'{"offset": %d}' % len(names)
        page = await link.ask(f"$JS.API.CONSUMER.NAMES.{stream}", ask)
        found = page.get("consumers") or []
        names += found
        if not found or len(names) >= page["total"]:
            return names
