"""Every scenario file holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.scenarios.mesh import check
from tests.scenarios.scenario import FOLDER, files, load


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(FOLDER)))
def test_it_happens_as_the_file_says(path: Path) -> None:
    check(load(path), str(path.relative_to(FOLDER)))
