"""The form of a log's lines, written and read: docs/reference/logs.md.

    2026-11-23T18:25:00.123Z 4711 | text                            a replica, idle or shared
    2026-11-23T18:25:00.123Z 4711 3f0c9d… | text                    a replica at work on an envelope
    2026-11-23T18:25:00.123Z 4702 3f0c9d… | WARNING echo: text      the mesh's own log

With `logFormat: json` each line is an object with the same parts. The text form percent-encodes an id
with characters that could be mistaken for something else. `parse` reads both forms, since a log may
hold lines of an earlier run. `logs` writes them, and `asya logs` reads them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote, unquote

import msgspec

Form = Literal["text", "json"]

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9._~:@+=,/-]+")
_TEXT: Final = re.compile(
    rb"(?P<time>\d{4}-\d\d-\d\dT\S+Z) (?P<pid>\d+)(?: (?P<envelope>[^\s|]+))? \| (?P<text>.*)",
    re.DOTALL,
)
_OWN: Final = re.compile(
    rf"(?P<level>{'|'.join(LEVELS)}) (?:(?P<actor>[a-z0-9][a-z0-9-]*): )?(?P<text>.*)", re.DOTALL
)


class Entry(msgspec.Struct, omit_defaults=True, rename={"envelope": "envelope_id"}):
    """One line of the JSON form; also what `parse` gives.

    `level` is there in the mesh's own log only, `envelope` where it is known.
    """

    time: str
    pid: int
    text: str
    actor: str = ""
    level: str = ""
    envelope: str = ""


@dataclass(frozen=True, slots=True)
class About:
    """What the lines of one write have in common."""

    time: str
    pid: int
    actor: str = ""
    level: str = ""
    envelope: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


def written(form: Form, about: About, lines: bytes) -> bytes:
    r"""Whole lines for a log, from texts that are divided by newlines.

    The text form keeps bytes as they are; JSON shows what is no UTF-8 as escapes (`\xff`), and has
    a record of the mesh's own log, which has a level, in one object.
    """
    if form == "json" and about.level:
        return _json(about, lines)
    if form == "json":
        return b"".join(_json(about, line) for line in lines.split(b"\n"))
    envelope = f" {_shown(about.envelope)}" if about.envelope else ""
    level = f"{about.level} " if about.level else ""
    actor = f"{about.actor}: " if about.level and about.actor else ""
    prefix = f"{about.time} {about.pid}{envelope} | {level}{actor}".encode()
    return prefix + lines.replace(b"\n", b"\n" + prefix) + b"\n"


def _json(about: About, line: bytes) -> bytes:
    text = line.decode("utf-8", "backslashreplace")
    entry = Entry(about.time, about.pid, text, about.actor, about.level, about.envelope)
    return _encode(entry) + b"\n"


def _shown(envelope: str) -> str:
    return envelope if _PLAIN_ID.fullmatch(envelope) else quote(envelope, safe="")


def parse(line: bytes, *, own: bool = False) -> Entry | None:
    """The parts of a line, or None where it has another form.

    Args:
        line: With or without its newline.
        own: It is of the mesh's own log, where level and actor stand before the text.
    """
    line = line.rstrip(b"\n")
    if line.startswith(b"{"):
        try:
            return _decode(line)
        except msgspec.DecodeError:
            return None
    match = _TEXT.fullmatch(line)
    if match is None:
        return None
    entry = Entry(
        match["time"].decode(), int(match["pid"]), match["text"].decode("utf-8", "backslashreplace")
    )
    if match["envelope"] is not None:
        entry.envelope = unquote(match["envelope"].decode("utf-8", "backslashreplace"))
    if own and (found := _OWN.fullmatch(entry.text)):
        entry.level, entry.actor, entry.text = found["level"], found["actor"] or "", found["text"]
    return entry
