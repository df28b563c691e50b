"""Picks the command, runs it, and turns errors into one text and an exit code.

Only the module of the command that runs is imported: `asya --help` needs neither Typer nor any
broker or web library. A command is a plain function that Typer reads; it raises `AsyaError` for
what went wrong and `typer.Exit` for a result that is not a success. Called by the console script
`asya` and by `python -m asya`.

Exit codes: 0 done, 1 the envelope failed, 2 wrong use, 3 mesh not reachable, 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from asya import __version__
from asya.codes import Code
from asya.errors import AsyaError, MeshUnreachable, UsageError, how_to_install, nearest

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_INTERRUPTED: Final = 130


class Command(NamedTuple):
    """A row of the table.

    Attributes:
        target: Where the function is: `module:function`.
        summary: The first sentence of its docstring; a test holds the two together.
        typed: Typer reads the function's signature; else it is given the list of arguments.
    """

    target: str
    summary: str
    typed: bool = True


COMMANDS: Final = {
    "init": Command("asya.cli.init:init", "Create a small project in a new folder."),
    "up": Command("asya.cli.up:up", "Run the whole mesh on this machine."),
    "call": Command("asya.cli.call:call", "Send a payload, show the progress, print the result."),
    "send": Command("asya.cli.send:send", "Send a payload and print the envelope's id."),
    "watch": Command("asya.cli.watch:watch", "Follow an envelope to its end, print the result."),
    "cancel": Command("asya.cli.cancel:cancel", "Cancel an envelope and its children."),
    "schedules": Command(
        "asya.cli.schedules:schedules", "List the schedules, fire one now, suspend or resume it."
    ),
    "ps": Command("asya.cli.ps:ps", "List the running actors with their queues and replicas."),
    "top": Command("asya.cli.top:top", "Show queues, replicas, rates and times, live."),
    "why": Command("asya.cli.why:why", "Say why an envelope is where it is."),
    "trace": Command("asya.cli.trace:trace", "Show the hops of an envelope with their times."),
    "logs": Command("asya.cli.logs:logs", "Print the log of an actor."),
    "dead list": Command("asya.cli.dead:dead_list", "List dead letters by their error."),
    "dead show": Command("asya.cli.dead:dead_show", "Show one dead letter in full."),
    "dead retry": Command("asya.cli.dead:dead_retry", "Send dead letters again."),
    "dead purge": Command("asya.cli.dead:dead_purge", "Delete the payloads of dead letters."),
    "pull": Command("asya.cli.pull:pull", "Print an envelope as an actor received it."),
    "run": Command("asya.cli.run_case:run_case", "Run one handler by hand on an envelope."),
    "validate": Command("asya.cli.validate:validate", "Check manifests and settings."),
    "schema": Command("asya.cli.schema:schema", "Print the JSON Schema of a kind."),
    "doctor": Command(
        "asya.cli.doctor:doctor", "Check this set-up: each line passes or names the remedy."
    ),
    "explain": Command(
        "asya.cli.explain:explain", "Explain an error code with cause, example and remedy."
    ),
    "runtime": Command("asya.cli.runtime:runtime", "Run one replica of an actor.", typed=False),
}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command that the arguments name, and exit the process."""
    sys.exit(run(sys.argv[1:] if argv is None else list(argv)))


def run(arguments: Sequence[str]) -> int:
    """Run the command that the arguments name.

    Returns:
        The exit code. The text of an error has been written to stderr.
    """
    try:
        code = _run(arguments)
        sys.stdout.flush()  # here, where a reader that went away can be dealt with
        return code
    except AsyaError as error:
        print(rendered(error), file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`asya ps | head`). Nothing may be written any more,
        # not even by the interpreter's flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def exit_code(error: AsyaError) -> int:
    """The exit code that tells of this error."""
    if isinstance(error, UsageError):
        return EXIT_USAGE
    if isinstance(error, MeshUnreachable):
        return EXIT_UNREACHABLE
    return EXIT_FAILED


def rendered(error: AsyaError) -> str:
    """What is printed of an error: each complaint with its code, then where to read on."""
    complaints = error.complaints()
    lines = [f"error {complaint.code}: {complaint}" for complaint in complaints]
    codes = list(dict.fromkeys(str(complaint.code) for complaint in complaints))
    place = codes[0] if len(codes) == 1 else "index"
    lines.append(f"  asya explain {' '.join(codes)}  (docs/reference/errors/{place}.md)")
    return "\n".join(lines)


def overview() -> str:
    """What `asya --help` prints."""
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "Usage: asya COMMAND [ARGUMENTS]…",
            "",
            "Asya runs plain Python functions as actors with durable queues.",
            "",
            "Commands:",
            *rows,
            "",
            "`asya COMMAND --help` explains one. `asya --version` prints the version.",
        ]
    )


def _run(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in {"--help", "-h", "help"}:
        print(overview())
        return 0 if arguments else EXIT_USAGE
    name = arguments[0]
    if name in {"--version", "-V"}:
        print(f"asya {__version__}")
        return 0
    name, rest = find(arguments)
    command = COMMANDS.get(name)
    if command is None:
        if _show_group(name):
            return 0 if rest[:1] in (["--help"], ["-h"]) else EXIT_USAGE
        close = nearest(name, COMMANDS)
        hint = f"did you mean {close}?" if close else "`asya --help` lists them."
        raise UsageError(f"{name!r} is not a command; {hint}", code=Code.COMMAND_UNKNOWN)
    if command.typed:
        return _invoke(name, load(command), rest)
    load(command)(list(rest))
    return 0


def find(arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The command's name, of one word or two, and its arguments."""
    two = " ".join(arguments[:2])
    return (two, arguments[2:]) if two in COMMANDS else (arguments[0], arguments[1:])


def _show_group(word: str) -> bool:
    """Print the commands that begin with a word; whether there are any."""
    group = {name: each for name, each in COMMANDS.items() if name.startswith(f"{word} ")}
    width = max(map(len, group), default=0)
    for name, command in group.items():
        print(f"asya {name:<{width}}  {command.summary}")
    return bool(group)


def load(command: Command) -> Callable[..., None]:
    """The function of a command; imports its module."""
    module, _, attribute = command.target.partition(":")
    function: Callable[..., None] = getattr(importlib.import_module(module), attribute)
    return function


def _invoke(name: str, function: Callable[..., None], arguments: Sequence[str]) -> int:
    import typer

    wrong: Any = typer.BadParameter.__base__  # every wrong use; Typer does not name it
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(function)
    try:
        # Not standalone: gives the code of `typer.Exit`, and raises what Typer would print.
        code = app(list(arguments), prog_name=f"asya {name}", standalone_mode=False)
    except wrong as error:
        text = error.format_message().rstrip(".")
        raise UsageError(f"{text}; `asya {name} --help` lists what there is") from error
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    except SystemExit as stop:
        code = stop.code
    return code if isinstance(code, int) else 0 if code is None else EXIT_FAILED


def _missing(error: ModuleNotFoundError) -> Exception:
    """What to do about a library that comes with an extra; others are somebody else's."""
    from asya.local.doctor.machine import EXTRAS

    library = (error.name or "").partition(".")[0]
    for extra, libraries in EXTRAS.items():
        if library in libraries:
            text = f"{library} is not installed; {how_to_install(extra)} brings it"
            return UsageError(text, code=Code.EXTRA_MISSING)
    return error
