"""The server: its port, and bytes that are no HTTP."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
from starlette.applications import Starlette
from tests.support.gateway import Gateway

from asya.errors import SettingsError
from asya.gateway.http.problems import type_of
from asya.gateway.server import HttpServer, bind


async def test_bytes_that_are_no_http_get_a_problem(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.server.port)
    writer.write(b"\x00\x01 what is this\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["type"] == type_of("bad-request")


async def test_a_port_in_use_is_named(gateway: Gateway) -> None:
    port = gateway.server.port
    with pytest.raises(SettingsError, match=f"port {port} on 127.0.0.1 is in use.*--port"):
        await HttpServer(Starlette(), "127.0.0.1", port).start()
    with pytest.raises(SettingsError, match="the host 'no host' is not known"):
        bind("no host", 0)
    free = bind("127.0.0.1", 0)
    assert isinstance(free, socket.socket)
    free.close()
