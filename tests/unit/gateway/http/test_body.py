"""Request bodies: bounds of size, time and memory, and what is JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.gateway import Gateway, problem, running

from asya.gateway.http.body import parse, parse_as
from asya.gateway.http.problems import HttpProblem, type_of
from asya.gateway.http.requests import EnvelopeRequest
from asya.tasks.refusals import Kind, Refusal


async def test_a_body_is_let_go_before_the_wait_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given room for one body, when the first is waited for, then others find room."""
    monkeypatch.setattr("asya.gateway.http.body.BODIES_MAX_BYTES", 0)
    async with running(tmp_path, body_max_bytes=50_000) as gateway:
        body = {"route": ["hold"], "payload": "x" * 40_000}
        calls = []
        for number in range(3):
            call = gateway.client.post("/v1/envelopes?wait=60", json=body)
            calls.append(asyncio.create_task(call))
            async with asyncio.timeout(30):
                while len(gateway.mesh.headers) <= number:
                    await asyncio.sleep(0.001)
        gateway.mesh.let_go.set()
        answers = await asyncio.gather(*calls)
    assert [answer.status_code for answer in answers] == [200] * 3


async def test_a_slow_body_is_given_up(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asya.gateway.http.body.BODY_TIMEOUT_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.server.port)
    writer.write(b"POST /v1/flows/plain HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n1")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 408")
    assert type_of("body-timeout").encode() in answer


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"hello",
        b'{"a": NaN}',
        b'"\xff"',
        b"1 2",
        b"[" * 5000,
        b"\xef\xbb\xbf1",
    ],
)
async def test_what_is_not_json_is_refused(gateway: Gateway, body: Any) -> None:
    for path in ("/v1/flows/plain", "/v1/envelopes"):
        answer = await gateway.client.post(
            path, content=body, headers={"content-type": "application/json"}
        )
        problem(answer, 400, "not-json")


async def test_other_media_types_are_refused(gateway: Gateway) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = await gateway.client.post(
            "/v1/flows/plain", content=b"1", headers={"content-type": kind}
        )
        problem(answer, 415, "not-json-type")


async def test_a_body_over_the_limit_is_refused(gateway: Gateway) -> None:
    long = b'"' + b"x" * 100_001 + b'"'

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(long), 10_000):
            yield long[start : start + 10_000]

    answer = await gateway.client.post("/v1/flows/plain", content=long)
    problem(answer, 413, "too-large")
    problem(await gateway.client.post("/v1/flows/plain", content=chunks()), 413, "too-large")
    payload = b'"' + b"x" * 60_000 + b'"'
    problem(await gateway.client.post("/v1/flows/plain", content=payload), 413, "too-large")


LARGE = 1024 * 1024


class TestBodies:
    @pytest.mark.parametrize("size", [0, LARGE])
    def test_a_text_is_only_looked_through_where_its_values_are_not_wanted(self, size: int) -> None:
        data = b'{"text":"' + b"x" * size + b'"}'
        values, raw = parse(data, values=False)
        assert (values, bytes(raw)) == (None, data)
        assert parse(data)[0] == {"text": "x" * size}

    @pytest.mark.parametrize("size", [0, LARGE])
    def test_a_number_that_python_has_not_is_json(self, size: int) -> None:
        payload = b'{"text":"' + b"x" * size + b'","v":[1,-1e400,' + b"9" * 5000 + b"]}"
        assert bytes(parse(payload, values=False)[1]) == payload
        asked = parse_as(EnvelopeRequest, b'{"route":["a"],"payload":' + payload + b"}")
        assert bytes(asked.payload) == payload

    @pytest.mark.parametrize(
        ("data", "path"),
        [
            (b'{"a":[1,2.5],"v":{"w x":[0,1e400]}}', "$.v['w x'][1]"),
            (b"[[" + b"9" * 5000 + b"],-1e999]", "$[0][0]"),
            (b"1e400", "$"),
        ],
    )
    def test_a_number_that_no_schema_fits_is_named(self, data: bytes, path: str) -> None:
        with pytest.raises(Refusal) as refused:
            parse(data)
        assert refused.value.kind is Kind.INVALID_PAYLOAD
        assert [fault.path for fault in refused.value.faults] == [path]

    @pytest.mark.parametrize("end", [b"", b",}", b'\xff"}', b'\\x"}', b'"} 1'])
    def test_what_is_no_json_is_refused_however_large(self, end: bytes) -> None:
        for size in (1, LARGE):
            with pytest.raises(HttpProblem) as refused:
                parse(b'{"text":"' + b"x" * size + end, values=False)
            assert refused.value.name == "not-json"
