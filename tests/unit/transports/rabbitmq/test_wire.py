"""The frames that we put together are those that pika would; what one turn gives is one write."""

import asyncio
from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec

from asya.transports.rabbitmq.wire import APART_BYTES, Wire, message_frames


@given(
    st.integers(1, 65535),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.integers(1, 2**63),
    st.binary(min_size=1, max_size=300),
)
def test_a_message_is_framed_as_pika_frames_it(
    channel: int, key: str, number: int, body: bytes
) -> None:
    properties = pika.BasicProperties(delivery_mode=2, message_id=str(number))
    publish = spec.Basic.Publish(exchange="", routing_key=key, mandatory=True)

    parts: list[Any] = [
        frame.Method(channel, publish),
        frame.Header(channel, len(body), properties),
        frame.Body(channel, body),
    ]
    assert message_frames(channel, key, str(number), body) == b"".join(
        part.marshal() for part in parts
    )


class Socket:
    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)


@pytest.fixture
async def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    monkeypatch.setattr(Wire, "_adapter_connect_stream", lambda self: None)
    made = Wire(pika.ConnectionParameters(), custom_ioloop=asyncio.get_running_loop())
    made._transport = Socket()
    return made


async def test_what_one_turn_of_the_loop_gives_is_written_in_one_go(wire: Any) -> None:
    for data in (b"a", b"b", b"c"):
        wire._adapter_emit_data(data)
    assert wire._transport.written == []

    await asyncio.sleep(0)
    wire._adapter_emit_data(b"d")
    await asyncio.sleep(0)

    assert wire._transport.written == [b"abc", b"d"]


async def test_a_large_frame_keeps_its_place_and_is_not_copied(wire: Any) -> None:
    large = b"x" * (APART_BYTES + 1)
    for data in (b"a", large, b"b"):
        wire._adapter_emit_data(data)
    await asyncio.sleep(0)

    assert wire._transport.written == [b"a", large, b"b"]
    assert wire._transport.written[1] is large


async def test_what_is_not_written_when_the_connection_breaks_is_dropped(wire: Any) -> None:
    wire._adapter_emit_data(b"a")
    wire._transport = None
    await asyncio.sleep(0)

    assert wire._gathered == []
