"""The checks behind `asya doctor`: what is wrong with a set-up, and the remedy.

A check is a small function that reads and changes nothing. It is a row in the table of `examine`,
takes a `SetUp` and yields findings. It imports libraries that may be missing inside of the function.
Every check has a time limit, and one that fails or hangs becomes a finding, too.
"""

from asya.local.doctor.checks import Check, Finding, run
from asya.local.doctor.set_up import SetUp
from asya.local.doctor.table import examine

__all__ = ["Check", "Finding", "SetUp", "examine", "run"]
