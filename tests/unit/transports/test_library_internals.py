"""The private parts of client libraries that the transports use are still there.

Each broker's files list them as `INTERNALS`, with the reason. When a new version of a library has
lost one, this names it; `pyproject.toml` bounds the versions for the same reason.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import pytest

MODULES = (
    "asya.transports.nats.connection",
    "asya.transports.rabbitmq.channel",
    "asya.transports.rabbitmq.connection",
    "asya.transports.rabbitmq.wire",
    "asya.transports.sqs.connection",
    "asya.transports.pubsub.library",
)


def listed() -> Iterator[Any]:
    """The cases of the test below."""
    for module in MODULES:
        internals: Mapping[str, tuple[str, ...]] = import_module(module).INTERNALS
        for place, names in internals.items():
            for name in names:
                yield pytest.param(place, name, id=f"{place}.{name}")


def has(owner: type, name: str) -> bool:
    """Whether a class has the attribute, or assigns it to its instances."""
    if hasattr(owner, name):
        return True
    sources = (inspect.getsource(each) for each in owner.__mro__ if each.__module__ != "builtins")
    return any(f"self.{name} =" in source or f"self.{name}:" in source for source in sources)


@pytest.mark.parametrize(("place", "name"), list(listed()))
def test_the_library_still_has_it(place: str, name: str) -> None:
    module, _, attribute = place.partition(":")
    library = module.partition(".")[0]
    owner = getattr(import_module(module), attribute, None)
    assert owner is not None, f"{library}: {place} is gone; see INTERNALS in its transport"
    assert has(owner, name), f"{library}: {place} has no {name} any more; see INTERNALS"


def test_each_broker_with_a_client_library_lists_its_internals() -> None:
    assert {module.split(".")[2] for module in MODULES} == {"nats", "rabbitmq", "sqs", "pubsub"}
