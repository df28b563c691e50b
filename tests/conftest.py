"""The table of the transports' contract, which a run of its tests writes into the docs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asya.testing.contract_table import ContractTable

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
