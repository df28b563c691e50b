"""Runs checks in parallel, each within its time limit, and yields findings in the order of the checks."""

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
"""Checks that run at a time; most of them wait."""

State = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Finding:
    """What a check found; one line.

    Attributes:
        check: The check's name.
        state: `ok`, `warn` (allowed, but may surprise), `fail`, or `skip` (nothing to check).
        text: What was seen; for `warn` and `fail` also the remedy.
        code: The error code whose page says more, for `warn` and `fail`.
    """

    check: str
    state: State
    text: str
    code: Code | None = None


Seen = Iterator[tuple[State, str] | tuple[State, str, Code]]
"""What a check yields: a state, a text, and a code for what is wrong."""

Probe = Callable[[SetUp], Seen]


class Check(NamedTuple):
    """A row of the table: the name, the function, and its time."""

    name: str
    probe: Probe
    limit_s: float = LIMIT_S


def run(checks: Sequence[Check], setup: SetUp) -> Iterator[Finding]:
    """Findings in the order of the checks, each as soon as it is known."""
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
    thread = threading.Thread(target=lambda: found.extend(_probe(check, setup)), daemon=True)
    thread.start()
    thread.join(check.limit_s)
    if thread.is_alive():
        return [Finding(check.name, "fail", f"gave no answer within {check.limit_s:g} s")]
    return found


def _probe(check: Check, setup: SetUp) -> list[Finding]:
    try:
        return [Finding(check.name, *found) for found in check.probe(setup)]
    except ImportError as error:
        return [Finding(check.name, "skip", f"needs {error.name}, which is not installed")]
    except AsyaError as error:
        return [Finding(check.name, "fail", str(one), one.code) for one in error.complaints()]
    except Exception as error:
        text = f"the check itself failed: {type(error).__name__}: {error}"
        return [Finding(check.name, "fail", text, Code.INTERNAL)]
