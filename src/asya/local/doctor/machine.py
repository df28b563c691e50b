"""The machine: Python, what is installed, the clock, limits."""

from __future__ import annotations

import importlib.util
import resource
import sys
import time
from datetime import UTC, datetime
from typing import Final

from asya.codes import Code
from asya.errors import how_to_install
from asya.local.doctor.checks import Seen
from asya.local.doctor.set_up import SetUp

PYTHON_MIN: Final = (3, 11)

EXTRAS: Final = {
    "nats": ("nats",),
    "gateway": ("jsonschema", "starlette", "uvicorn"),
    "local": ("dotenv", "psutil"),
}
"""Modules that a mesh on one machine cannot do without, by the extra that brings them."""

QUICKER: Final = ("uvloop", "httptools")
"""Modules that make it quicker; not every platform has them."""

FILES_FIXED: Final = 256
FILES_PER_REPLICA: Final = 4
"""Open files of the mesh itself, and of the supervisor for each replica: socket, pipe, log, spare."""

YEARS: Final = range(2024, 2100)
CLOCK_WATCHED_S: Final = 0.1
CLOCK_OFF_MAX_S: Final = 0.05
"""How long wall time and monotonic time are compared, and how far they may run apart in it."""


def check_python(setup: SetUp) -> Seen:
    """The interpreter of the mesh."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON_MIN:
        need = ".".join(map(str, PYTHON_MIN))
        yield "fail", f"{version} is too old; the mesh needs {need}", Code.PYTHON_UNUSABLE
    else:
        yield "ok", f"{version} ({sys.executable})"


def check_extras(setup: SetUp) -> Seen:
    """Packages that `pip install asya` alone does not bring."""
    missing = {
        extra: [name for name in names if importlib.util.find_spec(name) is None]
        for extra, names in EXTRAS.items()
    }
    for extra, names in missing.items():
        if names:
            text = f"{', '.join(names)} missing; {how_to_install(extra)}"
            yield "fail", text, Code.EXTRA_MISSING
    slower = [name for name in QUICKER if importlib.util.find_spec(name) is None]
    if slower:
        yield "warn", f"{', '.join(slower)} missing: works, and is slower", Code.EXTRA_MISSING
    elif not any(missing.values()):
        yield "ok", f"{', '.join(EXTRAS)} are installed"


def check_files(setup: SetUp) -> Seen:
    """The limit on open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    replicas = sum(
        actor.spec.scaling.max_replica_count if actor.spec.scaling.enabled else actor.spec.replicas
        for actor in setup.actors
    )
    needed = FILES_FIXED + FILES_PER_REPLICA * replicas
    # `asya up` raises the soft limit by itself, as far as the hard one lets it.
    allowed = hard if hard != resource.RLIM_INFINITY else max(soft, needed)
    if allowed < needed:
        text = f"{allowed} open files are allowed, {needed} may be needed; ulimit -n {needed}"
        yield "fail", text, Code.FILES_LIMIT
    else:
        yield "ok", f"{allowed} open files are allowed, {needed} may be needed"


def check_clock(setup: SetUp) -> Seen:
    """Wall time: a year that can be, and running as monotonic time does."""
    wall, steady = time.time(), time.monotonic()
    time.sleep(CLOCK_WATCHED_S)
    apart = (time.time() - wall) - (time.monotonic() - steady)
    now = datetime.now(UTC)
    if now.year not in YEARS:
        text = f"the year is {now.year}; turn time synchronisation on"
        yield "fail", text, Code.CLOCK_WRONG
    elif abs(apart) > CLOCK_OFF_MAX_S:
        text = f"wall time jumped by {apart:+.2f} s while it was watched; deadlines will be off"
        yield "fail", text, Code.CLOCK_WRONG
    else:
        yield "ok", f"{now:%Y-%m-%d %H:%M:%S} UTC"
