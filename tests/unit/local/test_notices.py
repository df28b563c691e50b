from __future__ import annotations

import signal
from pathlib import Path

import pytest

from asya.errors import UsageError
from asya.local.notices import (
    BrokerGone,
    BrokerStartFailed,
    FilesChanged,
    FinishingWork,
    ManifestsUnusable,
    Notice,
    QueueLeft,
    ReplicaUp,
    RunFileTaken,
    how_it_ended,
    line,
)


@pytest.mark.parametrize(
    ("notice", "about", "facts"),
    [
        (ReplicaUp("a", 7, 0.25), "a", ["7", "0.25 s"]),
        (ReplicaUp("a", 7, 0.25, new_code=True), "a", ["7", "new code"]),
        (FilesChanged("a", ["z.py", "b.py", "c.py", "d.py"]), "a", ["b.py, c.py, d.py", "1 more"]),
        (FinishingWork(1, 2.5), "", ["1 envelope is", "2.5 s"]),
        (FinishingWork(2, 30.0), "", ["2 envelopes are", "30 s"]),
        (
            RunFileTaken(Path("/p/mesh.json"), "http://h:1"),
            "",
            ["/p/mesh.json", "--url http://h:1"],
        ),
        (BrokerGone(-signal.SIGKILL), "", ["SIGKILL", "[ASYA-4006]"]),
        (BrokerGone(4), "", ["exit code 4"]),
        (BrokerStartFailed(UsageError("no room")), "", ["no room", "[ASYA-1001]"]),
        (BrokerStartFailed(OSError("no room")), "", ["no room", "[ASYA-4006]"]),
        (ManifestsUnusable("a.yaml:1: x", whole=False), "", ["a.yaml:1: x"]),
        (QueueLeft("gone", 3, None), "gone", ["3 envelopes", "not part of this mesh"]),
        (QueueLeft("moved", 1, "Amazon SQS"), "moved", ["1 envelope", "Amazon SQS"]),
    ],
)
def test_a_line_has_the_actor_first_and_every_fact(
    notice: Notice, about: str, facts: list[str]
) -> None:
    assert notice.about == about
    assert line(notice) == (f"{about}: {notice.text}" if about else notice.text)
    assert [fact for fact in facts if fact not in notice.text] == []


def test_a_text_with_a_colon_names_no_actor() -> None:
    """The actor of a line is a field: an actor that is called `stopping` changes nothing."""
    assert FinishingWork(1, 2.5).about == ""
    assert FinishingWork(1, 2.5).text.startswith("stopping: ")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (None, "ended"),
        (3, "exited with code 3"),
        (-9, "was ended by SIGKILL"),
        (-99, "was ended by signal 99"),
    ],
)
def test_how_a_process_ended(code: int | None, text: str) -> None:
    assert how_it_ended(code) == text
