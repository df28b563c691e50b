"""The table of checks, in the order in which their findings are shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from asya.local.doctor import brokers, folder, machine, project
from asya.local.doctor.checks import Check, Finding, run
from asya.local.doctor.set_up import SetUp

CHECKS: Final = (
    Check("python", machine.look_at_python),
    Check("runtime", project.look_at_runtime, project.RUNTIME_S + 1),
    Check("extras", machine.look_at_extras),
    Check("clock", machine.look_at_clock),
    Check("files", machine.look_at_files),
    Check("settings", project.look_at_settings),
    Check("data", folder.look_at_data),
    Check("file system", folder.look_at_file_system),
    Check("space", folder.look_at_space),
    Check("blobs", folder.look_at_blobs),
    Check("mesh", folder.look_at_mesh),
    Check("leftovers", folder.look_at_leftovers),
    Check("ports", folder.look_at_ports),
    Check("nats-server", brokers.look_at_program),
    Check("broker", brokers.look_at_broker, brokers.BROKERS_S),
    Check("manifests", project.look_at_manifests),
    Check("secrets", project.look_at_secrets),
)
"""All but those of the handlers, of which there is one per actor."""


def examine(setup: SetUp, *, handlers: bool = True) -> Iterator[Finding]:
    """Run all checks; `handlers` says whether the user's modules are imported, too."""
    rows = [*CHECKS, *(project.handler_checks(setup) if handlers else ())]
    return run(rows, setup)
