"""Tells who waits for an envelope what keeps it from going on, when it cannot go on by itself.

A thread beside the one that reads the events: while a handler cannot be loaded nothing happens, so
no event tells of it. It asks the gateway the question of `asya why`. Used by call and watch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote

from asya.cli.client import GatewayClient
from asya.errors import AsyaError

FIRST_S: Final = 2.0
"""How long an envelope waits before the first question: most have ended by then."""

AGAIN_S: Final = 5.0
"""Time between two questions."""

HINDRANCES: Final = frozenset({"broken", "crashing", "no-actor", "no-replicas", "mesh"})
"""Answers of `why` (`kind`) that somebody has to do something about."""


@contextmanager
def telling(
    client: GatewayClient,
    envelope_id: str,
    tell: Callable[[str], None],
    *,
    first_s: float = FIRST_S,
) -> Iterator[None]:
    """For the time of the block, tell what hinders the envelope, each kind of it once."""
    over = threading.Event()
    thread = threading.Thread(
        target=_ask, args=(client, envelope_id, tell, first_s, over), daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        over.set()  # not joined: it may wait for an answer, and is told nothing more


def _ask(
    client: GatewayClient,
    envelope_id: str,
    tell: Callable[[str], None],
    first_s: float,
    over: threading.Event,
) -> None:
    told = None
    wait_s = first_s
    while not over.wait(wait_s):
        wait_s = AGAIN_S
        try:
            found = client.get(f"/v1/envelopes/{quote(envelope_id, safe='')}/why")
        except AsyaError:
            continue  # the reader of the events deals with a mesh that is gone
        kind = hindrance(found)
        if kind is not None and kind != told and not over.is_set():
            tell(f"asya: {found['cause']}\n  asya why {envelope_id}")
        told = kind


def hindrance(found: Any) -> str | None:
    """The kind of an answer that tells of a hindrance; None for any other."""
    kind = found.get("kind") if isinstance(found, dict) else None
    return kind if kind in HINDRANCES else None
