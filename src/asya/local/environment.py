"""The environment of a replica's process: variables and secrets; and its memory limit.

A replica inherits the environment of `asya up` without any `ASYA_*` variable, so that the mesh's
own settings never reach a handler. `spec.env`, the secrets that the manifest names, and the
runtime's own variables are added to it. On a laptop a `.env` file beside the manifest, or in the
folder of the mesh, takes the place of a cluster's secrets. Its values reach only the actors that
name them in `secretRefs`. Everything is read once, when the mesh starts. Nothing here reads
`os.environ`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asya.codes import Code
from asya.errors import UsageError

if TYPE_CHECKING:
    from asya.manifest import AsyncActor

DOTENV: Final = ".env"

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_SUFFIXES: Final = {
    "": 1.0,
    "m": 1e-3,
    **{unit: 1000.0**n for n, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": 1024.0**n for n, unit in enumerate("KMGTPE", start=1)},
}

INTERNALS: Final = {"dotenv.parser": ("parse_stream",)}
"""The public functions of python-dotenv warn of a wrong line, but do not say which one it is."""


def parse_dotenv(text: str, source: str) -> dict[str, str]:
    r"""The variables of a `.env` file, as `python-dotenv` reads it.

    `KEY=value` per line, with or without `export` before it. A bare value ends at ` #` or at the end
    of the line. In 'single quotes' \' and \\ are escapes; in "double quotes" \n, \t and the like are
    as well. Quoted values may span lines. Nothing is expanded: `${HOME}` stays as it is, so that a
    secret with a dollar sign needs no quoting. The last of two assignments holds.

    Raises:
        UsageError: A line is not an assignment; the text names `source` and the line.
    """
    # Here, so that `asya run` needs the library only where there is such a file.
    from dotenv.parser import parse_stream

    values: dict[str, str] = {}
    for found in parse_stream(io.StringIO(text.removeprefix("\ufeff"))):
        if found.key is None and not found.error:
            continue  # comments and empty lines
        if found.error or found.value is None or not _NAME.fullmatch(found.key or ""):
            # What was read begins with the empty lines before it.
            written = found.original.string.lstrip()
            number = found.original.line + found.original.string.count(
                "\n", 0, len(found.original.string) - len(written)
            )
            first = written.partition("\n")[0].rstrip()
            raise UsageError(
                f"{source}:{number}: {first[:40]!r} is not an assignment; write KEY=value, and "
                "close quotes",
                code=Code.DOTENV_UNREADABLE,
            )
        values[str(found.key)] = found.value
    return values


def read_dotenv(folders: Sequence[Path]) -> dict[str, str]:
    """The variables of the `.env` files of these folders; an earlier folder goes first.

    Raises:
        UsageError: A file cannot be read or has a line that is not an assignment.
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

    A secret's value is that of the variable `<SECRET NAME>_<KEY>`, in upper case and with `_` for
    all but letters and digits. Two actors can so have different secrets in one variable. Where it is
    not set, it is that of `envVar`. The environment wins over `.env`.

    Raises:
        UsageError: Secrets are missing; the text names actor, secret and key of each.
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
        ValueError: It is not a quantity.
    """
    match = re.fullmatch(r"([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Z]*)", str(quantity).strip())
    if match is None or match[2] not in _SUFFIXES:
        raise ValueError(f"{quantity!r} is no amount of memory; expected e.g. 512Mi or 2G")
    return int(float(match[1]) * _SUFFIXES[match[2]])
