"""Virtual time for the transport that knows no real broker; real time for the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from asya.testing.virtual_time import VirtualLoop

VIRTUAL = {"test_memory.py"}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name in VIRTUAL:
        return {"virtual": VirtualLoop}
    return {"real": asyncio.new_event_loop}
