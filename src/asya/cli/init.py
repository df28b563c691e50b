"""`asya init NAME`: a small project that runs. Its files are those of the folder `starter`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Final

import typer

from asya.envelope import NAME_MAX, is_actor_name
from asya.errors import UsageError

FILES: Final = {
    "README.md": "README.md",
    "digest.yaml": "digest.yaml",
    "flow.yaml": "flow.yaml",
    "gitignore": ".gitignore",
    "handlers.py": "handlers.py",
    "normalize.yaml": "normalize.yaml",
    "test_handlers.py": "test_handlers.py",
}
"""File of the starter → file of the project."""


def init(
    name: Annotated[str, typer.Argument(help="The project's name; its folder is made here.")],
) -> None:
    """Make a small project in a new folder.

    Two actors, their manifests, a flow, tests and a README. An existing folder is used only when
    it is empty.
    """
    folder = Path(name)
    if not is_actor_name(folder.name):
        raise UsageError(
            f"{folder.name!r} is no name for a project: use a-z, 0-9 and -, "
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
        for source, target in FILES.items():
            text = (starter / source).read_text(encoding="utf-8")
            if source == "README.md":
                text = text.format(name=folder.name)
            (folder / target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot make the project in {folder}: {error.strerror}") from error
