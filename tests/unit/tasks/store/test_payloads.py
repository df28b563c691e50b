from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import Raw

from asya.tasks.store import payloads
from asya.tasks.store.payloads import Keeping, Kept, read_mask

CARD = b'{"user":{"name":"Ada","password":"x"},"cards":[{"number":1},{"number":2}]}'


def keep(text: bytes, *masks: str, max_bytes: int = 1000) -> Kept:
    return Keeping(max_bytes, [read_mask(each) for each in masks]).keep(Raw(text))


def test_a_payload_is_kept_as_it_was() -> None:
    assert keep(b'{"a": 1.0}') == Kept(10, False, b'{"a": 1.0}')


def test_a_large_one_is_cut_and_says_so() -> None:
    assert keep(b'"0123456789"', max_bytes=5) == Kept(12, True, b'"0123')


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (".user.password", {"user": {"name": "Ada", "password": "***"}}),
        (".user", {"user": "***"}),
        (".cards[0].number", {"cards": [{"number": "***"}, {"number": 2}]}),
        (".cards[:].number", {"cards": [{"number": "***"}, {"number": "***"}]}),
        (".cards[-1]", {"cards": [{"number": 1}, "***"]}),
        (".cards[7]", {}),
        (".user[0]", {}),
        (".nobody.password", {}),
    ],
)
def test_what_is_masked_is_never_kept(mask: str, expected: dict[str, Any]) -> None:
    assert json.loads(keep(CARD, mask).body) == json.loads(CARD) | expected


def test_masks_are_applied_before_the_cut() -> None:
    kept = keep(b'{"p":"secret","rest":"' + b"x" * 50 + b'"}', ".p", max_bytes=12)
    assert kept == Kept(74, True, b'{"p":"***","')


def test_of_what_cannot_be_masked_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert keep(b"[1, ", ".a") == Kept(4, True, b"")
    monkeypatch.setattr(payloads, "MASKED_MAX", 5)
    assert keep(b'"012345"', ".a") == Kept(8, True, b"")


@pytest.mark.parametrize("text", ["", "password", ".a..b", "."])
def test_a_mask_that_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_mask(text)
