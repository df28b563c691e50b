"""What clients may ask: every struct can be read, and bodies take no unknown field."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from asya.gateway.http import requests
from asya.gateway.http.operations import OPERATIONS, Operation
from asya.gateway.http.query import names, read


@pytest.mark.parametrize(
    "operation",
    [each for each in OPERATIONS if each.query or each.headers],
    ids=lambda each: each.name,
)
def test_a_request_without_parameters_is_read(operation: Operation) -> None:
    for kind in (operation.query, operation.headers):
        if kind is not None:
            assert read(kind, {}) == kind()
            assert names(kind)


def test_what_is_declared_is_used() -> None:
    declared = {
        each
        for each in vars(requests).values()
        if isinstance(each, msgspec.StructMeta)
        and each.__module__ == requests.__name__
        and each.__name__.endswith(("Query", "Headers"))
    }
    used = {kind for each in OPERATIONS for kind in (each.query, each.headers) if kind}
    assert declared == used


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (requests.EnvelopeRequest, b'{"route": ["a"], "payload": 1, "x": 2}'),
        (requests.RetryRequest, b'{"x": 1}'),
        (requests.RetryRequest, b'{"set": [{"path": ".payload", "value": 1, "x": 1}]}'),
        (requests.BulkRetryRequest, b'{"all": true, "limit": 501}'),
        (requests.BulkRetryRequest, b'{"all": true, "rate": 0}'),
        (requests.BulkRetryRequest, b'{"filter": {"x": 1}}'),
        (requests.PurgeRequest, b'{"all": 1}'),
    ],
)
def test_a_body_that_does_not_fit_is_refused(kind: Any, body: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=kind)
