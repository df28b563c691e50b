"""`asya call -f FILE`: many payloads, so many at a time, results in the order of the lines.

Memory is bounded by `AHEAD` lines per thread, whatever the size of the file: lines are read as
they are needed, results leave as soon as all before them have left.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, NoReturn

import typer

from asya.cli.app import EXIT_FAILED, EXIT_INTERRUPTED
from asya.cli.client import Refused
from asya.cli.display import NullDisplay
from asya.cli.outcome import Sender, follow, say_kept
from asya.cli.payload import check_json
from asya.codes import Code
from asya.errors import MeshUnreachable, UsageError

AHEAD: Final = 4
"""Lines per thread that may wait behind a slow one."""

WAIT_S: Final = 30
"""How long the gateway holds one answer back before the event stream takes over."""


REFUSALS: Final = ("invalid-payload", "too-large")
"""Problems of one payload; any other refusal holds for all of them, and ends the command."""


@dataclass(frozen=True)
class Lines:
    """The payloads of a file; `total` is None where they cannot be counted beforehand."""

    payloads: Iterator[bytes]
    total: int | None


@contextmanager
def open_lines(path: Path) -> Iterator[Lines]:
    """The payloads in a file of JSON lines; `-` is stdin. Empty lines are passed over.

    A regular file is checked whole before anything is sent.

    Raises:
        UsageError: The file cannot be read, or a line is not JSON.
    """
    if str(path) == "-":
        yield Lines(_payloads(sys.stdin.buffer, "stdin"), None)
        return
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", code=Code.FILE_UNREADABLE
        ) from error
    with file:
        total = sum(1 for _ in _payloads(file, str(path))) if path.is_file() else None
        if total is not None:
            file.seek(0)
        yield Lines(_payloads(file, str(path)), total)


def _payloads(file: IO[bytes], name: str) -> Iterator[bytes]:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield check_json(line.strip(), f"{name}, line {number},")


def call_lines(sender: Sender, lines: Lines, *, concurrency: int, progress: bool | None) -> None:
    """Send every payload, print one JSON line for each, in order.

    Raises:
        typer.Exit: With code 1 when an envelope failed.
        AsyaError: A line of a stream is not JSON (what came before it is finished first), or the
            mesh went away.
    """
    failed = 0
    problem: UsageError | None = None
    pool = ThreadPoolExecutor(concurrency)
    pending: deque[tuple[str, Future[dict[str, Any]]]] = deque()
    try:
        with _bar(lines.total, progress) as advance:
            while True:
                try:
                    payload = next(lines.payloads)
                except StopIteration:
                    break
                except UsageError as error:
                    problem = error
                    break
                envelope_id = str(uuid.uuid4())
                future = pool.submit(_outcome, sender, payload, envelope_id)
                pending.append((envelope_id, future))
                while pending and (pending[0][1].done() or len(pending) >= concurrency * AHEAD):
                    failed += _print(pending[0][1].result())
                    pending.popleft()
                    advance()
            while pending:
                failed += _print(pending[0][1].result())
                pending.popleft()
                advance()
    except KeyboardInterrupt:
        _leave([envelope_id for envelope_id, future in pending if not future.done()])
    except MeshUnreachable:
        say_kept(
            [
                envelope_id
                for envelope_id, future in pending
                if future.running() or (future.done() and future.exception())
            ],
            sys.stderr,
        )
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if problem is not None:
        raise problem
    if failed:
        sys.stderr.write(f"asya: {failed} failed\n")
        raise typer.Exit(EXIT_FAILED)


def _leave(under_way: list[str]) -> NoReturn:
    sys.stderr.write("these envelopes may be under way, and go on:\n")
    sys.stderr.writelines(f"  {envelope_id}\n" for envelope_id in under_way)
    sys.stderr.flush()
    sys.stdout.flush()
    # The threads wait for the gateway and cannot be interrupted; they hold nothing.
    os._exit(EXIT_INTERRUPTED)


def _outcome(sender: Sender, payload: bytes, envelope_id: str) -> dict[str, Any]:
    """The envelope at its end; one that was refused for its payload looks like one that failed."""
    try:
        answer = sender.send(payload, envelope_id, wait_s=WAIT_S)
    except Refused as error:
        if not any(map(error.is_about, REFUSALS)):
            raise
        said = {
            "type": "Refused",
            "message": str(error),
            "reason": None,
            "code": str(error.code),
        }
        return {"id": None, "status": "failed", "error": said}
    envelope: dict[str, Any] = answer.body
    if answer.status == 200:
        return envelope
    return follow(sender.client, envelope["id"], NullDisplay())


def _print(envelope: dict[str, Any]) -> bool:
    """Print one line; whether it is an error."""
    succeeded = envelope["status"] == "succeeded"
    error = envelope.get("error") or {"type": envelope["status"], "message": "", "reason": None}
    said = {"error": error, "id": envelope["id"]}
    json.dump(envelope.get("result") if succeeded else said, sys.stdout, ensure_ascii=False)
    sys.stdout.write("\n")
    return not succeeded


@contextmanager
def _bar(total: int | None, progress: bool | None) -> Iterator[Any]:
    """A progress bar on stderr; gives the function that counts one."""
    if not (sys.stderr.isatty() if progress is None else progress):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)
