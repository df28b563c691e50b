"""Runs checks beside one another, each within its time, and gives what they found in their order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from asya.codes import Code
from asya.errors import AsyaError
from asya.local.doctor.set_up import SetUp

LIMIT_S: Final = 2.0
"""How long a check may take, unless its row says otherwise."""

AT_A_TIME: Final = 4
"""Checks that run beside one another; most of them wait."""

State = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Finding:
    """What a check found; one line.

    Attributes:
        check: The check's name.
        state: `ok`, `warn` (allowed, and may surprise), `fail`, or `skip` (nothing to look at).
        text: What was seen; where it is not well, with the remedy.
        code: The code whose page tells more, where something is not well.
    """

    check: str
    state: State
    text: str
    code: Code | None = None


Seen = Iterator[tuple[State, str] | tuple[State, str, Code]]
"""What a check gives: state and text, and the code of what is not well."""

Look = Callable[[SetUp], Seen]


class Check(NamedTuple):
    """A row of the table: the name, the function, and its time."""

    name: str
    look: Look
    limit_s: float = LIMIT_S


def run(checks: Sequence[Check], setup: SetUp) -> Iterator[Finding]:
    """What the checks found, in their order, as soon as it is known."""
    found: list[list[Finding]] = [[] for _ in checks]
    done = [threading.Event() for _ in checks]
    rows = iter(range(len(checks)))
    taking = threading.Lock()

    def work() -> None:
        while True:
            with taking:
                row = next(rows, None)
            if row is None:
                return
            found[row] = _within_its_time(checks[row], setup)
            done[row].set()

    for _ in range(min(AT_A_TIME, len(checks))):
        # Daemons: a check that hangs must not keep the process from its end.
        threading.Thread(target=work, daemon=True).start()
    for row, event in enumerate(done):
        event.wait()
        yield from found[row]


def _within_its_time(check: Check, setup: SetUp) -> list[Finding]:
    found: list[Finding] = []
    thread = threading.Thread(target=lambda: found.extend(_look(check, setup)), daemon=True)
    thread.start()
    thread.join(check.limit_s)
    if thread.is_alive():
        return [Finding(check.name, "fail", f"gave no answer within {check.limit_s:g} s")]
    return found


def _look(check: Check, setup: SetUp) -> list[Finding]:
    try:
        return [Finding(check.name, *found) for found in check.look(setup)]
    except ImportError as error:
        return [Finding(check.name, "skip", f"needs {error.name}, which is not installed")]
    except AsyaError as error:
        return [Finding(check.name, "fail", str(one), one.code) for one in error.complaints()]
    except Exception as error:
        text = f"cannot be looked at: {type(error).__name__}: {error}"
        return [Finding(check.name, "fail", text, Code.INTERNAL)]
