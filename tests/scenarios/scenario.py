"""The format of a scenario file: what it may say, and how it is read.

A file is data. `load` turns it into a `Scenario` and refuses what the format does not know, with the
name of the file and of the key. README.md explains the format with an example.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import yaml
from msgspec import UNSET, Struct, UnsetType

from asya.envelope import child_id
from asya.manifest.model import AsyncActor
from asya.resiliency import Resiliency

FOLDER: Final = Path(__file__).parent

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_CHILD: Final = re.compile(r"([^\s:>]+(?:>\d+\.\d+)*)>(\d+)\.(\d+)")

_ENVELOPE: Final = frozenset((
    "id", "parent", "root", "hop", "prev", "next", "payload", "headers", "phase", "actor",
    "attempt", "max_attempts", "reason", "error", "deadline", "updated", "status", "extra",
))  # fmt: skip
FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "calls": frozenset((
        "at", "actor", "id", "attempt", "max_attempts", "phase", "payload", "headers", "next",
        "replica", "beside",
    )),
    "published": _ENVELOPE | {"at", "to", "dedup", "not_before", "duplicate"},
    "ends": _ENVELOPE - {"max_attempts", "actor", "updated", "status", "extra"} | {"at"},
    "dead_letters": _ENVELOPE | {"at"},
    "events": frozenset((
        "at", "event", "id", "actor", "attempt", "hop", "state", "to", "prev", "next", "error",
        "retry_at", "parent", "root", "attempts_max", "replica", "data", "seq",
    )),
    "settled": frozenset(("at", "actor", "id", "how", "delivery")),
    "killed": frozenset(("at", "actor")),
}  # fmt: skip
"""What an entry of each section of `then` may name. What happened has exactly these fields."""

MAY_BE_LEFT_OUT: Final = frozenset({"calls", "published", "events", "settled", "killed"})
"""Sections that are compared only if the file has them. The others are empty if left out."""


class FormatError(ValueError):
    """A scenario file says what the format does not know."""


class Part(Struct, forbid_unknown_fields=True):
    """A mapping in a file: an unknown key is an error."""


class Change(Part):
    """What a handler changes by SET and DEL, for what it emits from there on."""

    next: list[str] | UnsetType = UNSET
    set: dict[str, Any] | UnsetType = UNSET
    del_: list[str] | UnsetType = msgspec.field(default=UNSET, name="del")
    status: dict[str, Any] | UnsetType = UNSET


class Step(Part):
    """A piece of what a handler does in one call. What a step names happens in this order."""

    take: float | Literal["forever"] = 0
    stubborn: bool = False
    change: Change | None = None
    fly: list[dict[str, Any]] = []
    emit: list[Any] | Literal["input"] = []
    emit_many: int = 0
    emit_size: int | None = None
    raise_: str | None = msgspec.field(default=None, name="raise")
    mro: list[str] = []
    die: bool = False


Call = Step | list[Step]


class Actor(Part):
    """An actor with a sidecar and replicas, and what its handler does call by call."""

    resiliency: dict[str, Any] = {}
    replicas: int = 1
    concurrency: int = 1
    cooperative: bool = False
    payload_max_bytes: int = 4 * 1024 * 1024
    neighbours: list[str] = []
    does: list[Call] = []
    does_with: dict[str, list[Call]] = {}

    def call(self, envelope_id: str, before: int, before_of_id: int) -> list[Step]:
        """The steps of a call: the last one that is listed is repeated."""
        calls, number = self.does, before
        if envelope_id in self.does_with:
            calls, number = self.does_with[envelope_id], before_of_id
        if not calls:
            return [Step(emit="input")]
        call = calls[min(number, len(calls) - 1)]
        return call if isinstance(call, list) else [call]

    def rules(self, name: str) -> Resiliency:
        """The resiliency, read by the model of the manifest."""
        manifest = {
            "apiVersion": "asya.sh/v1alpha1",
            "kind": "AsyncActor",
            "metadata": {"name": name},
            "spec": {"handler": "app.handle", "resiliency": self.resiliency},
        }
        return AsyncActor.model_validate(manifest).resiliency()


class Message(Part):
    """An envelope that a client sends, or bytes that stand in a queue."""

    id: str = "e-1"
    route: list[str] = msgspec.field(default_factory=lambda: ["a"])
    into: str | None = None
    payload: Any = msgspec.field(default_factory=lambda: {"n": 1})
    headers: dict[str, Any] = {}
    prev: list[str] = []
    deadline: float | None = None
    phase: str = "pending"
    attempt: int = 1
    sent: float = 0
    checked_in: bool = False
    extra: dict[str, Any] = {}
    text: str | None = None


class Given(Part):
    """Actors, queues that nobody serves, and what is sent."""

    actors: dict[str, Actor]
    queues: list[str] = []
    messages: list[Message] = msgspec.field(default_factory=lambda: [Message()])
    jitter: float = 1.0
    message_max_bytes: int = 2**30


class Happening(Part):
    """Something that happens from outside, `at` seconds after the start. One thing each."""

    at: float
    cancel: str | None = None
    lose_replica: str | None = None
    start_replica: str | None = None
    terminate_replica: str | None = None
    drain: str | None = None
    grace: float = 10
    restart: Literal["mesh"] | None = None
    lease_lost: str | None = None
    broker: Literal["down", "up"] | None = None
    store: Literal["broken", "mended"] | None = None
    confirm_after: float | None = None
    forget_blobs: Literal["all"] | None = None
    make_queue: str | None = None

    @property
    def named(self) -> dict[str, Any]:
        """What happens, by its name."""
        fields = (name for name in self.__struct_fields__ if name not in {"at", "grace"})
        return {name: value for name in fields if (value := getattr(self, name)) is not None}

    @property
    def name(self) -> str:
        """What happens."""
        return next(iter(self.named))

    @property
    def argument(self) -> Any:
        """To whom, or how."""
        return self.named[self.name]


Entry = dict[str, Any]


class Then(Part):
    """What must have happened, in order; see `MAY_BE_LEFT_OUT`."""

    calls: list[Entry] | None = None
    published: list[Entry] | None = None
    ends: list[Entry] = []
    dead_letters: list[Entry] = []
    events: list[Entry] | None = None
    settled: list[Entry] | None = None
    killed: list[Entry] | None = None
    queues: dict[str, dict[str, int]] = {}


class Scenario(Part):
    """One file."""

    rule: str
    about: str
    given: Given
    then: Then
    when: list[Happening] = []
    until: float = 60


def load(path: Path) -> Scenario:
    """Read a file.

    Raises:
        FormatError: It says what the format does not know.
    """
    name = path.relative_to(FOLDER) if path.is_relative_to(FOLDER) else path.name
    try:
        data = _with_child_ids(yaml.load(path.read_text(encoding="utf-8"), _LOADER))
        scenario = msgspec.convert(data, Scenario)
        for actor, spec in scenario.given.actors.items():
            spec.rules(actor)
    except (msgspec.ValidationError, yaml.YAMLError, ValueError) as error:
        raise FormatError(f"{name}: {error}") from error
    for section, fields in FIELDS.items():
        for index, entry in enumerate(getattr(scenario.then, section) or []):
            if unknown := entry.keys() - fields - {"times"}:
                known = ", ".join(sorted(fields))
                raise FormatError(
                    f"{name}: `then.{section}[{index}]` has the unknown key {min(unknown)!r}; "
                    f"known are {known}"
                )
    for index, happening in enumerate(scenario.when):
        if len(happening.named) != 1:
            told = ", ".join(happening.named) or "nothing"
            raise FormatError(f"{name}: `when[{index}]` names {told}; expected one thing")
    return scenario


def files() -> list[Path]:
    """All scenario files, sorted."""
    return sorted(FOLDER.glob("*/*.yaml"))


def _with_child_ids(value: Any) -> Any:
    """`e-1>0.2` stands for the id of child 2 that `e-1` emitted at its hop 0."""
    if isinstance(value, dict):
        return {_with_child_ids(key): _with_child_ids(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_child_ids(item) for item in value]
    while isinstance(value, str) and (match := _CHILD.search(value)):
        parent, hop, index = match.groups()
        child = child_id(_with_child_ids(parent), int(hop), int(index))
        value = value[: match.start()] + child + value[match.end() :]
    return value
