"""What a person sees of an envelope's way."""

import io

from asya.cli.client import ServerEvent
from asya.cli.display import TextDisplay

WAY = [
    ServerEvent("1", "status", {"status": "pending"}),
    ServerEvent(
        "2", "progress", {"progress": 0, "actor": "a", "n": 0, "attempt": 1, "state": "running"}
    ),
    ServerEvent("", "fly", {"data": {"text": "one "}}),
    ServerEvent("", "fly", {"data": {"text": "two"}}),
    ServerEvent("", "fly", {"data": {"n": 1}}),
    ServerEvent(
        "3",
        "progress",
        {
            "progress": 0,
            "actor": "a",
            "n": 0,
            "attempt": 1,
            "state": "retrying",
            "error": {"type": "ValueError", "message": "no text"},
        },
    ),
    ServerEvent(
        "4", "progress", {"progress": 0, "actor": "a", "n": 0, "attempt": 2, "state": "running"}
    ),
    ServerEvent(
        "5", "progress", {"progress": 99, "actor": "a", "n": 0, "attempt": 2, "state": "succeeded"}
    ),
    ServerEvent("6", "status", {"status": "succeeded"}),
]


def shown(*, terminal: bool) -> str:
    out = io.StringIO()
    display = TextDisplay(out, terminal=terminal)
    for event in WAY:
        display.show(event)
    display.close()
    return out.getvalue()


def test_away_from_a_terminal_every_change_is_a_plain_line() -> None:
    assert shown(terminal=False).splitlines() == [
        "  0 %  … a",
        'one two{"n": 1}',
        "  0 %  ↻ a, retrying: ValueError: no text",
        "  0 %  … a, attempt 2",
        " 99 %  ✓ a, attempt 2",
        "succeeded",
    ]


def test_on_a_terminal_what_runs_is_rewritten_and_streamed_text_stays() -> None:
    text = shown(terminal=True)
    assert "… a\r\x1b[K" in text
    assert "one two" in text
    assert text.endswith("\x1b[32msucceeded\x1b[0m\n")


def test_a_line_that_streamed_text_left_open_is_closed() -> None:
    out = io.StringIO()
    display = TextDisplay(out, terminal=False)
    display.show(ServerEvent("", "fly", {"data": {"text": "half a line"}}))
    display.close()
    assert out.getvalue() == "half a line\n"


def test_what_runs_is_shown_again_when_news_of_another_arrives_late() -> None:
    out = io.StringIO()
    display = TextDisplay(out, terminal=True)
    hop = {"progress": 50, "attempt": 1}
    display.show(ServerEvent("1", "progress", hop | {"actor": "a", "n": 0, "state": "running"}))
    display.show(ServerEvent("2", "progress", hop | {"actor": "b", "n": 1, "state": "running"}))
    display.show(ServerEvent("3", "progress", hop | {"actor": "a", "n": 0, "state": "succeeded"}))
    assert out.getvalue().endswith("✓ a\x1b[0m\n 50 %  … b")


def test_one_that_stands_still_is_told() -> None:
    out = io.StringIO()
    data = {"id": "e", "state": "running", "actor": "a", "since": "noon", "usual_s": 0.1}
    TextDisplay(out, terminal=False).show(ServerEvent("7", "stuck", data))
    assert out.getvalue() == "       ! running at a since noon, far longer than usual; asya why e\n"
