"""What the mesh tells the user while it runs, as data, and the line that each becomes.

A part of the mesh that has news makes a `Notice`; `LocalMesh.tell` shows `line(notice)` on the
terminal and writes `text`, with the actor as a field of its own, into the mesh's log. Nobody reads
an actor's name or a number out of a finished line.
"""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from asya.codes import Code
from asya.errors import counted

NAMED_MAX: Final = 3
"""Changed files that a notice names; the rest is counted."""


class Notice(ABC):
    """One piece of news. The docstring of each says what happened; `_text` is its one text."""

    @property
    def about(self) -> str:
        """The actor that it is about; empty where it is about the mesh as a whole."""
        return ""

    @property
    def text(self) -> str:
        """What happened, without the actor's name."""
        return self._text()

    @abstractmethod
    def _text(self) -> str: ...


@dataclass(frozen=True)
class ActorNotice(Notice):
    """News of one actor."""

    actor: str

    @property
    def about(self) -> str:
        """The actor's name."""
        return self.actor


Tell = Callable[[Notice], None]
"""Takes the news to the user. Returns at once and never raises."""


def line(notice: Notice) -> str:
    """The line for a terminal."""
    return f"{notice.about}: {notice.text}" if notice.about else notice.text


def how_it_ended(code: int | None) -> str:
    """`exited with code 3`, `was ended by SIGKILL`; `ended` where the code is not known."""
    if code is None:
        return "ended"
    return f"exited with code {code}" if code >= 0 else f"was ended by {_signal_name(-code)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has a number only
        return f"signal {number}"


# -- the mesh -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stopping(Notice):
    """The mesh was told to stop."""

    def _text(self) -> str:
        return "stopping"


@dataclass(frozen=True)
class EndingNow(Notice):
    """The mesh was told to stop a second time."""

    def _text(self) -> str:
        return "ending all replicas now"


@dataclass(frozen=True)
class FinishingWork(Notice):
    """The mesh waits for the calls that run, for `grace_s` seconds at most."""

    calls: int
    grace_s: float

    def _text(self) -> str:
        are = "is" if self.calls == 1 else "are"
        return (
            f"stopping: {counted(self.calls, 'envelope')} {are} being finished "
            f"(at most {self.grace_s:g} s)"
        )


@dataclass(frozen=True)
class MetricsServed(Notice):
    """The metrics' own port is open."""

    url: str

    def _text(self) -> str:
        return f"metrics at {self.url}/metrics"


@dataclass(frozen=True)
class LeftoverEnded(ActorNotice):
    """A replica outlived its mesh, which was killed; this mesh has ended it."""

    pid: int

    def _text(self) -> str:
        return f"ended replica {self.pid}, left behind by a killed mesh"


@dataclass(frozen=True)
class RunFileTaken(Notice):
    """Another running mesh has its run file in a folder where this one wants its own."""

    path: Path
    url: str

    def _text(self) -> str:
        return (
            f"{self.path} belongs to another running mesh, which commands in this folder will "
            f"find; pass --url {self.url} to reach this one"
        )


@dataclass(frozen=True)
class RunFileFailed(Notice):
    """The run file cannot be written."""

    error: OSError

    def _text(self) -> str:
        return f"commands will not find this mesh by its folder: {self.error}"


# -- replicas -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReplicaUp(ActorNotice):
    """A replica has loaded its handler, `took_s` seconds after its start."""

    pid: int
    took_s: float
    new_code: bool = False

    def _text(self) -> str:
        code = "with the new code " if self.new_code else ""
        return f"replica {self.pid} up {code}({self.took_s:.2f} s)"


@dataclass(frozen=True)
class ReplicaDown(ActorNotice):
    """A replica that was asked to end has ended."""

    pid: int

    def _text(self) -> str:
        return f"replica {self.pid} down"


@dataclass(frozen=True)
class ReplicaStopped(ActorNotice):
    """A replica was killed because its call took too long or was canceled."""

    pid: int

    def _text(self) -> str:
        return f"replica {self.pid} was stopped in the middle of a call"


@dataclass(frozen=True)
class ReplicaCrashed(ActorNotice):
    """A replica ended that nobody had asked to. `code` as `how_it_ended` takes it."""

    pid: int
    code: int | None

    def _text(self) -> str:
        return f"replica {self.pid} {how_it_ended(self.code)}"


@dataclass(frozen=True)
class HandlerBroken(ActorNotice):
    """The handler cannot be loaded; `problem` says why, with its code."""

    problem: str
    folder: Path

    def _text(self) -> str:
        return (
            f"{self.problem}; tried again when a file in {self.folder} changes "
            f"(all of it: asya logs {self.actor})"
        )


@dataclass(frozen=True)
class HandlerMended(ActorNotice):
    """The handler of a broken actor loads again."""

    def _text(self) -> str:
        return "the handler loads again"


@dataclass(frozen=True)
class NewCodeBroken(ActorNotice):
    """Code that was changed cannot be loaded; replicas of the code before go on."""

    problem: str

    def _text(self) -> str:
        return (
            f"{self.problem}; the replicas of the code before go on, and the next change is tried "
            f"again (all of it: asya logs {self.actor})"
        )


# -- reload and replay ----------------------------------------------------------------------------


@dataclass(frozen=True)
class FilesChanged(ActorNotice):
    """Source files of an actor changed; paths relative to its folder."""

    files: Sequence[str]

    def _text(self) -> str:
        named = sorted(self.files)
        more = f" and {len(named) - NAMED_MAX} more" if len(named) > NAMED_MAX else ""
        return f"{', '.join(named[:NAMED_MAX])}{more} changed"


@dataclass(frozen=True)
class ManifestChanged(ActorNotice):
    """An actor's manifest changed and holds from now on."""

    def _text(self) -> str:
        return "its manifest changed"


@dataclass(frozen=True)
class ManifestsUnusable(Notice):
    """The changed manifests cannot be used, all of them or one actor's."""

    error: str
    whole: bool = True

    def _text(self) -> str:
        if not self.whole:
            return self.error
        return f"the manifests cannot be used, what ran runs on: {self.error}"


@dataclass(frozen=True)
class RestartNeeded(Notice):
    """The manifests changed in ways that a running mesh does not take over."""

    parts: Sequence[str]

    def _text(self) -> str:
        return f"start the mesh again for {' and '.join(self.parts)}"


@dataclass(frozen=True)
class NothingToReplay(ActorNotice):
    """The actor has had no envelope yet."""

    def _text(self) -> str:
        return "no envelope to replay"


@dataclass(frozen=True)
class Replayed(ActorNotice):
    """The replay of an envelope came to its end, which `end` describes."""

    last: str
    id: str
    end: str

    def _text(self) -> str:
        return f"replay of {self.last} as {self.id}: {self.end}"


# -- brokers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BrokerGone(Notice):
    """The embedded broker ended by itself."""

    code: int

    def _text(self) -> str:
        how = f"exit code {self.code}" if self.code >= 0 else _signal_name(-self.code)
        return f"broker gone ({how}): starting it again  [{Code.BROKER_GONE}]"


@dataclass(frozen=True)
class BrokerStartFailed(Notice):
    """The embedded broker does not come up; tried again."""

    error: Exception
    disk_was_full: bool = False

    def _text(self) -> str:
        if self.disk_was_full:
            return f"broker does not start after the disk was full, trying again: {self.error}"
        code = getattr(self.error, "code", Code.BROKER_GONE)
        return f"broker does not start, trying again: {self.error}  [{code}]"


@dataclass(frozen=True)
class BrokerBack(Notice):
    """The embedded broker takes connections again."""

    after_s: float

    def _text(self) -> str:
        return f"broker back after {self.after_s:.1f} s"


@dataclass(frozen=True)
class DiskFull(Notice):
    """The embedded broker cannot store messages."""

    problem: str

    def _text(self) -> str:
        return f"{self.problem}  [{Code.BROKER_DISK_FULL}]"


@dataclass(frozen=True)
class DiskHasRoom(Notice):
    """The embedded broker stores messages again."""

    def _text(self) -> str:
        return "broker stores messages again: there is room on the disk"


@dataclass(frozen=True)
class WorkResumed(Notice):
    """Envelopes that a killed mesh held are delivered again."""

    envelopes: int

    def _text(self) -> str:
        return f"what is left of the last run goes on: {counted(self.envelopes, 'envelope')}"


@dataclass(frozen=True)
class QueueLeft(ActorNotice):
    """Envelopes wait at the embedded broker, and nobody of this mesh consumes them.

    `broker` is the title of the broker that the actor is on now; None where this mesh has no such
    actor.
    """

    envelopes: int
    broker: str | None

    def _text(self) -> str:
        waiting = counted(self.envelopes, "envelope")
        if self.broker is None:
            return f"{waiting} for this actor, which is not part of this mesh; what waits goes on when it is"
        return (
            f"{waiting} in its queue at the embedded NATS, and it is on {self.broker} now; what "
            "waits goes on when it is back there"
        )
