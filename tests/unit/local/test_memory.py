"""Big buffers are returned to the system, seen from outside in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
import sys
from asya.local.memory import return_big_buffers

def rss():
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * 4096

if sys.argv[1] == "yes":
    assert return_big_buffers()
before = rss()
kept = []
for _ in range(3):
    buffers = []
    for _ in range(4):
        buffers.append(bytearray(b"x") * 20_000_000)
        kept.append(bytearray(b"x") * 100_000)
    buffers.clear()
print(rss() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_what_was_freed_is_returned() -> Any:
    def grown(wanted: str) -> int:
        run = [sys.executable, "-c", PROGRAM, wanted]
        return int(subprocess.run(run, capture_output=True, check=True).stdout)

    assert grown("yes") < 5_000_000
    assert grown("no") > 20_000_000
