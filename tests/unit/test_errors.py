"""Names that are offered for wrong ones."""

from __future__ import annotations

import pytest

from asya.errors import nearest


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
def test_only_a_name_that_is_close_is_offered(name, known, close):
    assert nearest(name, known) == close
