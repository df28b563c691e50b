"""Settings as options: what was typed reaches the command under the setting's name."""

from collections.abc import Callable
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from asya.cli.setting_flags import takes_settings


@pytest.fixture
def said() -> Callable[..., Any]:
    """Runs a command that takes settings; what it got."""

    def run(*arguments: str) -> list[tuple[Any, ...]] | str:
        got = []

        @takes_settings
        def command(flags: dict[str, Any], name: str = "none") -> None:
            """Do it."""
            got.append((name, {key: value for key, value in flags.items() if value is not None}))

        app = typer.Typer()
        app.command()(command)
        done = CliRunner().invoke(app, list(arguments))
        return got or done.output

    return run


def test_what_is_not_given_is_none(said: Callable[..., Any]) -> None:
    assert said() == [("none", {})]


def test_texts_go_through_as_they_were_typed(said: Callable[..., Any]) -> None:
    arguments = ["--payload-max", "2MiB", "--transport", "nats://here", "--name", "x"]
    wanted = {"payload_max_bytes": "2MiB", "transport_url": "nats://here"}
    assert said(*arguments) == [("x", wanted)]


@pytest.mark.parametrize(("flag", "value"), [("--insecure", True), ("--no-insecure", False)])
def test_a_switch_can_be_turned_both_ways(said: Callable[..., Any], flag: str, value: bool) -> None:
    assert said(flag) == [("none", {"insecure": value})]


def test_the_help_shows_brackets_as_they_are(said: Callable[..., Any]) -> None:
    assert "asya[local]" in said("--help").replace("\n", "")


def test_an_unknown_one_is_refused(said: Callable[..., Any]) -> None:
    assert "--prot" in said("--prot", "1")
