"""What is wrong with a set-up, and the remedy: the checks behind `asya doctor`.

A check is a small function that looks and changes nothing. It is a row in the table of `examine`,
gets a `SetUp`, and gives findings; libraries that may be missing are imported inside of it. Every
check is bounded in time, and one that fails or hangs is a finding like any other.
"""

from asya.local.doctor.checks import Check, Finding, run
from asya.local.doctor.set_up import SetUp
from asya.local.doctor.table import examine

__all__ = ["Check", "Finding", "SetUp", "examine", "run"]
