"""JSON answers, and problem documents with their headers."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import Raw

from asya.gateway.http.problems import HttpProblem
from asya.gateway.http.respond import json_response, problem_response
from asya.tasks.refusals import Kind, Refusal


def test_raw_bytes_go_out_as_they_are() -> None:
    answer = json_response({"a": Raw(b"1.50")}, 202, {"Location": "/x"})
    assert (answer.body, answer.status_code) == (b'{"a":1.50}', 202)
    assert answer.headers["location"] == "/x"
    assert answer.headers["content-type"] == "application/json"


def test_a_transient_refusal_says_when_to_come_again() -> None:
    answer = problem_response(Refusal(Kind.QUEUE_FULL, "full", retry_after_s=3))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert answer.headers["content-type"] == "application/problem+json"
    assert msgspec.json.decode(answer.body)["detail"] == "full"
    assert "retry-after" not in problem_response(Refusal(Kind.INVALID, "x")).headers


def test_a_method_that_is_not_taken_names_those_that_are() -> None:
    answer = problem_response(HttpProblem("method-not-allowed", "no HEAD", allow="GET"))
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize("error", [Refusal(Kind.TOO_LARGE, "x"), HttpProblem("body-timeout", "x")])
def test_a_body_that_is_not_read_closes_the_connection(error: Refusal | HttpProblem) -> None:
    assert problem_response(error).headers["connection"] == "close"
