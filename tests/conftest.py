"""What all tests share: signals as in a terminal, and the table of the transports' contract."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests.support.contract_table import ContractTable
from tests.support.pubsub import ran_on

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts background jobs with SIGINT ignored, and every child would inherit that: tests
    # that interrupt a process would wait for ever.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
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
