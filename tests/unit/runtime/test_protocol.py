"""Frames: what is packed is parsed, however the stream is cut, and nothing else is."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asya.runtime import protocol
from asya.runtime.protocol import FrameError, FrameParser, pack, pack_text, parse

texts = st.text(st.characters(exclude_categories=["Cs"]))
headers = st.dictionaries(texts.filter(lambda key: key != "parts"), texts | st.integers())


@given(st.lists(st.tuples(headers, st.lists(st.binary(max_size=60)))), st.integers(1, 50))
def test_frames_survive_any_cut_of_the_stream(frames: list[Any], step: int) -> None:
    stream = b"".join(pack(header, parts) for header, parts in frames)
    parser = FrameParser()

    found = []
    for at in range(0, len(stream), step):
        found += parser.feed(stream[at : at + step])

    sized = [
        ({**header, "parts": [len(part) for part in parts]} if parts else header, parts)
        for header, parts in frames
    ]
    assert found == sized


@given(
    st.lists(st.tuples(headers, st.lists(st.binary(max_size=60)))), st.integers(1, 50), st.data()
)
def test_long_frames_may_be_read_into_their_place(frames: list[Any], step: int, data: Any) -> None:
    stream = b"".join(pack(header, parts) for header, parts in frames)
    parser = FrameParser()

    found, at = [], 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "LONG", 20)
        while at < len(stream):
            room = parser.room()
            if room is None or data.draw(st.booleans()):
                found += parser.feed(stream[at : at + step])
                at += step
            else:
                count = min(len(room), step)
                room[:count] = stream[at : at + count]
                found += parser.filled(count)
                at += count

    assert [(header.get("parts", []), parts) for header, parts in found] == [
        ([len(part) for part in parts], parts) for _, parts in frames
    ]


def test_a_long_part_is_written_as_it_is() -> None:
    long, short = b"x" * (protocol.LONG + 1), b"x"

    head, part = protocol.pack_pieces(b'{"parts":[65537]}', long)

    assert part is long
    assert parse((head + part)[4:]) == ({"parts": [65537]}, [long])
    assert protocol.pack_pieces(b'{"parts":[1]}', short) == (pack_text(b'{"parts":[1]}', (short,)),)


@given(st.binary(max_size=200))
def test_any_bytes_give_frames_or_a_frame_error(data: bytes) -> None:
    try:
        for header, parts in FrameParser().feed(data):
            assert isinstance(header, dict)
            assert isinstance(parts, list)
    except FrameError:
        pass


@pytest.mark.parametrize(
    "body",
    [
        b"\0\0\0\x09{}",
        b"\0\0\0\x02[]",
        b"\0\0\0\x02{]",
        b"\0\0\0\x02{}more",
        b'\0\0\0\x0c{"parts":[9]}',
        b'\0\0\0\x0f{"parts":["1"]}x',
        b'\0\0\0\x0e{"parts":[-1]}x',
    ],
)
def test_lengths_that_do_not_add_up_are_no_frame(body: bytes) -> None:
    with pytest.raises(FrameError):
        parse(body)


def test_a_frame_over_the_limit_is_neither_made_nor_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "FRAME_MAX", 100)

    with pytest.raises(FrameError, match="100"):
        pack_text(b"{}", (b"x" * 100,))
    with pytest.raises(FrameError, match="101"):
        FrameParser().feed((101).to_bytes(4, "big"))


def test_a_lone_surrogate_in_a_header_does_not_break_the_frame() -> None:
    header, _ = parse(pack({"message": "a\ud800"})[4:])

    assert header == {"message": "a?"}
