"""`asya run ACTOR FILE`: one handler by hand, in the environment that the mesh gives it."""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from asya.codes import Code
from asya.errors import UsageError, nearest

if TYPE_CHECKING:
    from asya.manifest import AsyncActor


def run_case(
    actor: Annotated[
        str, typer.Argument(metavar="ACTOR", help="An actor of this folder, or file.py:function.")
    ],
    case: Annotated[
        Path, typer.Argument(metavar="FILE", help="An envelope as JSON, from `asya pull`.")
    ],
    debug: Annotated[
        bool, typer.Option("--debug", help="Enter the debugger where the handler raises.")
    ] = False,
) -> None:
    """Run one handler by hand on an envelope.

    It gets the environment, the secrets and the import paths that the mesh would give it, but the
    terminal too: `breakpoint()` in the handler works. What it emits is printed as JSON lines; the
    rest goes to stderr. The exit code is 1 when it raised, 3 when it cannot be loaded. No mesh is
    needed.
    """
    from asya.local.launch import launch_of

    if not case.is_file():
        raise UsageError(f"the file {case} does not exist; create one with `asya pull ID > {case}`",
                         code=Code.FILE_UNREADABLE)  # fmt: skip
    _check(case)
    here = Path.cwd()
    found = _actor(actor, here)
    launch = launch_of(found, os.environ, here, socket=Path(os.devnull))
    environment = {name: text for name, text in launch.environment.items() if name != "ASYA_SOCKET"}
    arguments = ["--case", str(case.absolute()), *(["--debug"] if debug else [])]
    if launch.memory_max is not None and sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (launch.memory_max, launch.memory_max))
    _become([*launch.argv, *arguments], environment, launch.folder)


def _check(case: Path) -> None:
    """Refuse a file that the runtime could not use either, before anything is looked for."""
    try:
        found = json.loads(case.read_bytes())
    except (OSError, ValueError) as error:
        text = f"{case} cannot be read as JSON: {error}"
        raise UsageError(text, code=Code.FILE_UNREADABLE) from error
    if not isinstance(found, dict) or "payload" not in found:
        text = f"{case} is not an envelope, because it has no payload; create one with `asya pull ID > {case}`"
        raise UsageError(text, code=Code.FILE_UNREADABLE)


def _actor(name: str, folder: Path) -> AsyncActor:
    from asya import settings
    from asya.cli.up import load
    from asya.manifest import actor_from_function
    from asya.manifest.functions import is_target

    namespace = settings.read(folder, os.environ, {}).namespace
    if is_target(name):
        return actor_from_function(name, namespace=namespace)
    manifests = load([], namespace)
    actors = {each.name: each for each in manifests.actors}
    if name not in actors:
        close = nearest(name, actors)
        hint = f"did you mean {close}?" if close else f"there are {', '.join(actors) or 'none'}"
        raise UsageError(f"there is no actor {name!r} in {folder}; {hint}", code=Code.NAME_UNKNOWN)
    return actors[name]


def _become(argv: list[str], environment: dict[str, str], folder: Path) -> NoReturn:
    """This process becomes the runtime: signals and the terminal are the handler's."""
    sys.stdout.flush()
    os.chdir(folder)
    os.execve(argv[0], argv, environment)  # noqa: S606  our own program
