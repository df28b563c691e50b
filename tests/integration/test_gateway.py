"""The HTTP API over a real server, asked for anything."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.gateway import Gateway, gateway, problem, running

from asya.gateway.http.openapi import document
from asya.gateway.http.operations import OPERATIONS

__all__ = ["gateway"]

ENVELOPE_LIKE = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["route", "payload", "headers", "timeout", "id"]), inner, max_size=5
        )
        | st.fixed_dictionaries({"route": st.just(["echo"]), "payload": inner, "headers": inner})
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def standing(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[asyncio.Runner, Gateway]]:
    """A gateway that many examples share, and the runner whose loop it lives in."""
    with asyncio.Runner() as runner:
        context = running(tmp_path_factory.mktemp("fuzz"))
        gateway = runner.run(context.__aenter__())
        yield runner, gateway
        runner.run(context.__aexit__(None, None, None))


@given(body=st.binary(max_size=60) | ENVELOPE_LIKE.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=100, deadline=None)
def test_any_body_is_accepted_or_explained(
    standing: tuple[asyncio.Runner, Gateway], body: Any
) -> None:
    runner, gateway = standing

    async def send() -> None:
        for path in ("/v1/envelopes", "/v1/flows/plain"):
            answer = await gateway.client.post(path, content=body)
            if answer.status_code != 202:
                assert answer.status_code in {400, 422}, answer.text
                problem(answer, answer.status_code, answer.json()["type"].split(":")[-1])
                continue
            url = answer.json()["status_url"]
            assert (await gateway.client.get(url)).json()["id"] == answer.json()["id"]

    runner.run(send())


async def test_the_document_is_served_and_true(gateway: Gateway) -> None:
    """Given the served document, then each of its operations answers with a status it names."""
    served = (await gateway.client.get("/openapi.json")).json()
    assert served == json.loads(json.dumps(document()))
    for operation in OPERATIONS:
        path = re.sub(r"{\w+}", "unknown", operation.path.replace("{flow}", "plain"))
        answer = await gateway.client.request(operation.method, path, content=b"")
        named = served["paths"][operation.path][operation.method.lower()]["responses"]
        assert str(answer.status_code) in named
