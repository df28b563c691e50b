"""The page behind every code: cause, example, remedy. The one source of the docs and of `explain`.

One TOML file per first digit, one table per code. `docs/generate.py` makes the pages of
`docs/reference/errors` from them, and `asya explain` prints them without a network.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from asya.codes import Code

RANGES: Final = {
    "1": "Your input, and your machine",
    "2": "Envelopes that failed",
    "3": "Handlers and replicas",
    "4": "The broker",
    "5": "The stores",
    "6": "Requests that the gateway refuses",
    "9": "Bugs in Asya",
}
"""What a code's first digit says."""


@dataclass(frozen=True)
class Page:
    """What is known of a code; texts are Markdown of one paragraph.

    Attributes:
        code: The code.
        title: What happened, as a sentence without its dot.
        cause: Why.
        example: What is seen: lines of a terminal, or a JSON document.
        remedy: What to do.
    """

    code: Code
    title: str
    cause: str
    example: str
    remedy: str


@cache
def pages() -> dict[Code, Page]:
    """All pages, in the order of their codes.

    Raises:
        ValueError: A table is of no code, or not of the right form; a test keeps that from users.
    """
    found: dict[Code, Page] = {}
    for path in sorted(Path(__file__).parent.glob("*.toml")):
        for name, table in tomllib.loads(path.read_text("utf-8")).items():
            code = Code(name)
            if not name.startswith(f"ASYA-{path.name[0]}") or code in found:
                raise ValueError(f"{path.name}: {name} belongs elsewhere")
            texts = {key: value.strip("\n") for key, value in table.items()}
            found[code] = Page(code, **texts)
    return found
