import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asya.durations import DURATION_MAX_S, DURATION_PATTERN, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0.0),
        ("500ms", 0.5),
        ("30s", 30.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("1m1m", 120.0),
        ("100us", 0.0001),
        ("100\u00b5s", 0.0001),
        ("100\u03bcs", 0.0001),
        ("1ns", 1e-9),
        ("0.9ns", 0.0),
        ("168h", 604800.0),
        ("2562047h", 2562047 * 3600.0),
    ],
)
def test_go_style_texts_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", " ", "s", "1", "0", "1 s", "-1s", "+1s", "1S", "1d", "1h-2m", "1s ", "1s\n", ".s", "1e3s"],
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match='expected a duration such as "500ms"'):
        parse_duration(text)


@pytest.mark.parametrize("text", ["9" * 60 + "h", "2562048h", "9" * 100 + "s"])
def test_more_than_292_years_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(text)


def test_a_number_without_unit_gets_a_hint() -> None:
    with pytest.raises(ValueError, match='write "30s" for seconds'):
        parse_duration("30")
    bare: Any = 30
    with pytest.raises(ValueError, match='got the number 30; write the unit, for example "30s"'):
        parse_duration(bare)


@pytest.mark.parametrize("value", [None, True, [], {}, b"30s"])
def test_other_types_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (1, "1s"),
        (60, "1m"),
        (3600, "1h"),
        (5400, "1h30m"),
        (3601.25, "1h1.25s"),
        (0.5, "500ms"),
        (0.0005, "500us"),
        (1e-9, "1ns"),
        (604800, "168h"),
    ],
)
def test_durations_are_written_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), DURATION_MAX_S * 2])
def test_what_is_no_duration_is_not_written(seconds: float) -> None:
    with pytest.raises(ValueError, match="no duration"):
        format_duration(seconds)


@given(st.integers(0, 2**52))
def test_every_nanosecond_comes_back(nanoseconds: int) -> None:
    seconds = nanoseconds / 10**9
    text = format_duration(seconds)
    assert parse_duration(text) == seconds
    assert re.match(DURATION_PATTERN, text)


@given(st.floats(0, DURATION_MAX_S))
def test_any_number_comes_back_to_the_nanosecond(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-15, abs=1e-9)


@given(
    st.lists(
        st.tuples(st.decimals(0, 999, places=3).map(str), st.sampled_from(["ms", "s", "m", "h"])),
        min_size=1,
        max_size=4,
    )
)
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[Any, ...]]) -> None:
    text = "".join(number + unit for number, unit in parts)
    alone = sum(parse_duration(number + unit) for number, unit in parts)
    assert parse_duration(text) == pytest.approx(alone)


@given(st.text(max_size=20))
def test_the_published_pattern_says_what_is_read(text: str) -> None:
    try:
        parse_duration(text)
    except ValueError:
        assert re.fullmatch(DURATION_PATTERN, text) is None
    else:
        assert re.fullmatch(DURATION_PATTERN, text)
