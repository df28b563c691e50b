"""What `asya doctor` examines: settings and manifests as `asya up` would read them, and their errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asya import settings
from asya.errors import Complaint, UsageError

if TYPE_CHECKING:
    from asya.manifest import AsyncActor, Manifests


@dataclass(frozen=True)
class SetUp:
    """A project, and how it would be run.

    Attributes:
        folder: The project's folder.
        environ: The environment that replicas would inherit.
        settings: As `asya up` would use them; the defaults if they cannot be read.
        settings_problems: What is wrong with them.
        manifests: As they were loaded, or None.
        manifest_problems: What is wrong with them.
        named: Whether the user named what to run. If not, a folder without manifests is fine.
    """

    folder: Path
    environ: Mapping[str, str]
    settings: settings.Settings
    settings_problems: Sequence[Complaint] = ()
    manifests: Manifests | None = None
    manifest_problems: Sequence[Complaint] = field(default=())
    named: bool = True

    @classmethod
    def read(
        cls,
        paths: Sequence[str],
        folder: Path,
        environ: Mapping[str, str],
        flags: Mapping[str, Any],
    ) -> SetUp:
        """Read settings and manifests; what is wrong is kept, not raised."""
        from asya import manifest

        settings_problems: list[Complaint] = []
        manifest_problems: list[Complaint] = []
        try:
            found = settings.read(folder, environ, flags)
        except UsageError as error:
            settings_problems = error.complaints()
            found = settings.Settings(data=folder / settings.Settings.data)
        loaded: Manifests | None = None
        try:
            loaded = manifest.load(paths or ["."], namespace=found.namespace)
        except UsageError as error:
            manifest_problems = error.complaints()
        return cls(
            folder.absolute(),
            environ,
            found,
            settings_problems,
            loaded,
            manifest_problems,
            named=bool(paths),
        )

    @property
    def actors(self) -> Sequence[AsyncActor]:
        """The actors that would run; none if the manifests cannot be used."""
        return self.manifests.actors if self.manifests is not None else ()

    @property
    def data(self) -> Path:
        """The data folder, absolute."""
        return self.settings.data.absolute()
