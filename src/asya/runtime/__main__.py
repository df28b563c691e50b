"""The runtime's command: `python3 -m asya.runtime`, or the zipapp.

Without arguments it is a replica, told by `ASYA_SOCKET`, `ASYA_HANDLER`, `ASYA_ACTOR`,
`ASYA_CONCURRENCY`, `ASYA_TOKEN` and `ASYA_PATH`. With `--once` it runs one payload by hand. The
environment is read here and nowhere else. Exit codes: 0 told to end, 1 no sidecar (or `--once`
failed), 2 wrong use, 3 the handler cannot be loaded, 4 the sidecar is gone.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Mapping, Optional

    from asya.runtime.serve import Options

CONCURRENCY_MAX = 10_000


def main(arguments: Optional[List[str]] = None, environ: Optional[Mapping[str, str]] = None) -> int:
    """Run the command; gives back the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    environ = os.environ if environ is None else environ
    if arguments:
        return _with_arguments(arguments, environ)
    from asya.runtime.serve import serve

    try:
        options = _options(environ)
    except ValueError as error:
        print(f"asya runtime: {error}", file=sys.stderr)
        return 2
    if environ.get("ASYA_FORKS"):
        from asya.runtime.template import Template, leave

        if not Template(options, int(os.environ.pop("ASYA_FORKS"))).run():
            leave()
    return serve(options)


def _options(environ: Mapping[str, str]) -> Options:
    from asya.runtime.serve import Options

    for name in ("ASYA_SOCKET", "ASYA_HANDLER"):
        if not environ.get(name):
            raise ValueError(f"{name} is not set; see --help for running a handler by hand")
    said = environ.get("ASYA_CONCURRENCY") or "1"
    if not (said.isascii() and said.isdigit() and 1 <= int(said) <= CONCURRENCY_MAX):
        raise ValueError(
            f"ASYA_CONCURRENCY is {said!r}; it must be a number from 1 to {CONCURRENCY_MAX}"
        )
    return Options(
        environ["ASYA_SOCKET"],
        environ["ASYA_HANDLER"],
        actor=environ.get("ASYA_ACTOR", ""),
        concurrency=int(said),
        token=environ.get("ASYA_TOKEN", ""),
        path=_folders(environ),
        tells_files=environ.get("ASYA_FILES") == "1",
    )


def _folders(environ: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(folder for folder in environ.get("ASYA_PATH", "").split(os.pathsep) if folder)


def _with_arguments(arguments: List[str], environ: Mapping[str, str]) -> int:
    import argparse

    parser = argparse.ArgumentParser(
        prog="python3 -m asya.runtime",
        description="Drives a handler. Without --once it is a replica, set up by ASYA_* variables.",
    )
    parser.add_argument(
        "--once",
        nargs="?",
        const="-",
        metavar="JSON",
        help="run this payload through the handler (- or nothing: read it from stdin); frames are "
        "JSON lines on stdout",
    )
    parser.add_argument(
        "--case",
        metavar="FILE",
        help="run the envelope of this file through the handler; stdin stays the terminal's",
    )
    parser.add_argument(
        "--debug", action="store_true", help="with --case: the debugger, where the handler raised"
    )
    parser.add_argument(
        "--handler",
        default=environ.get("ASYA_HANDLER", ""),
        help="module.function or module.Class.method (ASYA_HANDLER)",
    )
    parser.add_argument("--version", action="version", version=_version())
    said = parser.parse_args(arguments)
    if (said.once is None) == (said.case is None):
        parser.error("--once or --case is needed, one of them; a replica takes no arguments")
    if not said.handler:
        parser.error("--handler is needed, or ASYA_HANDLER")
    from asya.runtime.once import run_case, run_once

    if said.case is not None:
        actor = environ.get("ASYA_ACTOR", "")
        return run_case(said.case, said.handler, _folders(environ), actor, debug=said.debug)
    return run_once(said.once, said.handler, _folders(environ), environ.get("ASYA_ACTOR", ""))


def _version() -> str:
    import asya

    return f"asya runtime {asya.__version__}"


if __name__ == "__main__":
    sys.exit(main())
