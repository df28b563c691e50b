from __future__ import annotations

import os
from pathlib import Path

import pytest

from asya.cli.logs import anything, followed, log_path, logs, of_envelope, wanted_of
from asya.errors import MeshUnreachable, UsageError
from asya.local.run_file import FILE, RunFile


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose mesh runs, and has an actor that has printed nothing yet."""
    logs = tmp_path / "elsewhere" / "logs"
    logs.mkdir(parents=True)
    (logs / "embedder.log").write_bytes(b"1\n2\n3\n")
    (logs / "x-mesh.log").write_bytes(b"up\n")
    here = RunFile(
        os.getpid(), "http://x", "now", str(logs.parent), str(logs), ["embedder", "silent"]
    )
    here.write(tmp_path / ".asya" / FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_last_lines_are_printed(
    folder: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    logs("embedder", follow=False, lines=2)
    assert capfdbinary.readouterr().out == b"2\n3\n"


def test_only_lines_of_one_envelope_are_printed(
    folder: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    lines = [
        b"2026-11-23T18:25:00.123Z 11 | idle",
        b"2026-11-23T18:25:00.123Z 11 e1 | e2",
        b"2026-11-23T18:25:00.123Z 11 e2 | its own",
        b'{"time":"2026-11-23T18:25:00.123Z","pid":11,"text":"json","envelope_id":"e2"}',
    ]
    (folder / "elsewhere" / "logs" / "embedder.log").write_bytes(b"\n".join(lines) + b"\n")
    logs("embedder", follow=False, lines=100, envelope="e2")
    assert capfdbinary.readouterr().out.splitlines() == lines[2:]
    logs("embedder", follow=False, lines=1, envelope="e1")
    assert capfdbinary.readouterr().out.splitlines() == lines[1:2]


def test_lines_that_are_read_in_pieces_are_whole_before_they_are_judged() -> None:
    its = b"2026-11-23T18:25:00.123Z 11 e2 | its own\n"
    other = its.replace(b"e2", b"e1")
    pieces = [its[:10], its[10:] + other, its[:30], its[30:]]
    assert b"".join(wanted_of(pieces, of_envelope("e2"))) == its + its
    assert list(wanted_of(pieces, anything)) == pieces


def test_an_actor_that_printed_nothing_has_an_empty_log(
    folder: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    logs("silent", follow=False, lines=2)
    assert capfdbinary.readouterr() == (b"", b"asya: silent has printed nothing\n")
    logs("embedder", follow=False, lines=2, envelope="e9")
    said = b"asya: embedder has printed nothing while it worked on e9\n"
    assert capfdbinary.readouterr() == (b"", said)


def test_an_unknown_actor_gets_the_nearest_name(folder: Path) -> None:
    with pytest.raises(UsageError, match="did you mean embedder"):
        log_path("embeder", folder)
    with pytest.raises(UsageError, match="there are embedder, silent, x-mesh"):
        log_path("zzz", folder)


def test_without_a_mesh_there_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(MeshUnreachable, match="asya up"):
        log_path("embedder", tmp_path)


def test_the_log_of_a_mesh_that_has_stopped_can_be_read(tmp_path: Path) -> None:
    (tmp_path / ".asya" / "logs").mkdir(parents=True)
    (tmp_path / ".asya" / "logs" / "a.log").touch()
    assert log_path("a", tmp_path) == tmp_path / ".asya" / "logs" / "a.log"


def test_an_actor_of_a_mesh_that_has_stopped_may_never_have_printed(tmp_path: Path) -> None:
    """Given a stopped mesh, when an actor of its manifests has no log, then it is known anyway."""
    (tmp_path / ".asya" / "logs").mkdir(parents=True)
    (tmp_path / ".asya" / "logs" / "a.log").touch()
    (tmp_path / "b.yaml").write_text(
        "apiVersion: asya.sh/v1alpha1\nkind: AsyncActor\nmetadata: {name: b}\n"
        "spec: {handler: m.f}\n"
    )
    assert log_path("b", tmp_path) == tmp_path / ".asya" / "logs" / "b.log"
    with pytest.raises(UsageError, match="there are a, b"):
        log_path("zzz", tmp_path)


def test_following_goes_over_rotations_to_the_end_of_the_mesh(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = log_path("embedder", folder)
    file = path.open("rb")
    steps = iter(["more", "rotate", "end"])

    def step(_: float) -> None:
        match next(steps):
            case "more":
                with path.open("ab") as log:
                    log.write(b"4\n")
            case "rotate":
                path.replace(path.with_suffix(".log.1"))
                path.write_bytes(b"5\n")
            case "end":
                (folder / ".asya" / FILE).unlink()

    monkeypatch.setattr("asya.cli.logs.time.sleep", step)
    assert b"".join(followed(path, file, folder)) == b"1\n2\n3\n4\n5\n"
