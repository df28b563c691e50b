"""`asya init NAME`: a small project that runs, made of the files in the folder `starter`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Final

import typer

from asya.codes import Code
from asya.envelope import NAME_MAX, is_actor_name
from asya.errors import UsageError

SUFFIX: Final = ".template"
"""So that our own checks take the starter's files for what they are: text."""


def init(
    name: Annotated[str, typer.Argument(help="The project's name; its folder is created here.")],
) -> None:
    """Create a small project in a new folder.

    Two actors, their manifests, a flow, tests and a README. An existing folder is used only when
    it is empty.
    """
    folder = Path(name)
    if not is_actor_name(folder.name):
        raise UsageError(
            f"{folder.name!r} is not a valid project name: use a-z, 0-9 and -, "
            f"with a letter or a digit at both ends, at most {NAME_MAX} characters"
        )
    make_project(folder)
    typer.echo(f"made {folder}; next: cd {folder} && asya up", err=True)


def make_project(folder: Path) -> None:
    """Write the starter's files into `folder`, which must be missing or empty.

    Raises:
        UsageError: Something is there already, or the folder cannot be written.
    """
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"the folder {folder} is not empty; choose another name")
        folder.mkdir(parents=True, exist_ok=True)
        starter = resources.files("asya.cli") / "starter"
        for source in starter.iterdir():
            text = source.read_text(encoding="utf-8").replace("{name}", folder.name)
            (folder / source.name.removesuffix(SUFFIX)).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot create the project in {folder}: {error.strerror}", code=Code.FILE_UNREADABLE
        ) from error
