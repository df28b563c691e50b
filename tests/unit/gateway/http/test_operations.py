"""The table of operations: what it names exists, and nothing stands in it twice."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

from asya.gateway.app import handlers
from asya.gateway.http.operations import COMMON_PROBLEMS, OPERATIONS
from asya.gateway.http.problems import PROBLEM_TYPES
from asya.gateway.http.requests import PATH_PARAMETERS
from asya.tasks.service import TaskService
from asya.telemetry.metrics import Metrics


def test_every_problem_is_one() -> None:
    named = {name for each in OPERATIONS for name in each.problems} | set(COMMON_PROBLEMS)
    assert named <= set(PROBLEM_TYPES)


def test_every_part_of_a_path_is_declared() -> None:
    parts = {name for each in OPERATIONS for name in re.findall(r"{(\w+)}", each.path)}
    assert parts == set(PATH_PARAMETERS)


def test_names_and_routes_are_unique() -> None:
    assert len({each.name for each in OPERATIONS}) == len(OPERATIONS)
    assert len({(each.method, each.path) for each in OPERATIONS}) == len(OPERATIONS)


def test_probes_are_not_strict() -> None:
    lenient = {each.path for each in OPERATIONS if not each.strict}
    assert lenient == {"/healthz", "/readyz", "/metrics", "/openapi.json", "/"}


async def test_every_operation_has_a_handler_and_every_handler_an_operation(
    service: TaskService, mesh: Any
) -> None:
    settings: Any = SimpleNamespace(body_max_bytes=1 << 20, streams_max=5)
    made = handlers(service, mesh, settings, Metrics("default"))
    assert set(made) == {each.name for each in OPERATIONS}
