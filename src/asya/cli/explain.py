"""`asya explain`: the page of an error's code, without a network."""

from __future__ import annotations

import json
import sys
import textwrap
from dataclasses import asdict
from typing import Annotated, Final

import typer

from asya.codes import Code
from asya.error_pages import RANGES, Page, pages
from asya.errors import UsageError, nearest

WIDTH: Final = 88


def explain(
    codes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CODE]…", help="Such as ASYA-1105 or 1105; by default all codes."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Explain an error code with cause, example and remedy."""
    found = [page(each) for each in codes or ()]
    if as_json:
        shown = [asdict(each) for each in found or pages().values()]
        print(json.dumps(shown, ensure_ascii=False, indent=2))
    elif found:
        print("\n\n".join(map(text, found)))
    else:
        print(overview())


def page(given: str) -> Page:
    """The page of a code as it was typed: `ASYA-1105`, `asya-1105` or `1105`.

    Raises:
        UsageError: There is no such code; the nearest is given.
    """
    name = given.strip().upper()
    name = f"ASYA-{name}" if name.isdigit() else name
    try:
        return pages()[Code(name)]
    except ValueError:
        close = nearest(name, map(str, Code))
        hint = f"did you mean {close}?" if close else "`asya explain` lists them"
        raise UsageError(f"there is no code {given}; {hint}", code=Code.CODE_UNKNOWN) from None


def text(found: Page) -> str:
    """A page for a terminal; a code in bold where it is one."""
    bold, plain = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() else ("", "")
    return "\n".join(
        [
            f"{bold}{found.code}: {found.title}{plain}",
            "",
            textwrap.fill(found.cause, WIDTH),
            "",
            f"{bold}Example{plain}",
            "",
            textwrap.indent(found.example, "    "),
            "",
            f"{bold}Remedy{plain}",
            "",
            textwrap.fill(found.remedy, WIDTH, break_long_words=False, break_on_hyphens=False),
        ]
    )


def overview() -> str:
    """All codes with their titles, by what they are about."""
    lines: list[str] = []
    for digit, about in RANGES.items():
        lines += [f"{about}:", ""]
        lines += [
            f"  {each.code}  {each.title}"
            for each in pages().values()
            if each.code.startswith(f"ASYA-{digit}")
        ]
        lines.append("")
    return "\n".join(lines).rstrip()
