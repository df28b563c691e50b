"""Names that are offered for wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asya.errors import counted, how_to_install, nearest


@pytest.mark.parametrize(
    ("name", "known", "close"),
    [
        ("serach", ["search", "send"], "search"),
        ("embeder", ["embedder"], "embedder"),
        ("tlak", ["talk", "echo"], "talk"),
        ("bogus", ["logs"], None),
        ("x-pause", ["cause"], None),
        ("any", [], None),
    ],
)
def test_only_a_name_that_is_close_is_offered(
    name: str, known: list[Any], close: str | None
) -> None:
    assert nearest(name, known) == close


def test_an_extra_is_installed_from_the_checkout_and_not_from_the_index(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The name in the package index is somebody else's."""
    checkout = Path(__file__).parents[2]
    assert how_to_install("otel") == f"pip install '{checkout}[otel]'"
    monkeypatch.setattr("asya.errors.__file__", "/usr/lib/python3/site-packages/asya/errors.py")
    assert how_to_install("otel") == "pip install 'PATH_OF_THE_CHECKOUT[otel]'"


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 envelopes"), (1, "1 envelope"), (2, "2 envelopes")]
)
def test_one_is_not_many(number: int, text: str) -> None:
    assert counted(number, "envelope") == text
