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
    ├── ActorTimeout              a handler overran its limit (is a TimeoutError too)
    ├── PayloadTooLarge           a frame over the limit on payloads
    ├── UnknownActor              a route names an actor that has no queue
    ├── StoreError                the task store refused; a retry helps
    │   └── StoreFull             its disk is full; a retry helps once there is room
    └── MeshUnreachable           no gateway answers at the address

The text of an error says what was wrong, where, and what to do. Errors of drivers are wrapped at
the seam (`raise ... from error`), so that nothing above a seam names a library below it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AsyaError(Exception):
    """Base of all errors of this package."""


class UsageError(AsyaError):
    """What the user gave is wrong; the text names the place and the remedy."""


class ManifestError(UsageError):
    """A manifest, or several, cannot be used.

    Attributes:
        problems: One line per problem, each with file, line, path, what was expected.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class SettingsError(UsageError):
    """A setting has a value that cannot be used; the text names the setting and its source."""


class MeshRunning(UsageError):
    """Another mesh runs on this data folder.

    Attributes:
        pid: The process that holds the folder.
    """

    def __init__(self, folder: str, pid: int) -> None:
        self.pid = pid
        super().__init__(
            f"another mesh (pid {pid}) is running on the data folder {folder}; "
            f"stop it first (kill {pid}), or give another folder with --data"
        )


class EnvelopeError(AsyaError):
    """A received message is no envelope that this queue can handle."""


class ParseError(EnvelopeError):
    """The bytes are not an envelope: not JSON, or a required field is missing or mistyped."""


class RouteMismatch(EnvelopeError):
    """The envelope stands in the queue of an actor that its `route.curr` does not name."""


class TransportError(AsyaError):
    """The broker refused, or could not be asked."""


class TransportUnavailable(TransportError):
    """No answer in time: whether the broker has the message is not known. Try again."""


class QueueMissing(TransportError):
    """The queue does not exist in the broker."""


class MessageTooLarge(TransportError):
    """The encoded envelope is over the transport's limit, in bytes."""


class ReplicaError(AsyaError):
    """A runtime did not do what the sidecar asked of it."""


class ReplicaGone(ReplicaError):
    """The runtime's process died, or its connection broke, while it held a call."""


class HandlerLoadError(ReplicaError):
    """The handler cannot be imported, found, or made; the text carries the user's traceback."""


class ProtocolError(ReplicaError):
    """The bytes on the socket between sidecar and runtime are no frame of the protocol."""


class ActorTimeout(AsyaError, TimeoutError):
    """A handler overran `actorTimeout` or the envelope's deadline, and was stopped."""


class PayloadTooLarge(AsyaError):
    """A handler emitted a payload over the limit, in bytes."""


class UnknownActor(AsyaError):
    """A route names an actor that has no queue in this mesh."""


class StoreError(AsyaError):
    """The task store could not read or write."""


class StoreFull(StoreError):
    """The disk of the task store is full."""


class MeshUnreachable(AsyaError):
    """No mesh answers at the address."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name`, or None when none is close (difflib, cutoff 0.6)."""
    found = difflib.get_close_matches(name, sorted(known), n=1)
    return found[0] if found else None


def full_name(kind: type) -> str:
    """The dotted name of a class; builtins stand without their module (`ValueError`)."""
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"
