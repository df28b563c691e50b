"""Half a minute of random deaths; `make soak` runs longer ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "soak.py"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_nothing_is_lost_while_processes_die_at_random():
    environ = {k: v for k, v in os.environ.items() if not k.startswith("ASYA_")}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--seconds", "30"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    result = json.loads(done.stdout)
    assert result["envelopes"] == 2000
    assert sum(result["kills"].values()) >= 3
