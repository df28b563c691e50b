"""The table of problems: whole, and true to the refusals."""

from __future__ import annotations

import pytest

from asya.gateway.http.problems import PROBLEM_TYPES, HttpProblem, problem_of, type_of
from asya.tasks.refusals import Fault, Kind, Refusal


def test_every_kind_of_problem_has_its_own_words() -> None:
    assert len({title for _, title, _ in PROBLEM_TYPES.values()}) == len(PROBLEM_TYPES)


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_of_refusal_has_a_row(kind: Kind) -> None:
    status, _, code = PROBLEM_TYPES[kind]
    assert 400 <= status < 600
    assert code is kind.code


@pytest.mark.parametrize("kind", Kind)
def test_transient_kinds_have_the_statuses_that_clients_retry(kind: Kind) -> None:
    assert Refusal(kind, "x").transient == (PROBLEM_TYPES[kind].status in {429, 503, 507})


def test_a_refusal_becomes_a_document() -> None:
    refusal = Refusal(
        Kind.INVALID,
        "what is wrong",
        faults=[Fault("$.id", "why")],
        id="e",
        nearest="n",
        retried_as="r",
    )
    document = problem_of(refusal)
    assert (document.type, document.status) == (type_of("invalid"), 422)
    assert (document.detail, document.code) == ("what is wrong", str(Kind.INVALID.code))
    assert (document.id, document.nearest, document.retried_as) == ("e", "n", "r")
    assert document.errors == [Fault("$.id", "why")]


def test_what_http_refuses_becomes_a_document() -> None:
    document = problem_of(HttpProblem("not-json", "the body is empty"))
    assert (document.type, document.status) == ("urn:asya:problem:ASYA-6003:not-json", 400)
    assert (document.errors, document.nearest) == (None, None)
