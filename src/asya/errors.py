"""Every error that Asya itself raises, in one tree.

::

    AsyaError
    ├── UsageError                the user's input is wrong; a retry of the same does not help
    │   ├── ManifestError         a manifest or asya.yaml: file, line, path, expected, nearest
    │   ├── SettingsError         a flag or an ASYA_* variable
    │   └── MeshRunning           another mesh holds this data folder
    ├── EnvelopeError             a message that cannot be handled, kept with its bytes
    │   ├── ParseError            not JSON, or a field missing or of a wrong type
    │   └── RouteMismatch         route.curr names another actor
    ├── TransportError            between us and the broker
    │   ├── TransportUnavailable  no answer in time; a retry helps
    │   ├── QueueMissing          the queue does not exist
    │   └── MessageTooLarge       over the transport's limit; a retry does not help
    ├── ReplicaError              between the sidecar and a runtime
    │   ├── ReplicaGone           the runtime died while it held a call
    │   ├── HandlerLoadError      the handler cannot be imported, found or made
    │   └── ProtocolError         bytes on the socket that are no frame
    ├── DeadlineExceeded          the envelope's deadline passed before a handler began
    ├── HopLimit                  the envelope made as many hops as it may
    ├── ActorTimeout              a handler overran its limit (is a TimeoutError too)
    ├── PayloadTooLarge           a frame over the limit on payloads
    ├── UnknownActor              a route names an actor that has no queue
    ├── StoreError                the task store refused; a retry helps
    │   └── StoreFull             its disk is full; a retry helps once there is room
    ├── BlobError                 between us and the store of big payloads
    │   ├── BlobMissing           no such blob, or damaged; a retry does not help
    │   └── BlobUnavailable       no answer, or its disk is full; a retry helps
    └── MeshUnreachable           no gateway answers at the address

The text of an error says what was wrong, where, and what to do. Errors of drivers are wrapped at
the seam (`raise ... from error`), so that nothing above a seam names a library below it.

Every class has a code of its own (`codes`), and a raise may give a closer one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

from asya.codes import Code

NEAREST_CUTOFF: Final = 0.7
"""How alike (difflib) a name must be to be offered. At difflib's own 0.6, `bogus` is near `logs`."""


class Complaint(str):
    """One line of an error that has several, with a code of its own.

    Attributes:
        code: What `asya explain` is given.
    """

    __slots__ = ("code",)
    code: Code

    def __new__(cls, text: str, code: Code) -> Self:
        """A text with its code."""
        made = super().__new__(cls, text)
        made.code = code
        return made


class AsyaError(Exception):
    """Base of all errors of this package.

    Attributes:
        code: The class's own, or a closer one that was given.
    """

    code: Code = Code.INTERNAL

    def __init__(self, *args: object, code: Code | None = None) -> None:
        super().__init__(*args)
        if code is not None:
            self.code = code

    def complaints(self) -> list[Complaint]:
        """What is wrong, each with its code."""
        return [Complaint(str(self), self.code)]


class UsageError(AsyaError):
    """What the user gave is wrong; the text names the place and the remedy."""

    code = Code.USAGE


class ManifestError(UsageError):
    """A manifest, or several, cannot be used.

    Attributes:
        problems: One line per problem, each with file, line, path, what was expected.
    """

    code = Code.MANIFEST

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))

    def complaints(self) -> list[Complaint]:
        """The problems, each with its code."""
        return _coded(self.problems, self.code)


class SettingsError(UsageError):
    """Settings have values that cannot be used; the text names each setting and its source.

    Attributes:
        problems: One line per problem.
    """

    code = Code.SETTINGS

    def __init__(self, *problems: str, code: Code | None = None) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(problems), code=code)

    def complaints(self) -> list[Complaint]:
        """The problems, each with its code."""
        return _coded(self.problems, self.code)


class MeshRunning(UsageError):
    """Another mesh runs on this data folder.

    Attributes:
        pid: The process that holds the folder.
    """

    code = Code.MESH_RUNNING

    def __init__(self, folder: str, pid: int) -> None:
        self.pid = pid
        super().__init__(
            f"another mesh (pid {pid}) is running on the data folder {folder}; "
            f"stop it first (kill {pid}), or give another folder with --data"
        )


class EnvelopeError(AsyaError):
    """A received message is no envelope that this queue can handle."""

    code = Code.ENVELOPE


class ParseError(EnvelopeError):
    """The bytes are not an envelope: not JSON, or a required field is missing or mistyped."""

    code = Code.PARSE_ERROR


class RouteMismatch(EnvelopeError):
    """The envelope stands in the queue of an actor that its `route.curr` does not name."""

    code = Code.ROUTE_MISMATCH


class TransportError(AsyaError):
    """The broker refused, or could not be asked."""

    code = Code.TRANSPORT


class TransportUnavailable(TransportError):
    """No answer in time: whether the broker has the message is not known. Try again."""

    code = Code.TRANSPORT_UNAVAILABLE


class QueueMissing(TransportError):
    """The queue does not exist in the broker."""

    code = Code.QUEUE_MISSING


class MessageTooLarge(TransportError):
    """The encoded envelope is over the transport's limit, in bytes."""

    code = Code.MESSAGE_TOO_LARGE


class ReplicaError(AsyaError):
    """A runtime did not do what the sidecar asked of it."""

    code = Code.REPLICA


class ReplicaGone(ReplicaError):
    """The runtime's process died, or its connection broke, while it held a call."""

    code = Code.REPLICA_GONE


class HandlerLoadError(ReplicaError):
    """The handler cannot be imported, found, or made; the text carries the user's traceback."""

    code = Code.HANDLER_LOAD


class ProtocolError(ReplicaError):
    """The bytes on the socket between sidecar and runtime are no frame of the protocol."""

    code = Code.REPLICA_PROTOCOL


class ActorTimeout(AsyaError, TimeoutError):
    """A handler overran `actorTimeout` or the envelope's deadline, and was stopped."""

    code = Code.ACTOR_TIMEOUT


class DeadlineExceeded(AsyaError):
    """The envelope's `deadline_at` passed before the handler began."""

    code = Code.DEADLINE_EXCEEDED


class HopLimit(AsyaError):
    """The envelope has made as many hops as one envelope may make."""

    code = Code.HOP_LIMIT


class PayloadTooLarge(AsyaError):
    """A handler emitted a payload over the limit, in bytes."""

    code = Code.PAYLOAD_TOO_LARGE


class UnknownActor(AsyaError):
    """A route names an actor that has no queue in this mesh."""

    code = Code.UNKNOWN_ACTOR


class StoreError(AsyaError):
    """The task store could not read or write."""

    code = Code.STORE


class StoreFull(StoreError):
    """The disk of the task store is full."""

    code = Code.STORE_FULL


class BlobError(AsyaError):
    """A payload could not be put into the blob store, or got from it."""

    code = Code.BLOB


class BlobMissing(BlobError):
    """The blob that an envelope refers to is not there, or its bytes are others than were put."""

    code = Code.BLOB_MISSING


class BlobUnavailable(BlobError):
    """The blob store cannot be asked now, or has no room."""

    code = Code.BLOB_UNAVAILABLE


class MeshUnreachable(AsyaError):
    """No mesh answers at the address."""

    code = Code.MESH_UNREACHABLE


def _coded(problems: Iterable[str], code: Code) -> list[Complaint]:
    return [each if isinstance(each, Complaint) else Complaint(each, code) for each in problems]


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name`, or None when none is close (`NEAREST_CUTOFF`)."""
    found = difflib.get_close_matches(name, sorted(known), n=1, cutoff=NEAREST_CUTOFF)
    return found[0] if found else None


def counted(number: int, noun: str) -> str:
    """`1 envelope`, `2 envelopes`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def how_to_install(extra: str) -> str:
    """The command that brings the libraries of an extra, from the checkout that runs here.

    A name alone would not do: in the package index it is somebody else's.
    """
    checkout = Path(__file__).parents[2]
    place = checkout if (checkout / "pyproject.toml").is_file() else "PATH_OF_THE_CHECKOUT"
    return f"pip install '{place}[{extra}]'"


def full_name(kind: type) -> str:
    """The dotted name of a class; builtins stand without their module (`ValueError`)."""
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"
