"""The private parts of libraries that we use are still there, and these libraries have a bound.

The files that use them list them as `INTERNALS`, with the reason. When a new version of a library
has lost one, this names it.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

MODULES = {
    "asya.gateway.server": "uvicorn",
    "asya.local.environment": "python-dotenv",
    "asya.transports.nats.connection": "nats-py",
    "asya.transports.rabbitmq.channel": "pika",
    "asya.transports.rabbitmq.connection": "pika",
    "asya.transports.rabbitmq.wire": "pika",
    "asya.transports.sqs.connection": "aiobotocore",
    "asya.transports.pubsub.library": "google-cloud-pubsub",
}
"""The files with `INTERNALS`, and the distribution that each is about."""


def listed() -> Iterator[Any]:
    """The cases of the test below."""
    for module in MODULES:
        internals: Mapping[str, tuple[str, ...]] = import_module(module).INTERNALS
        for place, names in internals.items():
            for name in names:
                yield pytest.param(place, name, id=f"{place}.{name}")


def has(owner: type | ModuleType, name: str) -> bool:
    """Whether a module or a class has the attribute, or the class assigns it to its instances."""
    if hasattr(owner, name):
        return True
    if isinstance(owner, ModuleType):
        return False
    sources = (inspect.getsource(each) for each in owner.__mro__ if each.__module__ != "builtins")
    return any(f"self.{name} =" in source or f"self.{name}:" in source for source in sources)


@pytest.mark.parametrize(("place", "name"), list(listed()))
def test_the_library_still_has_it(place: str, name: str) -> None:
    module, _, attribute = place.partition(":")
    library = import_module(module)
    owner = getattr(library, attribute, None) if attribute else library
    assert owner is not None, f"{place} is gone; see INTERNALS in src"
    assert has(owner, name), f"{place} has no {name} any more; see INTERNALS in src"


def test_every_file_with_internals_is_tested(root: Path, source_files: list[Path]) -> None:
    found = {
        ".".join(path.relative_to(root / "src").with_suffix("").parts)
        for path in source_files
        if re.search(r"^INTERNALS\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert found == set(MODULES)


def test_a_library_has_an_upper_bound_if_its_internals_are_used(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = list(project["dependencies"])
    for items in project["optional-dependencies"].values():
        wanted += items
    bounded = {
        made.name
        for made in map(Requirement, wanted)
        if any(each.operator in {"<", "<=", "==", "~="} for each in made.specifier)
    }
    assert bounded == set(MODULES.values())
