"""Set-ups that checks look at."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asya.local.doctor import SetUp
from asya.local.doctor.checks import Check, Finding, Probe, run

Make = Callable[..., SetUp]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def make(project: Path) -> Make:
    def made(*paths: str, environ: dict[str, str] | None = None, **flags: Any) -> SetUp:
        return SetUp.read(paths, project, environ or {}, flags)

    return made


@pytest.fixture
def seen() -> Callable[[Probe, SetUp], list[Finding]]:
    """What one check finds, as it is run."""
    return lambda look, setup: list(run([Check("it", look, 25)], setup))
