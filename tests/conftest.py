"""The table of the transports' contract, which a run of its tests writes into the docs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.contract_table import ContractTable
from tests.support.pubsub import ran_on

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    reference = ROOT / "docs" / "reference"
    table = ContractTable(
        config,
        folder=ROOT / "tests" / "contract",
        results=reference / "transport-contract.json",
        page=reference / "transport-contract.md",
        strict=os.environ.get("CI") == "true",
    )
    config.pluginmanager.register(table, "transport-contract-table")


def pytest_report_header() -> str:
    return f"Pub/Sub: {ran_on()}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = (
        each for kind in ("passed", "failed") for each in terminalreporter.stats.get(kind, [])
    )
    if any("test_pubsub" in each.nodeid and "contract" in each.nodeid for each in reports):
        terminalreporter.write_line(f"Pub/Sub: {ran_on()}")
