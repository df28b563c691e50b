"""Half a minute of random deaths on each broker that persists; `make soak` runs longer ones."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.rabbitmq import find_programs

SCRIPT = Path(__file__).parent / "soak.py"


def soak(*arguments: str) -> Any:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("ASYA_")}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_nothing_is_lost_while_processes_die_at_random() -> None:
    result = soak("--seconds", "30")
    assert result["envelopes"] == 2000
    assert {"broker", "mesh"} <= set(result["kills"])
    assert sum(result["kills"].values()) >= 3


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_nothing_is_lost_on_rabbitmq() -> None:
    if find_programs() is None and os.environ.get("CI") != "true":
        pytest.skip("there is no rabbitmq-server; apt-get install rabbitmq-server")
    result = soak("--seconds", "15", "--envelopes", "800", "--transport", "rabbitmq")
    assert result["envelopes"] == 800
    assert {"broker", "mesh"} <= set(result["kills"])
