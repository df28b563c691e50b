"""The table of checks, in the order in which their findings are shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from asya.local.doctor import brokers, folder, machine, project
from asya.local.doctor.checks import Check, Finding, run
from asya.local.doctor.set_up import SetUp

CHECKS: Final = (
    Check("python", machine.check_python),
    Check("runtime", project.check_runtime, project.RUNTIME_S + 1),
    Check("extras", machine.check_extras),
    Check("clock", machine.check_clock),
    Check("files", machine.check_files),
    Check("settings", project.check_settings),
    Check("data", folder.check_data),
    Check("file system", folder.check_file_system),
    Check("space", folder.check_space),
    Check("blobs", folder.check_blobs),
    Check("mesh", folder.check_mesh),
    Check("leftovers", folder.check_leftovers),
    Check("ports", folder.check_ports),
    Check("nats-server", brokers.check_program),
    Check("broker", brokers.check_broker, brokers.BROKERS_S),
    Check("manifests", project.check_manifests),
    Check("secrets", project.check_secrets),
)
"""All checks except those of the handlers, which are one per actor."""


def examine(setup: SetUp, *, handlers: bool = True) -> Iterator[Finding]:
    """Run all checks; with `handlers` also those that import the user's modules."""
    rows = [*CHECKS, *(project.handler_checks(setup) if handlers else ())]
    return run(rows, setup)
