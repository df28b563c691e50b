"""Codes: one per error of ours, the closest one wins."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from asya import errors, sidecar
from asya.codes import REASONS, TYPES, Code, failure_code, load_failure
from asya.errors import AsyaError, Complaint, ManifestError, SettingsError, UsageError
from asya.runtime import loading

CLASSES = [
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, AsyaError) and kind.__module__ == errors.__name__
]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_of_the_tree_has_a_code_of_its_own(kind: type[Any]) -> None:
    assert isinstance(vars(kind).get("code"), Code)


def test_no_two_classes_share_a_code() -> None:
    codes = [kind.code for kind in CLASSES]
    assert sorted(codes) == sorted(set(codes))


def test_codes_are_four_digits_after_the_name_and_stand_in_order() -> None:
    values = list(map(str, Code))
    assert values == sorted(set(values))
    assert all(value[:5] == "ASYA-" and len(value) == 9 and value[5:].isdigit() for value in values)


def test_a_raise_may_give_a_closer_code() -> None:
    assert UsageError("no").code is Code.USAGE
    assert UsageError("no", code=Code.PORT_UNUSABLE).code is Code.PORT_UNUSABLE
    assert str(UsageError("no", code=Code.PORT_UNUSABLE)) == "no"


def test_one_error_is_one_complaint() -> None:
    (only,) = UsageError("line 1\nline 2", code=Code.NAME_UNKNOWN).complaints()
    assert (only, only.code) == ("line 1\nline 2", Code.NAME_UNKNOWN)


@pytest.mark.parametrize(
    "error",
    [
        ManifestError([Complaint("a", Code.FIELD_MISSING), "b"]),
        SettingsError(Complaint("a", Code.FIELD_MISSING), "b"),
    ],
)
def test_several_problems_keep_their_codes(error: ManifestError | SettingsError) -> None:
    codes = [(str(one), one.code) for one in error.complaints()]
    assert codes == [("a", Code.FIELD_MISSING), ("b", type(error).code)]
    assert str(error) == "a\nb"


def test_the_types_of_our_errors_have_the_codes_of_their_classes() -> None:
    named = {errors.full_name(kind): kind.code for kind in CLASSES}
    shared = named.keys() & TYPES.keys()
    assert shared
    assert {name: TYPES[name] for name in shared} == {name: named[name] for name in shared}


@pytest.mark.parametrize(
    ("reason", "error_type", "code"),
    [
        ("PolicyExhausted", "ValueError", Code.POLICY_EXHAUSTED),
        ("PolicyExhausted", "asya.errors.ActorTimeout", Code.ACTOR_TIMEOUT),
        ("PolicyRouted", "asya.errors.PayloadTooLarge", Code.PAYLOAD_TOO_LARGE),
        ("PoisonMessage", "asya.errors.ReplicaGone", Code.POISON_MESSAGE),
        ("DeadlineExceeded", "asya.errors.ActorTimeout", Code.DEADLINE_EXCEEDED),
        (None, "ValueError", Code.HANDLER_RAISED),
        (None, "asya.errors.ActorTimeout", Code.ACTOR_TIMEOUT),
        ("Failed", None, Code.HANDLER_RAISED),
    ],
)
def test_the_code_of_a_failure(reason: str | None, error_type: str | None, code: Code) -> None:
    assert failure_code(reason, error_type) is code


def test_every_reason_that_the_sidecar_gives_has_a_code() -> None:
    given = set()
    for path in Path(sidecar.__path__[0]).glob("*.py"):
        text = path.read_text()
        given |= set(re.findall(r'(?:_fail|Rejected)\(\s*[\w.]+, "(\w+)"', text))
        given |= set(re.findall(r'_end\(\s*\w+, "failed", "(\w+)"', text))
        given |= set(re.findall(r'reason="(\w+)"', text))
    assert {"PolicyExhausted", "PoisonMessage", "PolicyRouted", "ParseError"} <= given
    assert given - REASONS.keys() == set()


def test_every_kind_of_load_failure_has_a_code() -> None:
    kinds: list[type] = [loading.HandlerError, *loading.HandlerError.__subclasses__()]
    assert {errors.full_name(kind) for kind in kinds} - TYPES.keys() == set()
    assert len(kinds) > 5


@pytest.mark.parametrize(
    ("error_type", "code", "text"),
    [
        ("asya.runtime.loading.ImportFailed", "ASYA-3104", "no module"),
        ("ImportError", "ASYA-3101", "ImportError: no module"),
    ],
)
def test_a_load_failure_is_told_in_one_form_everywhere(
    error_type: str, code: str, text: str
) -> None:
    assert load_failure(error_type, "no module") == (code, text)
