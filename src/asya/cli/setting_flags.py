"""One option per setting, made from the table of settings, for the commands that read settings.

Called by `asya up` and `asya doctor`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from asya import settings


def takes_settings(function: Callable[..., None]) -> Callable[..., None]:
    """A command that has the options of `function`, and one for each setting.

    Args:
        function: Its first parameter gets what `settings.read` takes as flags: the texts that were
            typed, None where an option was not given.
    """
    flags = list(settings.flags())

    @functools.wraps(function)
    def command(*args: Any, **given: Any) -> None:
        typed = {flag.attribute: given.pop(flag.attribute) for flag in flags}
        function(typed, *args, **given)

    signature = inspect.signature(function, eval_str=True)
    own = list(signature.parameters.values())[1:]
    made = signature.replace(parameters=[*own, *map(_parameter, flags)])
    command.__signature__ = made  # type: ignore[attr-defined]  # what `inspect` looks at first
    return command


def _parameter(flag: settings.Flag) -> inspect.Parameter:
    text = flag.text.replace("[", r"\[")  # Typer would read `asya[local]` as markup
    if flag.metavar:
        kind: Any = str | None
        option = typer.Option(flag.flag, metavar=flag.metavar, help=text)
    else:
        kind = bool | None
        both = f"{flag.flag}/--no-{flag.flag.removeprefix('--')}"
        option = typer.Option(both, help=text)
    return inspect.Parameter(
        flag.attribute,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind, option],
    )
