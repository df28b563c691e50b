"""The project: settings, manifests, secrets, and whether the handlers can be loaded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from asya.codes import TYPES, Code
from asya.errors import UsageError
from asya.local.doctor.checks import Check, Seen
from asya.local.doctor.set_up import SetUp
from asya.local.environment import read_dotenv, replica_environment

if TYPE_CHECKING:
    from asya.manifest import AsyncActor

HANDLER_S: Final = 20.0
"""How long a handler's module may take to be imported here; large libraries take seconds."""

RUNTIME_S: Final = 5.0
OUTPUT_MAX: Final = 300
"""Characters of what a probe printed that are shown when it says nothing else."""


def check_settings(setup: SetUp) -> Seen:
    """`asya.yaml`, variables and flags."""
    for problem in setup.settings_problems:
        yield "fail", problem, problem.code
    if not setup.settings_problems:
        at = setup.settings
        yield "ok", f"namespace {at.namespace}, data in {at.data}"


def check_manifests(setup: SetUp) -> Seen:
    """Manifests, with what is allowed there and may surprise."""
    problems = setup.manifest_problems
    if problems and not setup.named and all(p.code is Code.MANIFEST_MISSING for p in problems):
        yield "skip", "there are none here; asya doctor PATH names some"
        return
    for problem in problems:
        yield "fail", problem, problem.code
    if setup.manifests is None:
        return
    for warning in setup.manifests.warnings:
        yield "warn", warning
    actors, flows = len(setup.manifests.actors), len(setup.manifests.flows)
    plural = {1: ""}
    yield "ok", f"{actors} actor{plural.get(actors, 's')}, {flows} flow{plural.get(flows, 's')}"


def check_secrets(setup: SetUp) -> Seen:
    """Secrets and `.env` files."""
    if not setup.actors:
        yield "skip", "there are no actors"
        return
    asked = 0
    failed = False
    for actor in setup.actors:
        asked += sum(len(secret.keys) for secret in actor.spec.secret_refs)
        try:
            _environment(actor, setup)
        except UsageError as error:
            failed = True
            for line in str(error).splitlines():
                yield "fail", line, error.code
    if not failed:
        yield "ok", f"all {asked} are there" if asked else "none is asked for"


def check_runtime(setup: SetUp) -> Seen:
    """Whether the interpreter of the replicas can import the runtime."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import asya.runtime.serve"],
        env={key: value for key, value in setup.environ.items() if not key.startswith("ASYA_")},
        capture_output=True, text=True, timeout=RUNTIME_S, check=False,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        text = f"{sys.executable} cannot import asya.runtime: {last}; install asya for it"
        yield "fail", text, Code.PYTHON_UNUSABLE
    else:
        yield "ok", f"replicas run on {sys.executable}"


def handler_checks(setup: SetUp) -> list[Check]:
    """One check per actor: its handler is loaded in a process of its own."""
    return [
        Check("handler", partial(check_handler, actor), HANDLER_S + 1) for actor in setup.actors
    ]


def check_handler(actor: AsyncActor, setup: SetUp) -> Seen:
    """Whether a handler's module can be imported, and has the handler."""
    try:
        environment = _environment(actor, setup)
    except UsageError:
        yield "skip", f"{actor.name}: its secrets are missing"
        return
    handler = actor.spec.handler
    command = [sys.executable, "-P", "-m", "asya.runtime.probe", handler, str(actor.folder)]
    code, said, printed = _run(command, actor.folder, environment)
    if code is None:
        text = f"{actor.name}: {handler} is not imported after {HANDLER_S:.0f} s"
        yield "warn", text, Code.HANDLER_SLOW
    elif said is None:
        last = printed.strip()[-OUTPUT_MAX:] or "it printed nothing"
        text = f"{actor.name}: importing {handler} ended its process (exit code {code}): {last}"
        yield "fail", text, Code.HANDLER_LOAD
    elif said["error"] is not None:
        error = said["error"]
        text = f"{actor.name}: {error['message']}"
        yield "fail", text, TYPES.get(error["type"], Code.HANDLER_LOAD)
    else:
        yield "ok", f"{actor.name}: {handler} can be loaded (Python {said['python']})"


def _environment(actor: AsyncActor, setup: SetUp) -> dict[str, str]:
    """What a replica of the actor would see."""
    dotenv = read_dotenv([actor.folder, setup.folder])
    return replica_environment(
        actor, setup.environ, dotenv, socket=Path("none"), path=[actor.folder]
    )


def _run(
    command: list[str], folder: Path, environment: Mapping[str, str]
) -> tuple[int | None, dict[str, Any] | None, str]:
    """Exit code (None: not in time), the line of JSON it said, and what else it printed."""
    with subprocess.Popen(
        command, cwd=folder, env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, errors="replace", start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, printed = process.communicate(timeout=HANDLER_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, None, ""
    try:
        return process.returncode, json.loads(out), printed
    except ValueError:
        return process.returncode, None, printed
