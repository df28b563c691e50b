"""No web page of another site drives the mesh."""

from __future__ import annotations

import pytest
from tests.support.gateway import Gateway, problem


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example:80"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "localhost:9", "origin": "http://localhost:10"}, 403),
        ({"host": "localhost:9", "origin": "http://localhost:9"}, 200),
        ({"host": "[::1]:9"}, 200),
        ({"host": "127.0.0.1"}, 200),
        ({"host": "127.9.9.9:80"}, 200),
        ({"host": "LOCALHOST.:9"}, 200),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "10.0.0.1"}, 403),
        ({"host": ""}, 403),
    ],
)
async def test_no_web_page_of_another_site_drives_the_mesh(
    gateway: Gateway, headers: dict[str, str], status: int
) -> None:
    answer = await gateway.client.get("/healthz", headers=headers)
    if status == 403:
        problem(answer, 403, "forbidden-origin")
    assert answer.status_code == status
