"""What a replica's process sees: variables, secrets, its interpreter and its limits.

A replica inherits the environment of `asya up` without any `ASYA_*` variable, so that the mesh's
own settings never reach a handler; above it come `spec.env`, the secrets that the manifest names,
and the few variables of the runtime. A `.env` file beside the manifest, or in the folder of the
mesh, stands in for the secrets of a cluster: its values go to the actors that ask for them by
`secretRefs` and to nobody else. All is read once, when the mesh starts; nothing here looks at
`os.environ`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asya.codes import Code
from asya.errors import UsageError

if TYPE_CHECKING:
    from asya.manifest import AsyncActor

DOTENV: Final = ".env"

_ASSIGNMENT: Final = re.compile(
    r"""
    \s*(?:export\s+)?
    (?P<key>[A-Za-z_][A-Za-z0-9_.-]*)
    [ \t]*=[ \t]*
    (?:
        '(?P<single>[^']*)'
      | "(?P<double>(?:[^"\\]|\\.)*)"
      | (?P<bare>[^\n]*)
    )
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t"}
_SUFFIXES: Final = {
    "": 1.0,
    "m": 1e-3,
    **{unit: 1000.0**n for n, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": 1024.0**n for n, unit in enumerate("KMGTPE", start=1)},
}


def parse_dotenv(text: str, source: str) -> dict[str, str]:
    r"""The variables of a `.env` file.

    `KEY=value` per line, an `export` before it is allowed. A bare value ends at ` #` or the line;
    'single quotes' keep everything as it is; "double quotes" know \n, \r, \t, \" and \\; quoted
    values may span lines. Lines that are empty or begin with # are skipped. Values are not
    expanded: `$HOME` stays `$HOME`. The last of two assignments holds.

    Raises:
        UsageError: A line is none of these; the text names `source` and the line.
    """
    values: dict[str, str] = {}
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    at = 0
    while at < len(text):
        line_end = text.find("\n", at)
        line_end = len(text) if line_end < 0 else line_end
        line = text[at:line_end].strip()
        if not line or line.startswith("#"):
            at = line_end + 1
            continue
        match = _ASSIGNMENT.match(text, at)
        end = match.end() if match else at
        line_end = text.find("\n", end)
        line_end = len(text) if line_end < 0 else line_end
        rest = text[end:line_end].strip()
        if match is None or (rest and not rest.startswith("#")) or _is_open(match["bare"]):
            number = text.count("\n", 0, at) + 1
            raise UsageError(
                f"{source}:{number}: {line[:40]!r} is no assignment; expected KEY=value, "
                "with quotes closed",
                code=Code.DOTENV_UNREADABLE,
            )
        values[match["key"]] = _value(match)
        at = line_end + 1
    return values


def _is_open(bare: str | None) -> bool:
    """Whether a value without quotes begins with one: it was not closed."""
    return bare is not None and bare[:1] in {"'", '"'}


def _value(match: re.Match[str]) -> str:
    if match["single"] is not None:
        return match["single"]
    if match["double"] is not None:
        return re.sub(
            r"\\(.)",
            lambda found: _ESCAPES.get(found[1], found[1]),
            match["double"],
            flags=re.DOTALL,
        )
    bare: str = match["bare"]
    return "" if bare.startswith("#") else re.split(r"\s#", bare, maxsplit=1)[0].strip()


def read_dotenv(folders: Sequence[Path]) -> dict[str, str]:
    """The variables of the `.env` files of these folders; an earlier folder goes first.

    Raises:
        UsageError: A file cannot be read or has a line that is no assignment.
    """
    values: dict[str, str] = {}
    for folder in reversed(folders):
        path = folder / DOTENV
        if not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{path} cannot be read: {error}", code=Code.DOTENV_UNREADABLE
            ) from error
        values |= parse_dotenv(text, str(path))
    return values


def replica_environment(
    actor: AsyncActor,
    environ: Mapping[str, str],
    dotenv: Mapping[str, str],
    *,
    socket: Path,
    path: Sequence[Path],
) -> dict[str, str]:
    """The whole environment of an actor's replicas.

    A secret's value is that of the variable `<SECRET NAME>_<KEY>` (upper case, everything else
    than letters and digits as `_`), for two secrets that go by one name in two actors; else
    that of its `envVar`. The environment goes before `.env`.

    Raises:
        UsageError: Secrets that are nowhere to be found; the text names actor, secret and key of
            each.
    """
    values = {key: value for key, value in environ.items() if not key.startswith("ASYA_")}
    known = {**dotenv, **environ}
    for each in actor.spec.env:
        if each.value_from is None:
            values[each.name] = each.value or ""
        elif each.name in known:
            values[each.name] = known[each.name]
    values |= _secrets(actor, known)
    values |= {
        "ASYA_SOCKET": str(socket),
        "ASYA_HANDLER": actor.spec.handler,
        "ASYA_ACTOR": actor.name,
        "ASYA_CONCURRENCY": str(actor.spec.concurrency),
        "ASYA_PATH": ":".join(str(each) for each in path),
        # What a handler prints is in the log at once, not when some buffer is full.
        "PYTHONUNBUFFERED": "1",
    }
    return values


def _secrets(actor: AsyncActor, known: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    missing = []
    for secret in actor.spec.secret_refs:
        for key in secret.keys:
            own = re.sub(r"[^A-Z0-9]", "_", f"{secret.secret_name}_{key.key}".upper())
            value = known.get(own, known.get(key.env_var))
            if value is None:
                missing.append(
                    f"actor {actor.name}: the secret {secret.secret_name}, key {key.key}, is "
                    f"missing; set {key.env_var} (or {own}) in the environment, or in the file "
                    f"{actor.folder / DOTENV}"
                )
            else:
                found[key.env_var] = value
    if missing:
        raise UsageError("\n".join(missing), code=Code.VALUE_MISSING)
    return found


def memory_bytes(quantity: str | float) -> int:
    """The bytes of a Kubernetes quantity: `512Mi`, `1.5G`, `1e9`, `1073741824`.

    Raises:
        ValueError: No quantity.
    """
    match = re.fullmatch(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Z]*)", str(quantity).strip())
    if match is None or match[2] not in _SUFFIXES:
        raise ValueError(f"{quantity!r} is no amount of memory; expected e.g. 512Mi or 2G")
    return int(float(match[1]) * _SUFFIXES[match[2]])
