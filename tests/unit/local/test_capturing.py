from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from asya.codes import Code
from asya.errors import UsageError
from asya.local.capturing import capture_of, capturing
from asya.settings import Settings


def actor(capture: str | None) -> Any:
    """The one field of a manifest that matters here."""
    return SimpleNamespace(spec=SimpleNamespace(capture=capture))


@pytest.mark.parametrize(
    ("manifest", "setting", "count", "mode"),
    [
        (None, "failed", 10, "failed"),
        ("all", "failed", 10, "all"),
        ("none", "all", 10, "none"),
        ("all", "all", 0, "none"),
    ],
)
def test_the_manifest_wins_unless_nothing_is_kept_at_all(
    manifest: str | None, setting: str, count: int, mode: str
) -> None:
    settings = Settings(capture=setting, capture_count=count)
    assert capture_of(actor(manifest), settings).mode == mode


def test_a_mask_that_is_not_a_path_is_named() -> None:
    with pytest.raises(UsageError, match="captureMask") as caught:
        capturing(Settings(capture_mask=("a..b",)))
    assert caught.value.code == Code.SETTINGS


def test_masks_and_bounds_come_from_the_settings() -> None:
    found = capturing(Settings(capture_mask=(".password",), capture_max_bytes=7))
    assert found.keeping.max_bytes == 7
    assert len(found.keeping.masks) == 1
