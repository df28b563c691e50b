"""`asya logs`: what the replicas of an actor printed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import typer

from asya.codes import Code
from asya.errors import MeshUnreachable, UsageError, nearest
from asya.local import run_file
from asya.local.logs import tail

LOOK_EVERY_S: Final = 0.2
READ_BYTES: Final = 1 << 20


def logs(
    actor: Annotated[str, typer.Argument(metavar="ACTOR", help="The actor, or x-mesh.")],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Continue until Ctrl-C or until the mesh stops.")
    ] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="How many of the last lines to print.")
    ] = 100,
    envelope: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="Only lines that were printed while this envelope was processed."
        ),
    ] = None,
) -> None:
    """Print the log of an actor.

    One line per printed line, after the time and the replica's pid. `x-mesh` is the log of the
    mesh itself. Needs the mesh's folder, not its gateway; the log of a mesh that has stopped can
    be read too.
    """
    wanted = anything if envelope is None else of_envelope(envelope)
    path = log_path(actor, Path.cwd())
    out = sys.stdout.buffer
    file = _open(path) if follow else None
    if file is not None:
        # From here on: what is printed between the tail and the first look is not lost.
        file.seek(0, os.SEEK_END)
    some = False
    for line in tail(path, lines, wanted):
        some = True
        out.write(line + b"\n")
    out.flush()
    if not some and lines:
        of = "" if envelope is None else f" while it worked on {envelope}"
        print(f"asya: {actor} has printed nothing{of}", file=sys.stderr)
    if follow:
        for data in wanted_of(followed(path, file, Path.cwd()), wanted):
            out.write(data)
            out.flush()


def anything(line: bytes) -> bool:
    """Every line is wanted."""
    return True


def of_envelope(envelope_id: str) -> Callable[[bytes], bool]:
    """Whether a line was printed while this envelope was worked on."""
    from asya.local.log_lines import parse

    def is_its(line: bytes) -> bool:
        entry = parse(line)
        return entry is not None and entry.envelope == envelope_id

    return is_its


def wanted_of(read: Iterable[bytes], wanted: Callable[[bytes], bool]) -> Iterator[bytes]:
    """The wanted lines of what is read, whole; as it comes, where everything is wanted."""
    if wanted is anything:
        yield from read
        return
    rest = b""
    for data in read:
        *whole, rest = (rest + data).split(b"\n")
        found = [line + b"\n" for line in whole if wanted(line)]
        if found:
            yield b"".join(found)


def log_path(actor: str, folder: Path) -> Path:
    """The log of an actor of the mesh of this folder, or of the last one.

    Raises:
        MeshUnreachable: No mesh runs, or ever ran, in the folder.
        UsageError: No such actor; the nearest name is given.
    """
    found = run_file.find(folder)
    place = Path(found.logs) if found else folder / ".asya" / "logs"
    known = {each.name.removesuffix(".log") for each in place.glob("*.log")}
    if found is None and not known:
        raise MeshUnreachable(f"no mesh runs in {folder}; start one with `asya up`")
    known |= set(found.actors) if found else set()
    if actor not in known:
        known |= _named_here(folder)  # of a mesh that has stopped, one that never printed
    if actor not in known:
        close = nearest(actor, known)
        hint = f"did you mean {close}?" if close else f"there are {', '.join(sorted(known))}"
        raise UsageError(f"there is no actor {actor!r} here; {hint}", code=Code.NAME_UNKNOWN)
    return place / f"{actor}.log"


def _named_here(folder: Path) -> set[str]:
    """Actors of the folder's manifests, as far as they can be read."""
    from asya import manifest

    try:
        return {each.name for each in manifest.load([folder]).actors}
    except UsageError:
        return set()


def followed(path: Path, file: BinaryIO | None, folder: Path) -> Iterator[bytes]:
    """What is added to a log, over rotations, until the mesh is gone. Closes `file`."""
    try:
        while True:
            if file is None:
                file = _open(path)
            data = file.read(READ_BYTES) if file is not None else b""
            if data:
                yield data
            elif file is not None and _is_replaced(file, path):
                file.close()
                file = None
            elif run_file.find(folder) is None:
                return
            else:
                time.sleep(LOOK_EVERY_S)
    finally:
        if file is not None:
            file.close()


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _is_replaced(file: BinaryIO, path: Path) -> bool:
    try:
        return os.fstat(file.fileno()).st_ino != path.stat().st_ino
    except FileNotFoundError:
        return False
